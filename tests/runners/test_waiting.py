"""torch's OpenMP workers sleep while they wait, in everything that is started from here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.helpers.places import PROJECT

PARTS = ("", "runners", "runners/report", "benchmarks", "tools")
ENTRIES = sorted(
    path.relative_to(PROJECT).as_posix()
    for part in PARTS
    for path in (PROJECT / part).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
FIRST_IMPORT = """
import importlib.abc, os, runpy, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("torch found", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
"""


def output(code: str, **waiting: str) -> str:
    """What a fresh process prints, whose user has chosen nothing but `waiting`."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | waiting
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={**environment, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def start(entry: str) -> str:
    """Python that starts a file as its users do."""
    words = {"runners": ["multirun/nothing"], "tools": ["nothing", "nowhere"]}
    folder = entry.partition("/")[0]
    how = (
        f"run_module({entry[:-3].replace('/', '.')!r}"
        if folder == "runners"
        else f"run_path({str(PROJECT / entry)!r}"
    )
    argv = [entry, *words.get(folder, [])]
    return f"{FIRST_IMPORT}sys.argv = {argv}\nrunpy.{how}, run_name='__main__')"


def test_there_are_entry_points() -> None:
    assert {
        "run.py",
        "runners/report/__main__.py",
        "benchmarks/latency.py",
        "benchmarks/foreign.py",
    } <= set(ENTRIES)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "doctor" not in e and "mutate" not in e])
def test_an_entry_point_says_so_before_it_imports_torch(entry: str) -> None:
    said = output(start(entry))
    assert "torch found passive" in said or "torch found" not in said, said


@pytest.mark.parametrize(
    "package", ["runners.cli", "benchmarks.rounds", "runners.episodes.latency"]
)
def test_so_does_whoever_imports_them(package: str) -> None:
    said = output(f"{FIRST_IMPORT}import {package}\nimport torch")
    assert said == "torch found passive\n"


def test_what_the_user_says_counts() -> None:
    assert "torch found active" in output(start("run.py"), OMP_WAIT_POLICY="active")


WORKERS = """
import run
from pathlib import Path
from runners import cli
from envs import EnvPool
from tests.helpers.toy import ToyTask
if __name__ == "__main__":
    with EnvPool(ToyTask(), 1) as pool:
        pool.reset(0, 1)
        pool.wait()
        words = Path(f"/proc/{pool.pids()[0]}/environ").read_text().split(chr(0))
        print([word for word in words if word.startswith("OMP")])
"""


def test_workers_are_started_so() -> None:
    assert "OMP_WAIT_POLICY=passive" in output(WORKERS)
    assert "OMP_WAIT_POLICY=passive" in output(WORKERS.replace("from runners import cli\n", ""))
    assert "OMP_WAIT_POLICY=active" in output(WORKERS, OMP_WAIT_POLICY="active")
