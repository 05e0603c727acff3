"""The floors of benchmarks/floors.py: what is counted, and that calls do not lie below them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from accel.kernels.native import is_compiled
from benchmarks import floors
from policies import load_policy

pytestmark = pytest.mark.skipif(not is_compiled(), reason="needs a C compiler")


def test_what_is_multiplied_and_read_is_counted():
    core = floors.Core(1 << 20)
    assert core.multiply("floats") >= 8 * floors.ROUNDS_IN_REGISTERS
    assert core.multiply("integers") == 0 or core.multiply("integers") > core.multiply("floats")
    line = 8 * 64  # bytes of a round at most
    for size in (1 << 20, 100_000):
        assert floors.BYTES_READ - size <= core.read(size) + size / 100 + floors.BYTES_READ / 50
        assert core.read(size) % (size // line * line) == 0 or core.read(size) % line == 0


def test_weights_are_counted_as_they_are_stored():
    policy = load_policy("checkpoints/kitchen").with_sampler("ddpm", 2)
    found = {case.precision: case for case in floors.cases("kitchen", policy)}
    layers = [m for n, m in policy.model.named_parameters() if m.ndim == 2 and "time" not in n]
    assert found["exact"].weight_bytes <= 2 * sum(m.numel() for m in layers) * 1.05
    assert found["exact"].flops == found["half"].flops
    if "W4A8" in found:
        assert 0.45 < found["W4A8"].weight_bytes / found["W8A8"].weight_bytes < 0.55
        assert 0.45 < found["W8A8"].weight_bytes / found["exact"].weight_bytes < 0.55


def test_no_call_is_below_its_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(floors, "policies", lambda steps, widest: small(steps))
    monkeypatch.setattr(floors, "RECORDS", tmp_path)
    options = argparse.Namespace(rounds=2, steps=2, widest=1)
    measured = floors.measure(options)
    for row in measured["rows"]:
        assert row["over_floor"] > 0.9, row
        assert row["arithmetic_ms"] > 0
        assert row["reading_ms"] > 0
    (tmp_path / "floors_here.json").write_text(json.dumps(measured))
    assert "kitchen" in floors.render(measured)


def small(steps: int) -> dict[str, object]:
    return {"kitchen": load_policy("checkpoints/kitchen").with_sampler("ddpm", steps)}


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert floors.main(["--rounds", "0"]) == 2
    assert capsys.readouterr().err == "error: --rounds must be at least 1, got 0\n"
