"""The cache of compiled C code: what is damaged or not ours is never executed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.kernels import compiled, native
from accel.kernels.compiled import Code, CompileError, load

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no cc")
TEXT = '#include "seven.h"\nint seven(void) { return SEVEN; }\nint eight(void) { return 8; }\n'


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    """A small library of two functions, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    source, header = tmp_path / "seven.c", tmp_path / "seven.h"
    source.write_text(TEXT)
    header.write_text("#define SEVEN 7\n")
    return Code(source, (header,), ("-O1",), ("seven", "eight"))


def kept(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "cache/skipstep").glob("*.so")
    return found


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings since the last call."""
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return said


def test_it_is_compiled_once_and_found_again(
    code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o002)  # many distributions' default: new files are the group's to write
    try:
        assert load(code).seven() == 7
    finally:
        os.umask(before)
    assert (mode(tmp_path / "cache/skipstep"), mode(kept(tmp_path))) == (0o700, 0o700)
    assert len(list((tmp_path / "cache/skipstep").iterdir())) == 2  # no temporary folders
    monkeypatch.setattr(compiled, "_make", lambda *args: pytest.fail("compiled again"))
    assert load(code).eight() == 8
    assert heard(caplog) == []


def test_another_header_or_flag_is_another_library(code: Code, tmp_path: Path) -> None:
    load(code)
    code.headers[0].write_text("#define SEVEN 70\n")
    assert load(code).seven() == 70
    load(Code(code.source, code.headers, ("-O0",), code.symbols))
    assert len(list((tmp_path / "cache/skipstep").glob("*.so"))) == 3


def _flip(at: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        place = int(at * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "header only": lambda content: content[:64],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "zeroed tail": lambda content: content[:4096] + bytes(len(content) - 4096),
    "all zero": lambda content: bytes(len(content)),
    "garbage": lambda content: b"garbage",
    **{f"bit at {at:.0%}": _flip(at) for at in (0, 0.02, 0.3, 0.7, 1)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_made_anew(
    damage: str, code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(code)
    path = kept(tmp_path)
    whole = path.read_bytes()
    path.unlink()  # the loaded one must not change under this process
    path.write_bytes(DAMAGES[damage](whole))
    path.chmod(0o700)
    assert load(code).seven() == 7
    (said,) = heard(caplog)
    assert f"{path} is damaged: " in said
    assert "it is compiled anew" in said
    assert path.read_bytes() == whole
    load(code)
    assert heard(caplog) == []


RECORDS = {
    "gone": None,
    "empty": "",
    "a word": "x",
    "huge": "a 1" * 10**5,
    "another hash": f"{'0' * 64} SIZE",
    "another size": "HASH 3",
}


@pytest.mark.parametrize("record", RECORDS)
def test_a_damaged_record_counts_as_a_damaged_library(
    record: str, code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(code)
    path = kept(tmp_path)
    beside, text = path.with_suffix(".sha256"), RECORDS[record]
    right = beside.read_text()
    if text is None:
        beside.unlink()
    else:
        digest, size = right.split()
        beside.write_text(text.replace("SIZE", size).replace("HASH", digest))
    assert load(code).seven() == 7
    assert "compiled anew" in heard(caplog)[0]
    assert beside.read_text() == right


def planted(folder: Path, symbol: str) -> Path:
    """A library of somebody else that leaves a file behind when it is loaded."""
    source, made = folder / "planted.c", folder / "planted.so"
    source.write_text(
        "#include <stdio.h>\n"
        f"int {symbol}(void) {{ return 666; }}\nint eight(void) {{ return 666; }}\n"
        "__attribute__((constructor)) static void ran(void)"
        f' {{ fclose(fopen("{folder}/ran", "w")); }}\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


def _link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def _dangling(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other.with_name("nowhere"))


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _group(path: Path, other: Path) -> None:
    _replaced(path, other, 0o770)


def _everybody(path: Path, other: Path) -> None:
    _replaced(path, other, 0o702)


def _replaced(path: Path, other: Path, to: int) -> None:
    path.unlink()
    shutil.copy(other, path)
    path.chmod(to)


def _owner(path: Path, other: Path) -> None:
    _replaced(path, other, 0o700)
    os.chown(path, 12345, -1)


root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
NOT_OURS = {
    _link: "is not a regular file but a link",
    _dangling: "is not a regular file but a link",
    _folder: "is not a regular file",
    _pipe: "is not a regular file",
    _group: "can be written by others (mode 770)",
    _everybody: "can be written by others (mode 702)",
    _owner: "belongs to user 12345, not to user",
}


@pytest.mark.parametrize(
    "change", [pytest.param(c, marks=root if c is _owner else ()) for c in NOT_OURS]
)
@pytest.mark.parametrize("which", [".so", ".sha256"])
def test_a_file_that_others_can_write_is_not_executed(
    change: Callable[[Path, Path], None],
    which: str,
    code: Code,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load(code)
    path = kept(tmp_path).with_suffix(which)
    other = planted(tmp_path, "seven")
    change(path, other)
    assert load(code).seven() == 7
    assert not (tmp_path / "ran").exists()
    assert f"{path} {NOT_OURS[change]}" in heard(caplog)[0]
    assert other.stat().st_size > 5000  # what a link points to is not written to


def _writable(folder: Path, elsewhere: Path) -> None:
    folder.chmod(0o777)


def _writable_by_group(folder: Path, elsewhere: Path) -> None:
    folder.chmod(0o770)


def _linked(folder: Path, elsewhere: Path) -> None:
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _given_away(folder: Path, elsewhere: Path) -> None:
    os.chown(folder, 12345, -1)


def _file(folder: Path, elsewhere: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


FOLDERS = {
    _writable: "can be written by others (mode 777); its mode should be 700",
    _writable_by_group: "can be written by others (mode 770)",
    _linked: "is not a folder but a link",
    _given_away: "belongs to user 12345",
    _file: "is not a folder",
}


@pytest.mark.parametrize(
    "change", [pytest.param(c, marks=root if c is _given_away else ()) for c in FOLDERS]
)
def test_in_a_folder_of_others_nothing_is_executed_or_written(
    change: Callable[[Path, Path], None],
    code: Code,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load(code)
    path = kept(tmp_path)
    _replaced(path, planted(tmp_path, "seven"), 0o700)
    content = path.read_bytes()
    change(path.parent, tmp_path / "elsewhere")
    assert load(code).seven() == 7
    assert not (tmp_path / "ran").exists()
    (said,) = heard(caplog)
    assert "the C code is compiled for this process alone: " in said
    assert f"{path.parent} {FOLDERS[change]}" in said
    if change is not _file:
        assert path.read_bytes() == content


def test_a_relative_cache_is_not_used(
    code: Code,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert load(code).seven() == 7
    assert "$XDG_CACHE_HOME must be an absolute path, got here" in heard(caplog)[0]
    assert not (tmp_path / "here").exists()


def test_a_library_without_our_functions_is_made_anew(
    code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where its record is right."""
    load(code)
    path = kept(tmp_path)
    _replaced(path, planted(tmp_path, "other"), 0o700)
    made = path.with_name("made.so")
    shutil.copy(path, made)
    compiled._publish(made, path)
    assert load(code).seven() == 7
    assert f"{path} has no function seven; it is compiled anew" in heard(caplog)[0]
    lacking = Code(code.source, code.headers, code.flags, ("seven", "nine"))
    with pytest.raises(CompileError, match="has no function nine"):
        load(lacking)


