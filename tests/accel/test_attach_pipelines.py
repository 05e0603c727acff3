"""Caches inside the real loops of diffusers' pipelines, which send timesteps as they do."""

from __future__ import annotations

import pytest
import torch

from accel import FirstBlockConfig, IntervalConfig, TaylorConfig, attach
from tests.helpers.foreign_pipelines import PIPELINES, STEPS

CONFIGS = (
    IntervalConfig(start=1, interval=2),
    TaylorConfig(warm_up=2, cool_down=0, interval=2),
    FirstBlockConfig(threshold=10, cool_down=1),
)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_runs_with_a_cache_as_it_runs_without(name: str) -> None:
    if name != "DiT":
        pytest.importorskip("transformers", reason="these pipelines import it: skipstep[foreign]")
    made = PIPELINES[name]()
    plain = made.run()
    assert plain.isfinite().all()
    cache = attach(made.pipe.transformer, **made.attach_to)
    for _ in range(2):  # the second generation begins by itself
        assert torch.equal(made.run(), plain)
    calls = sum(made.calls.values())
    last = cache.computed[:, -1]
    assert last.sum() == 2 * calls
    assert last[0] == 2 * (len(made.calls) if name != "SD3" else 1)
    for config in CONFIGS:
        cache.update_config(config)
        cached = made.run()
        summary = cache.summary()
        assert summary["hits"] > 0
        # a skipped layer is neither
        assert 0.9 < (summary["computed"] + summary["hits"]) / (calls * len(cache.blocks)) <= 1
        error = float((cached.float() - plain.float()).norm() / plain.float().norm())
        assert 0 < error < 1, (config, error)
    assert made.attach_to["n_steps"] == STEPS
    cache.disable()
    assert torch.equal(made.run(), plain)
