"""Public names are American; the older ones go on working."""

from __future__ import annotations

from typing import Any

import pytest

import accel
import accel.engines
import accel.quant

OLDER = {
    "Quantised": "Quantized",
    "load_quantised": "load_quantized",
    "quantised": "quantized",
    "save_quantised": "save_quantized",
    "settled": "resolve_engine",
    "summarise": "summarize",
}


@pytest.mark.parametrize("room", [accel, accel.quant, accel.engines])
def test_an_older_name_is_the_newer_one(room: Any) -> None:
    there = {older: newer for older, newer in OLDER.items() if older in room.__all__}
    assert there
    for older, newer in there.items():
        assert newer in room.__all__
        assert getattr(room, older) is getattr(room, newer)


def test_accel_has_every_older_name() -> None:
    assert set(OLDER) <= set(accel.__all__)
