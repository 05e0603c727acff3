"""The benchmark of quantised policies: its options and its table."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.quant_speed import PLAIN, SEED, main, render


def test_a_wrong_option_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "0"]) == 2
    assert "rounds must be at least 1, got 0" in capsys.readouterr().err


def test_the_table_has_every_way_and_the_machine() -> None:
    arm = {"cpu_p50_ms": 13.3, "times_as_fast": 1.72, "times_as_fast_interval": (1.2, 2.1)}
    found: dict[str, Any] = {
        "ways": {way: {PLAIN: arm, SEED: arm} for way in ("fused", "modules")},
        **{"policy": "checkpoints/lift", "steps": 10, "threads": 1, "rounds": 9},
        **{"cpu": "a CPU", "instructions": "AVX2", "load": [0.5, 0.6]},
    }
    said = render(found)
    assert f"| fused | {SEED} | 13.3 | 1.72x [1.20, 2.10] |" in said
    assert f"| modules | {SEED} |" in said
    assert "9 rounds, a CPU, AVX2, load 0.5 before, 0.6 after" in said
