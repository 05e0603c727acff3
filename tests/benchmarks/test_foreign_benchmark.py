"""The benchmark of attach: its arms compute the same, and what it writes follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.foreign import AFTER, DECIDES, STACK, main
from benchmarks.foreign_models import SUBJECTS

HOOKS = ("diffusers TaylorSeer, order 0", "diffusers FirstBlockCache")


@pytest.mark.parametrize("model", SUBJECTS)
def test_arms_compute_the_same_steps(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--heads", "1", "--size", "4", "--steps", "4", "--rounds", "2", "--model", model]
    assert main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "foreign.json").read_text())["models"][model]
    assert found["overhead"]["bit_equal"]
    for ours, other in zip((STACK, DECIDES), HOOKS, strict=True):
        pair = found["beside"][ours][other]
        assert pair["same_steps"]
        assert pair["largest_difference"] < 1e-5
        assert pair["speed_ratio"][1] <= pair["speed_ratio"][0] <= pair["speed_ratio"][2]
    steps = {name: arm["computed"] for name, arm in found["arms"].items()}
    assert steps["plain"] == steps["attach, everything computed"] == 4
    assert {steps[name] for name in (STACK, AFTER, DECIDES, *HOOKS)} == {2}
    said = capsys.readouterr().out
    assert f"| {STACK} " in said
    for name in ("cache-dit, F1B0", "cache-dit, FBCache"):
        assert (name in steps) != (name in found["missing"])
    assert "bit-equal" in said


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "1"]) == 2
    assert capsys.readouterr().err == "error: --steps must be at least 2, got 1\n"
