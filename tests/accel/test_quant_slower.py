"""Quantised layers that are slower than float32: one warning, with how many and which setting."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel.quant import native_linear as own
from accel.quant.choice import measured
from accel.quant.config import DuQuantConfig
from accel.quant.slower import rows_of_calls
from tests.helpers.quant_data import policy_statistics, query, small_policy
from tests.helpers.walked import Block

pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Microseconds of a quantised layer; a float32 one takes 10."""
    takes = {"us": 30.0}
    monkeypatch.setattr("accel.quant.choice._timed", {})
    monkeypatch.setattr(
        "accel.quant.choice.measured", lambda kernels, x: np.tile([takes["us"], 10.0], (9, 1))
    )
    return takes


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "slower" in r.getMessage()]


def quantised(**settings: Any) -> accel.Quantized:
    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(80, 64)
    statistics = accel.collect(model, [(x,)], 1)
    return accel.quantize(model, statistics, DuQuantConfig(method="duquant", **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "quant.weight_bits=8 quant.activation_bits=8 quant.block=16 (kernel native)"),
        ({"row_rot": "restore"}, "quant.block=16 quant.row_rot=restore of 16 (kernel native)"),
        ({"activation": "asymmetric"}, "quant.activation=asymmetric: simulated in floating point"),
        ({"weight_bits": 4, "activation_bits": 16}, "activation_bits=16: a side that is not"),
    ],
    ids=str,
)
def test_a_slow_quantisation_is_said_once(
    settings: dict[str, Any],
    said: str,
    clock: dict[str, float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    if "native" in said and not own.works():
        pytest.skip("no compiled integers here")
    quantised(include=("",), **settings)
    (warning,) = warnings_of(caplog)
    assert said in warning
    assert "2 of 2 quantised layers are slower than float32 here, by 3.0x in the median" in warning
    assert "quant.exclude, for example fc1" in warning
    caplog.clear()
    clock["us"] = 9.0
    quantised(include=("",), block=32, **settings)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("engine", ["fused", "reference"])
def test_an_accelerated_policy_says_it(
    engine: str, clock: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    policy = small_policy(2)
    config = DuQuantConfig(method="duquant", include=("linear1",))
    copy = accel.quantized(policy, config, policy_statistics(policy, 1))
    assert copy is not None
    assert warnings_of(caplog) == []  # which engine will run it is not known yet
    with accel.accelerated(policy, None, copy, engine) as fast:
        fast.act(*query())
    (warning,) = warnings_of(caplog)
    assert "2 of 2 quantised layers are slower than float32 here" in warning
    assert warning.startswith("engine=reference: ") == (engine == "reference")


def test_calls_are_timed_as_long_as_in_the_calibration() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    statistics = accel.collect(model, [(torch.randn(n, 64),) for n in (7, 9)], 2)
    assert rows_of_calls(statistics) == {"fc1": 8, "fc2": 8}
    long = accel.collect(model, [(torch.randn(900, 64),)], 1)
    assert rows_of_calls(long) == {"fc1": 64, "fc2": 64}


def test_timing_ends_though_calls_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6))
    monkeypatch.setattr("accel.quant.choice.time.perf_counter", lambda: next(now))
    found = measured([lambda x: x, lambda x: x], torch.zeros(1))
    assert found.shape == (5, 2)


def test_the_log_says_from_which_file_codes_are(
    tmp_path: Any, clock: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, path = Block().eval(), tmp_path / "codes.safetensors"
    statistics = accel.collect(model, [(torch.randn(80, 64),)], 1)
    small = accel.quantize(model, statistics, DuQuantConfig(include=("",)))
    with caplog.at_level(logging.INFO, "accel.quant"):
        accel.save_quantized(small, path)
        accel.load_quantized(path, model)
    said = [r.getMessage() for r in caplog.records if "quantised once" in r.getMessage()]
    assert said == [
        f"weights of 2 layers are quantised once: codes written to {path}",
        f"weights of 2 layers were quantised once: their codes are read from {path}",
    ]
