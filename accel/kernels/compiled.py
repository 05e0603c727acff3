"""C code compiled by the machine's own compiler on first use, and kept for the next process.

A library is executed when it is loaded, so one from the cache is loaded only if nobody but this
user can have written it and if it has the size and the sha256 that stand in a file beside it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

VERSION_TIMEOUT_S, COMPILE_TIMEOUT_S = 20.0, 120.0
SHOWN_CHARACTERS = 400  # of what a compiler says when it fails
RECORD_BYTES = 200  # more than a sha256 and a size need


class CompileError(RuntimeError):
    """There is a compiler, and it did not make a library that can be used; one line."""


@dataclass(frozen=True)
class Code:
    """What becomes a library.

    Attributes:
        source: the file to compile.
        headers: what it includes.
        flags: of the compiler.
        symbols: functions that the library must have.
    """

    source: Path
    headers: tuple[Path, ...]
    flags: tuple[str, ...]
    symbols: tuple[str, ...]

    def content(self) -> bytes:
        return b"".join(path.read_bytes() for path in (self.source, *self.headers))


def load(code: Code) -> ctypes.CDLL:
    """The library from the cache, else compiled now and put there.

    The cache is $XDG_CACHE_HOME (or ~/.cache)/skipstep; a library's name is the hash of source,
    flags, compiler and CPU. A damaged library is made anew. Where the folder cannot be used, or
    somebody else could write to it, the library is made for this process alone. Both are warned of.

    Raises:
        FileNotFoundError: there is no compiler.
        CompileError: it does not work.
    """
    command = _compiler()
    if not has_compiler():
        raise FileNotFoundError("no C compiler (cc, or what $CC names)")
    version, content = _said([*command, "--version"], VERSION_TIMEOUT_S), code.content()
    key = hashlib.sha256(content + repr((code.flags, command[1:])).encode() + version)
    key.update(_cpu())
    name = f"{code.source.stem}-{key.hexdigest()[:16]}.so"
    try:
        path = _folder() / name
        found = _found(path, code.symbols)
        if found is not None:
            return found
        place = tempfile.TemporaryDirectory(dir=path.parent)  # a file can be renamed from there
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        log.warning("the C code is compiled for this process alone: %s", error)
        with tempfile.TemporaryDirectory() as private:
            return _opened(_make(code, command, Path(private) / name), code.symbols)
    with place as beside:
        made = _make(code, command, Path(beside) / name)
        loaded = _opened(made, code.symbols)  # from here on it is needed in memory only
        if code.content() == content:  # nobody edited the source meanwhile
            _publish(made, path)
        return loaded


def has_compiler() -> bool:
    return shutil.which(_compiler()[0]) is not None


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]  # CC="ccache gcc" is usual


def _said(command: list[str], timeout_s: float) -> bytes:
    """What a command prints; why it fails is in the error."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{shlex.join(command)} did not end within {timeout_s:g} s") from error
    if done.returncode:
        why = " ".join(done.stderr.decode(errors="replace").split())
        if len(why) > SHOWN_CHARACTERS:
            why = f"{why[:SHOWN_CHARACTERS]} ..."
        why = why or "it does not say why"
        raise CompileError(f"{shlex.join(command)} failed ({done.returncode}): {why}")
    return done.stdout


def _make(code: Code, command: list[str], made: Path) -> Path:
    words = [*command, *code.flags, "-shared", "-fPIC", "-o", str(made), str(code.source), "-lm"]
    _said(words, COMPILE_TIMEOUT_S)
    if not made.is_file():
        raise CompileError(f"{shlex.join(command)} ended well and wrote no library")
    return made


def _opened(path: Path, symbols: tuple[str, ...]) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise CompileError(f"{path} cannot be loaded: {error}") from error
    missing = [symbol for symbol in symbols if not hasattr(loaded, symbol)]
    if missing:
        raise CompileError(f"{path} has no function {', '.join(missing)}")
    return loaded


def _folder() -> Path:
    """The cache's folder, made if need be, which nobody but this user can write to.

    Raises:
        OSError: there is no such folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "skipstep"
    if not folder.is_absolute():
        raise NotADirectoryError(f"$XDG_CACHE_HOME must be an absolute path, got {base}")
    base.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    reason = _open_to_others(folder, stat.S_ISDIR, "folder")
    if reason:
        raise PermissionError(f"{folder} {reason}; its mode should be 700")
    return folder


def _open_to_others(path: Path, right_kind: Callable[[int], bool], kind: str) -> str | None:
    """Why somebody else may have written to a file or a folder; links are not followed."""
    found = path.lstat()
    if not right_kind(found.st_mode):
        return f"is not a {kind}" + (" but a link" if stat.S_ISLNK(found.st_mode) else "")
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to user {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def _record(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _found(path: Path, symbols: tuple[str, ...]) -> ctypes.CDLL | None:
    """The library in the cache; None where there is none that may be loaded."""
    if not os.path.lexists(path):
        return None
    reason = _damage(path)
    if reason is None:
        try:
            return _opened(path, symbols)
        except CompileError as error:
            reason = str(error)
    log.warning("%s; it is compiled anew", reason)
    return None


def _damage(path: Path) -> str | None:
    """Why a library in the cache must not be loaded, or None."""
    for file in (path, _record(path)):
        if not os.path.lexists(file):
            return f"{path} has no {file.name} beside it"
        reason = _open_to_others(file, stat.S_ISREG, "regular file")
        if reason:
            return f"{file} {reason}"
    try:
        with _record(path).open("rb") as stream:
            said = stream.read(RECORD_BYTES).decode(errors="replace").split()
        size = path.stat().st_size
        if len(said) != 2 or said[1] != str(size):
            return f"{path} is damaged: it has {size} bytes, not what {_record(path).name} says"
        if said[0] != hashlib.sha256(path.read_bytes()).hexdigest():
            return f"{path} is damaged: its sha256 is not what {_record(path).name} says"
    except OSError as error:
        return f"{path} cannot be read: {error}"
    return None


def _publish(made: Path, path: Path) -> None:
    """Move a library and its record to where the next process finds them.

    The record goes first: compilers give the same bytes again, so a process that comes in between
    finds either no library, or one that has this record.
    """
    content = made.read_bytes()
    record = made.with_name(_record(path).name)
    record.write_text(f"{hashlib.sha256(content).hexdigest()} {len(content)}\n")
    try:
        for file, place in ((record, _record(path)), (made, path)):
            file.chmod(0o700)  # whatever the umask is
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(file, place)
    except OSError as error:
        log.warning("the compiled C code could not be kept for the next process: %s", error)


def _cpu() -> bytes:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return repr((platform.machine(), platform.processor(), sorted(flags))).encode()
