"""The blocks of a model that is not ours, as `attach` shows them to the caches."""

from __future__ import annotations

from .record import Family

BLOCKS = Family(
    called="a model of its own",
    sites=lambda sizes: tuple(sizes.sites),
    engines=(),
    stack="layers",
    tokens=True,  # of each stream that has them, see `attach.values.low_band`
    calibratable=True,  # by `Attached.calibrate`
    caches=("none", "uniform", "interval", "deepcache", "taylor", "teacache", "first_block"),
)
