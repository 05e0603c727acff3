"""What a command imports: nothing heavy where nothing runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runners.jobs.runner import Runner
from runners.registry import RUNNERS, runner_of
from tests.helpers.places import PROJECT

HEAVY = (
    *("torch", "torch._dynamo", "scipy", "scipy.stats"),
    *("mujoco", "robosuite", "gymnasium", "gymnasium_robotics", "wandb"),
)
IMPORTED = f"""
import sys
from runners.cli import run
code = run(sys.argv[1:])
print(code, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
CHECKED = f"""
import sys
from runners.cli import validate
(launch,) = validate(sys.argv[1:])
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
COMMANDS = {
    "--help": 0,
    "--cfg job task=lift cache=hash_ab": 0,
    "cache=hashab": 2,
    "cache=uniform cache.budget=3": 2,
    "-m cache=none,uniform task=lift,oven": 2,
    "cache=uniform +cache=bac": 2,
    "task.checkpoint=a=b": 2,
}


def imported(*words: str, code: str = IMPORTED) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("words", COMMANDS)
def test_what_runs_nothing_imports_nothing_heavy(words: str) -> None:
    assert imported(*words.split()) == f"{COMMANDS[words]} []"


def test_a_run_is_checked_without_what_only_its_workers_need() -> None:
    words = ("task=kitchen", "cache=hash_ab", "logger=none", "accept=null")
    assert imported(*words, code=CHECKED) == "['torch', 'scipy']"


@pytest.mark.parametrize("name", RUNNERS)
def test_every_runner_is_there(name: str) -> None:
    runner = runner_of(name)
    assert isinstance(runner, Runner)
    assert runner.config().name == name
