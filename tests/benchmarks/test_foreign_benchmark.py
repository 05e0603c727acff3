"""The benchmark of attach: its arms compute the same, and what it writes follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.foreign import main


def test_arms_compute_the_same_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--heads", "1", "--size", "4", "--steps", "4", "--rounds", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "foreign.json").read_text())
    assert found["overhead"]["bit_equal"]
    ours = found["beside"]["attach, output of the stack"]
    assert ours["largest_difference"] == 0
    times = {name: arm["cpu_p50_ms"] for name, arm in found["arms"].items()}
    assert ours["speed_ratio"] == pytest.approx(
        times["diffusers TaylorSeer, order 0"] / times["attach, output of the stack"]
    )
    said = capsys.readouterr().out
    assert "| attach, output of the stack " in said
    assert ("cache-dit, F1B0" in times) != ("cache-dit, F1B0" in found["missing"])
    assert "bit-equal" in said


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "1"]) == 2
    assert capsys.readouterr().err == "error: --steps must be at least 2, got 1\n"
