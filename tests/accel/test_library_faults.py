"""What caches of other libraries get wrong, where no other test says that ours do not.

The rest is in test_attach.py (outputs instead of deltas, dead blocks, guidance branches, counters,
leftovers), test_static_caches.py (windows of one block and outside of the network, forecasts on
uneven steps) and test_search.py (ratios that are missed, block 0, short samplers).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel import CachePlan, DeepCacheConfig, IntervalConfig, PlanError, TaylorConfig, attach
from tests.accel.test_attach import INPUTS, WINDOW, outputs, toy


def test_no_blocks_are_an_error_and_one_list_is_enough() -> None:
    with pytest.raises(ValueError, match=r"blocks must be a list of paths, got \[\]"):
        toy(blocks=[])
    cache = toy(IntervalConfig(start=0, interval=4), blocks=["rest"])  # the last block: 18 x
    assert outputs(cache)[:2] == [24, 60 + 18]


def test_a_plan_that_skips_the_first_step_is_refused() -> None:
    plan = toy(WINDOW).plan
    mask = plan.mask.copy()
    mask[0, 1] = False
    with pytest.raises(PlanError, match=r"plan reuses first.1 in step 0, before anything"):
        CachePlan(plan.sites, mask, plan.policy, "by hand")


def test_steps_count_from_the_beginning_not_from_the_first_one_seen() -> None:
    cache = toy(WINDOW)
    with pytest.raises(RuntimeError, match="step must be 0 in branch main, got 3"):
        cache.step(3)


@pytest.mark.parametrize("kind", ["delta", "output"])
def test_what_is_stored_is_owned(kind: str) -> None:
    """Blocks that work in place, and a caller that does, leave stored values alone."""
    expected = outputs(toy(IntervalConfig(start=0, interval=4), kind=kind))
    cache = toy(IntervalConfig(start=0, interval=4), in_place=True, kind=kind)
    cache.begin()
    for step, x in enumerate(INPUTS):
        cache.step(step)
        out = cache.model(torch.tensor([x]))
        assert float(out) == expected[step]
        out.zero_()


def test_nothing_is_held_after_a_generation_was_forgotten_or_the_cache_taken_off() -> None:
    for forget in ("begin", "reset", "clear", "disable"):
        cache = toy(WINDOW)
        for step in (0, 1):
            cache.step(step)
            cache.model(torch.ones(1))
        assert cache.summary()["cache_bytes"] > 0
        getattr(cache, forget)()
        assert cache.summary()["cache_bytes"] == 0


def test_timesteps_that_repeat_are_counted_all_the_same() -> None:
    """As those of second-order solvers do."""
    times = [8, 7, 7, 6, 6, 5, 5, 4]
    cache = toy(WINDOW, timesteps=times)
    found = [float(cache.model(torch.tensor([x]), t)) for x, t in zip(INPUTS, times, strict=True)]
    assert found == outputs(toy(WINDOW))


def test_forecasts_of_two_guidance_branches_do_not_mix() -> None:
    """A line in one branch and another one in the other are both followed."""
    config = TaylorConfig(order=1, warm_up=2, cool_down=0, interval=3)
    cache = toy(config, branches=("cond", "uncond"))
    cache.begin()
    for step in range(8):
        for branch, slope in (("cond", 5.0), ("uncond", -3.0)):
            cache.step(step, branch)
            x = slope * (step + 1)
            assert float(cache.model(torch.tensor([x]))) == pytest.approx(24 * x)


def test_the_first_computed_step_is_a_support_of_forecasts() -> None:
    plan = toy(TaylorConfig(order=1, warm_up=2, cool_down=0, interval=9)).plan
    assert plan.forecast(2, 0) == ((1, 2.0), (0, -1.0))


def test_a_forecast_right_after_the_first_step_is_a_reuse() -> None:
    cache = toy(TaylorConfig(order=2, warm_up=1, cool_down=0, interval=9))
    assert outputs(cache)[1] == 10 + 23


class TwoStreams(nn.Module):
    """Adds to both streams; the second one by keyword or by position."""

    def forward(self, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * image, words + 3


class Pairs(nn.Module):
    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TwoStreams() for _ in range(2))
        self.by_keyword = by_keyword

    def forward(self, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            image, words = block(image, words=words) if self.by_keyword else block(image, words)
        return image, words


@pytest.mark.parametrize("by_keyword", [True, False])
@pytest.mark.parametrize(("kind", "expected"), [("delta", (7.0, 16.0)), ("output", (4.0, 6.0))])
def test_further_streams_may_be_passed_either_way(
    by_keyword: bool, kind: str, expected: tuple[float, float]
) -> None:
    model = Pairs(by_keyword)
    settings: dict[str, Any] = {"streams": ("image", "words"), "kind": kind}
    cache = attach(model, ["blocks"], 2, IntervalConfig(start=0), **settings)
    cache.step(0)
    model(torch.ones(1), torch.zeros(1))
    cache.step(1)
    image, words = model(torch.full((1,), 4.0), torch.full((1,), 10.0))
    assert (float(image), float(words)) == expected  # deltas: 4 + 3, 10 + 6


def test_a_batch_is_not_taken_for_a_tuple() -> None:
    """Blocks that return a tensor keep its shape where a library takes `result[0]`."""
    cache = toy(DeepCacheConfig(compute_start=1, compute_end=8, compute_interval=9, always=[2]))
    cache.step(0)
    assert cache.model(torch.ones(5, 3)).shape == (5, 3)
    for step in (1, 2):
        cache.step(step)
        assert cache.model(torch.ones(5, 3)).shape == (5, 3)


def test_a_window_changes_at_run_time_and_after_a_failed_generation() -> None:
    """Nothing is silently ignored after the first pass."""
    cache = toy(IntervalConfig(start=0, interval=4))
    assert outputs(cache)[:2] == [24, 33]
    cache.begin()
    cache.step(0)  # announced and never called
    cache.update_config(WINDOW)
    assert outputs(cache) == outputs(toy(WINDOW))
