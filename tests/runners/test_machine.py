"""What the machine does to an episode: recorded, and said where machines are mixed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from runners import machine
from runners.evaluate.table import _machines
from runners.machine import UNKNOWN, arithmetic, machines_of, warn_of_others


def test_the_machine_says_cpu_kernels_and_engine() -> None:
    cpu, capability, engine = arithmetic().rsplit(", ", 2)
    assert cpu == machine.cpu()
    assert capability in {"DEFAULT", "AVX2", "AVX512", "SVE256", "NO AVX"}
    assert engine in {"compiled engine", "engine in torch"}


def test_episodes_of_another_machine_are_said(caplog: pytest.LogCaptureFixture) -> None:
    here, there = {"machine": arithmetic()}, {"machine": "Abacus, DEFAULT, engine in torch"}
    with caplog.at_level(logging.WARNING):
        warn_of_others([here, here], "earlier episodes")
        assert not caplog.records
        warn_of_others([here, there, {}], "earlier episodes")
    assert "Abacus, DEFAULT, engine in torch; not recorded" in caplog.text
    assert machines_of([there, here, there, {}]) == sorted(
        [arithmetic(), "Abacus, DEFAULT, engine in torch", UNKNOWN]
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "n"),
    [(["a"], ["a"], 0), (["a"], ["b"], 1), (["a", "b"], ["a"], 1), (["a"], None, 0)],
)
def test_a_table_says_where_an_arm_and_its_baseline_ran_on_different_machines(
    ours: list[str], theirs: list[str] | None, n: int
) -> None:
    baseline: dict[str, Any] | None = None if theirs is None else {"machines": theirs}
    assert len(_machines({"machines": ours, "baseline": baseline})) == n
