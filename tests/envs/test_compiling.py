"""numba's compiling of robosuite: by one process, once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from envs.robosuite.compiling import compile_once


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("numba")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = ModuleType("robosuite")
    found.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "__init__.py").touch()
    return found


def test_one_compiles_and_the_others_wait(package: ModuleType) -> None:
    seen: list[str] = []

    def use() -> None:
        seen.append("begins")
        time.sleep(0.3)
        seen.append("ends")

    def worker() -> None:
        compile_once(package, use)
        seen.append("goes on")

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == ["begins", "ends", "goes on", "goes on", "goes on"]


def test_another_installation_or_place_of_numbas_files_compiles_again(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    for _ in range(2):
        compile_once(package, lambda: seen.append(1))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    compile_once(package, lambda: seen.append(2))
    other = ModuleType("robosuite")
    other.__file__ = str(tmp_path / "other.py")
    (tmp_path / "other.py").touch()
    compile_once(other, lambda: seen.append(3))
    assert seen == [1, 2, 3]


def test_what_failed_is_tried_again(package: ModuleType) -> None:
    def fails() -> None:
        raise ValueError("no such world")

    with pytest.raises(ValueError, match="no such world"):
        compile_once(package, fails)
    seen: list[int] = []
    compile_once(package, lambda: seen.append(1))
    assert seen == [1]


def test_without_a_place_for_the_note_each_compiles_for_itself(
    package: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    compile_once(package, lambda: pytest.fail("it must not be called"))
