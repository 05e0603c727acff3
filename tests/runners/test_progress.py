"""What is said while episodes are played, and how soon the first word comes."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from runners.episodes.loop import evaluate
from runners.progress import LINE_S, Progress
from skipstep import run as command
from tests.helpers.toy import ToyTask


class Clock:
    """Seconds that pass when it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_there_is_a_line_every_half_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO), Progress("kitchen", 3, False, clock) as progress:
        for _ in range(100):  # 100 seconds, 8 steps each
            clock.now += 1
            progress.step(8)
            if clock.now == 150:
                progress.episode("success 1.00")
    assert LINE_S == 30
    assert [record.getMessage() for record in caplog.records] == [
        "kitchen: 0 of 3 episodes, 240 steps",
        "kitchen: 1 of 3 episodes, 480 steps, success 1.00",
        "kitchen: 1 of 3 episodes, 720 steps, success 1.00",
    ]


def test_in_a_terminal_the_bar_counts_steps_too(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("kitchen", 3, True, clock) as progress:
        for _ in range(4):
            clock.now += 1
            progress.step(8)
        progress.episode("success 1.00")
        clock.now += 1
        progress.step(8)
    said = capsys.readouterr().err
    assert "32 steps, 8 a second" in said  # before any episode has ended
    assert "success 1.00, 40 steps, 8 a second" in said
    assert "| 1/3 [" in said


def test_steps_are_told_as_simulators_do_them() -> None:
    task = ToyTask(max_steps=6, success_band=0.0)
    policy = SimpleNamespace(
        n_obs_steps=1,
        n_action_steps=2,
        act=lambda obs, noise: __import__("torch").zeros(len(obs), 2, task.action_dim),
    )
    told: list[int] = []
    played = evaluate(policy, task, [1, 2], 1, 0, policy_batch=1, stepped=told.append)
    episodes = list(played)
    assert sum(told) == sum(episode.n_steps for episode in episodes)
    assert np.isin(told, [0, 2]).all()
    assert len([n for n in told if n]) > len(episodes)


SAID = {
    "cache=uniform task=kitchen": "checking cache=uniform task=kitchen\n",
    "-m cache=none,uniform": "checking cache=none,uniform\n",
    "": "checking the defaults\n",
    "--help": "",
    "report multirun/main": "",
    "cache=none --cfg job": "",
}


@pytest.mark.parametrize("words", SAID)
def test_a_run_says_what_it_was_asked_for_before_it_imports_anything(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: list[str]) -> int:
        assert capsys.readouterr().out == SAID[words]  # said before it was called
        return 3

    monkeypatch.setitem(sys.modules, "runners.cli", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["skipstep", *words.split()])
    monkeypatch.setattr("gc.disable", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 3
