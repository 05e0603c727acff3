"""Real transformers that get the same input in every step: each cache gives the plain output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from accel import (
    DeepCacheConfig,
    FirstBlockConfig,
    IntervalConfig,
    TaylorConfig,
    TeaCacheConfig,
    UniformConfig,
    attach,
)
from accel.attach.attached import Attached
from tests.helpers.foreign_models import Foreign
from tests.helpers.foreign_video_models import ALL

STEPS = 6
CONFIGS: dict[str, Any] = {
    "uniform": UniformConfig(steps=2),
    "interval": IntervalConfig(start=1, interval=3),
    "window": IntervalConfig(start=0, interval=4, first_block=1, n_blocks=2),
    "deepcache": None,
    "taylor": TaylorConfig(order=2, warm_up=3, cool_down=0, interval=4),
    "bands": TaylorConfig(low_order=0, high_order=2, warm_up=3, cool_down=0, interval=4),
    "first_block": FirstBlockConfig(threshold=0.1, cool_down=0),
    "teacache": TeaCacheConfig(threshold=0.1, cool_down=0),
}
LAYOUTS = {"Latte": {"teacache": "teacache needs the batch as the first dimension"}}


@pytest.fixture(params=ALL, scope="module")
def foreign(request: pytest.FixtureRequest) -> Foreign:
    made = ALL[request.param]()
    made.keywords["name"] = request.param
    return made


@torch.no_grad()
def steps(cache: Attached, foreign: Foreign, rows: Callable[[int], Tensor]) -> list[Tensor]:
    """What the model puts out in every step of a generation, at one timestep."""
    cache.begin()
    found = []
    for step in range(STEPS):
        cache.step(step)
        found.append(foreign.call(foreign.model, rows(step), 500.0))
    return found


def config_of(name: str, n_blocks: int, kind: str) -> Any:
    if name == "deepcache":
        return DeepCacheConfig(compute_interval=3, always=[n_blocks - 1])
    if name == "window" and kind == "output":  # others compute blocks for nothing, and are refused
        return IntervalConfig(start=0, interval=4, first_block=0, n_blocks=2)
    return CONFIGS[name]


@pytest.mark.parametrize("kind", ["delta", "output"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_hits_give_the_plain_output(foreign: Foreign, dtype: torch.dtype, kind: str) -> None:
    foreign.model.to(dtype)
    x = foreign.latent.to(dtype)
    with torch.no_grad():
        plain = foreign.call(foreign.model, x, 500.0)
    cache = attach(foreign.model, kind=kind, **{**foreign.attach_to, "n_steps": STEPS})
    try:
        for name in CONFIGS:
            refused = LAYOUTS.get(foreign.keywords["name"], {}).get(name)
            if name == "teacache":
                if refused:
                    with pytest.raises(RuntimeError, match=refused):
                        cache.calibrate(lambda: steps(cache, foreign, lambda step: x))
                    continue
                cache.calibrate(lambda: steps(cache, foreign, lambda step: x))
            cache.update_config(config_of(name, len(cache.blocks), kind))
            found = steps(cache, foreign, lambda step: x)
            assert cache.summary()["hits"] > 0, name
            worst = max(float((out - plain).abs().max()) for out in found)
            assert worst <= (1e-5 if dtype == torch.float32 else 0.03) * float(plain.abs().max()), (
                name,
                worst,
            )
    finally:
        cache.disable()
        foreign.model.to(torch.float32)