def test_a_source_edited_while_it_is_compiled_is_not_kept(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = compiled._make

    def edited(*args: object) -> Path:
        code.headers[0].write_text("#define SEVEN 71\n")
        return make(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(compiled, "_make", edited)
    assert load(code).seven() == 71
    assert list((tmp_path / "cache/skipstep").iterdir()) == []


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "mycc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))


COMPILERS = {
    'if [ "$1" = --version ]; then exec sleep 9; fi': "mycc --version did not end within 0.2 s",
    'if [ "$1" != --version ]; then exec sleep 9; fi': "did not end within 0.3 s",
    "cat >/dev/null; exit 3": "mycc --version failed (3): it does not say why",
    'if [ "$1" != --version ]; then echo "no -O1\nhere" >&2; exit 1; fi': "failed (1): no -O1 here",
    "exit 0": "ended well and wrote no library",
    '[ "$1" = --version ] || echo x > "$5"': "cannot be loaded: ",
}


@pytest.mark.parametrize("script", COMPILERS)
def test_a_compiler_that_does_not_work_says_why(
    script: str, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, script)
    monkeypatch.setattr(compiled, "VERSION_TIMEOUT_S", 0.2 if "sleep" in script else 20)
    monkeypatch.setattr(compiled, "COMPILE_TIMEOUT_S", 0.3 if "sleep" in script else 20)
    with pytest.raises(CompileError) as refused:
        load(code)
    assert COMPILERS[script] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_source_that_does_not_compile_shows_the_compilers_words(
    code: Code, tmp_path: Path
) -> None:
    code.headers[0].write_text("#define SEVEN nonsense\n")
    with pytest.raises(CompileError, match=r"failed \(1\): .*nonsense"):
        load(code)
    assert list((tmp_path / "cache/skipstep").iterdir()) == []


def test_the_engine_warns_of_a_failing_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler(tmp_path, monkeypatch, "echo broken installation >&2; exit 1")
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        native.library.cache_clear()
    (said,) = heard(caplog)
    assert "its C code is not used: " in said
    assert "broken installation" in said


def test_two_processes_at_once_both_work(code: Code, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from accel.kernels.compiled import Code, load\n"
        f"print(load(Code(Path({str(code.source)!r}), (Path({str(code.headers[0])!r}),), "
        "('-O1',), ('seven',))).seven())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in started]
    assert outputs == [(b"7\n", b"")] * 3
    path = kept(tmp_path)
    assert compiled._damage(path) is None
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.stem}.sha256"}


def test_the_engine_itself_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real library, cut to the length that killed every start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FLAGS", tuple(f for f in native.FLAGS if f != "-O3"))
    for expected in (0, 1):
        native.library.cache_clear()
        try:
            assert native.library() is not None
        finally:
            native.library.cache_clear()
        assert len(heard(caplog)) == expected
        path = kept(tmp_path)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:20_000])
        path.chmod(0o700)
