"""Caches on models that are not ours: values by hand, diffusers' transformers, and misuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accel import (
    BacConfig,
    CachePlan,
    DeepCacheConfig,
    FirstBlockConfig,
    IntervalConfig,
    PlanError,
    TaylorConfig,
    TeaCacheConfig,
    attach,
    freeze,
)
from accel.attach.attached import Attached
from tests.helpers.foreign_models import MODELS, N_STEPS, TIMESTEPS, Foreign

INPUTS = [1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]


class Times(nn.Module):
    """Multiplies its stream; what else it returns or does is for the tests."""

    def __init__(self, factor: float, in_place: bool = False) -> None:
        super().__init__()
        self.factor, self.in_place, self.broken = factor, in_place, False

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        if self.broken:
            raise ZeroDivisionError
        return hidden.mul_(self.factor) if self.in_place else hidden * self.factor


class Toy(nn.Module):
    """The stack of `ToyStack`: 24 x."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.first = nn.ModuleList([Times(2, in_place), Times(3, in_place)])
        self.rest = nn.ModuleList([Times(4, in_place)])
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, timestep: float = 0.0) -> Tensor:
        for block in (*self.first, *self.rest):
            x = block(x, scale=2.0)
        return x


def toy(cache: Any = None, in_place: bool = False, **settings: Any) -> Attached:
    given = {"blocks": ["first", "rest"], "n_steps": 8, "streams": ("hidden",), **settings}
    return attach(Toy(in_place), cache=cache, **given)


def outputs(
    cache: Attached, values: list[float] = INPUTS, branch: str | None = None
) -> list[float]:
    cache.begin()
    found = []
    for step, x in enumerate(values):
        cache.step(step, branch)
        found.append(float(cache.model(torch.tensor([float(x)]))))
    return found


WINDOW = IntervalConfig(start=1, interval=3, first_block=1, n_blocks=2)


def test_a_window_reuses_what_it_added_on_its_fresh_input() -> None:
    expected = [24, 240, 40 + 220, 60 + 220, 960, 100 + 880, 120 + 880, 1680]
    cache = toy(WINDOW)
    assert outputs(cache) == expected
    assert outputs(cache) == expected  # nothing of the first generation is left
    assert outputs(toy(WINDOW, in_place=True)) == expected
    one = toy(IntervalConfig(start=0, interval=8, first_block=2, n_blocks=1))
    assert outputs(one)[1] == 60 + 18


def test_an_output_replaces_the_stream_and_a_delta_does_not() -> None:
    whole = IntervalConfig(start=0, interval=4)
    assert outputs(toy(whole, kind="output"))[:5] == [24, 24, 24, 24, 960]
    assert outputs(toy(whole))[:5] == [24, 10 + 23, 20 + 23, 30 + 23, 960]
    tail = DeepCacheConfig(compute_start=1, compute_end=8, compute_interval=9, always=[2])
    # what blocks 0 and 1 put out in step 1 is 60, and block 2 is fresh
    assert outputs(toy(tail, kind="output"))[2:4] == [240, 240]


def test_blocks_that_an_output_makes_useless_are_refused() -> None:
    early = DeepCacheConfig(compute_start=1, compute_end=8, compute_interval=9, always=[0])
    with pytest.raises(PlanError, match=r"first.0 is computed in step 2 for nothing"):
        toy(early, kind="output")
    assert outputs(toy(early))[2] == 2 * 20 + 220


@pytest.mark.parametrize("kind", ["delta", "output"])
def test_forecasts_follow_a_straight_line(kind: str) -> None:
    config = TaylorConfig(order=1, warm_up=2, cool_down=0, interval=3)
    values = [5.0 * i for i in range(1, 9)]
    assert outputs(toy(config, kind=kind), values) == pytest.approx([24 * x for x in values])


FIRST = FirstBlockConfig(threshold=0.5, cool_down=0)


def batches(cache: Attached, rows: list[list[float]], branch: str | None = None) -> list[Any]:
    cache.begin()
    found = []
    for step, x in enumerate(rows):
        cache.step(step, branch)
        found.append(cache.model(torch.tensor(x)[:, None])[:, 0].tolist())
    return found


@pytest.mark.parametrize("kind", ["delta", "output"])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_first_block_decides_row_by_row(kind: str, in_place: bool) -> None:
    """Block 0 adds x; what the others add to 2 x is 22 x, what they put out 24 x."""
    cache = toy(FIRST, kind=kind, in_place=in_place, n_steps=4)
    # changes since the last computed step: row 0: 0.2, 1, 0.2; row 1: 1, 0, 0.5
    rows = [[1.0, 1.0], [1.2, 2.0], [2.0, 2.0], [2.4, 3.0]]
    found = batches(cache, rows)
    assert cache.trace().tolist() == [[True, False, True, False], [True, True, False, True]]
    reused = {"delta": [2.4 + 22, 4 + 44, 4.8 + 44], "output": [24, 48, 48]}[kind]
    expected = [[24, 24], [reused[0], 48], [48, reused[1]], [reused[2], 72]]
    assert [pytest.approx(row) for row in expected] == found
    assert cache.computed.tolist() == [[1, 1, 1]] * 4  # a row wanted every step
    alone = [batches(cache, [[row[i]] for row in rows]) for i in (0, 1)]
    assert [[a[0], b[0]] for a, b in zip(*alone, strict=True)] == found
    assert cache.hits[:, 0].sum() == 0
    assert cache.hits[:, 1].tolist() == [0, 1, 1, 1]


def test_teacache_is_fitted_on_a_generation_and_accumulates() -> None:
    cache = toy(branches=("a", "b"))
    line = [1.0, 1.5, 2.25, 3.375, 5.0625, 6.0, 7.0, 8.0]

    def run() -> None:
        cache.begin()
        for step, x in enumerate(line):
            for branch, sign in (("a", 1.0), ("b", -1.0)):
                cache.step(step, branch)
                cache.model(torch.tensor([[sign * x]]))

    cache.calibrate(run)
    cache.update_config(TeaCacheConfig(threshold=0.9, degree=1, cool_down=0))
    rule = cache.plan.decide
    assert rule is not None
    assert rule.rescale == pytest.approx((1, 0), abs=1e-6)  # what is added is 23 times the input
    assert rule.most == pytest.approx(0.5)
    # 0.5; 1.0 (computed); 0.5, 1.0 (computed); 0.185, 0.35, 0.49
    run()
    assert np.flatnonzero(cache.trace("b")[0]).tolist() == [0, 2, 4]
    assert np.flatnonzero(cache.plan.mask[:, 0]).tolist() == [0, 2, 4]
    jump = batches(cache, [[1.0], [1.1], [9.0], *[[9.0]] * 5], "a")
    assert jump[2] == [24 * 9.0]  # a change beyond those that were calibrated computes
    assert batches(cache, [[1.0], [1.1]], "a")[1] == pytest.approx([1.1 + 23])
    cache.update_config(TeaCacheConfig(threshold=0.9, degree=1, cool_down=0, dynamic=False))
    assert cache.plan.decide is None
    assert np.flatnonzero(cache.plan.mask[:, 0]).tolist() == [0, 2, 4]
    with pytest.raises(RuntimeError, match="decides nothing at run time"):
        cache.trace()


def test_another_probe_decides() -> None:
    cache = toy(probe=lambda block, args, kwargs: torch.ones(len(args[0]), 1))
    cache.calibrate(lambda: outputs(cache))
    cache.update_config(TeaCacheConfig(cool_down=0, threshold=9.0))
    assert cache.plan.decide is not None
    (mean,) = cache.plan.decide.rescale  # nothing to fit a slope on
    outputs(cache)
    first = int(np.ceil(9 / mean))  # INPUTS add 9, 1, 1 / 2, 1 / 3, ... times what they added
    assert np.flatnonzero(cache.trace()[0])[:2].tolist() == [0, first]


def test_what_was_decided_is_frozen_saved_and_searched_around(tmp_path: Path) -> None:
    cache = toy(FIRST)
    dynamic = outputs(cache, [1.0, 1.2, 2.0, 2.2, 2.4, 2.6, 2.8, 2.9])
    cache.save(tmp_path / "plan.json")
    trace = cache.trace()
    assert (cache.summary()["computed"], cache.summary()["hits"]) == (8 + 2 * 2, 2 * 6)
    assert cache.summary()["cache_bytes"] == 4 + 4  # a difference and a probe
    cache.update_config(freeze(cache.plan, trace))
    assert outputs(cache, [1.0, 1.2, 2.0, 2.2, 2.4, 2.6, 2.8, 2.9]) == dynamic
    cache.load(tmp_path / "plan.json")
    assert cache.plan.decide is not None
    cache.begin()
    assert cache.summary()["cache_bytes"] == 0


def test_guidance_branches_do_not_mix() -> None:
    cache = toy(WINDOW, branches=("cond", "uncond"))
    negative = [-x for x in INPUTS]
    alone = {"cond": outputs(cache, branch="cond"), "uncond": outputs(cache, negative, "uncond")}
    cache.begin()
    together: dict[str, list[float]] = {"cond": [], "uncond": []}
    for step, x in enumerate(INPUTS):
        for branch, sign in (("cond", 1), ("uncond", -1)):
            cache.step(step, branch)
            together[branch].append(float(cache.model(torch.tensor([sign * x]))))
    assert together == alone
    with pytest.raises(ValueError, match="branch must be one of cond, uncond, got 'main'"):
        cache.step(0, "main")


def test_every_call_of_the_model_is_a_step() -> None:
    cache = toy(WINDOW)
    with pytest.raises(RuntimeError, match=r"called without step\(\)"):
        cache.model(torch.ones(1))
    cache.step(0)
    cache.model(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"called without step\(\)"):
        cache.model(torch.ones(1))
    with pytest.raises(RuntimeError, match="step must be 1 in branch main, got 2"):
        cache.step(2)
    for step in range(1, 8):
        cache.step(step)
    with pytest.raises(RuntimeError, match=r"step needs begin\(\) first in branch main, got 8"):
        cache.step(8)


def test_an_exception_inside_a_generation_leaves_nothing_behind() -> None:
    cache = toy(WINDOW)
    expected = outputs(cache)
    cache.begin()
    for step in (0, 1):
        cache.step(step)
        cache.model.rest[0].broken = step == 1
        if step:
            with pytest.raises(ZeroDivisionError):
                cache.model(torch.tensor([7.0]))
        else:
            cache.model(torch.tensor([7.0]))
    cache.model.rest[0].broken = False
    assert outputs(cache) == expected


def test_off_is_off() -> None:
    cache = toy(WINDOW)
    model = cache.model
    with pytest.raises(RuntimeError, match=r"first.0 has a replaced forward already"):
        cache.enable()
    with pytest.raises(RuntimeError, match=r"first.0 has a replaced forward already"):
        attach(model, ["first"], 8, streams=("hidden",))
    cache.disable()
    cache.disable()
    assert all("forward" not in vars(block.module) for block in cache.blocks)
    assert float(model(torch.tensor([3.0]))) == 72
    cache.enable()
    assert outputs(cache)[2] == 260


def test_the_counter_needs_no_steps_and_does_not_drift() -> None:
    cache = toy(WINDOW, branches=("a", "b"), timesteps=list(range(8, 0, -1)))
    expected = outputs(toy(WINDOW))
    for _ in range(2):
        found = []
        for timestep, x in zip(range(8, 0, -1), INPUTS, strict=True):
            found.append(float(cache.model(torch.tensor([x]), torch.tensor([timestep]))))
            assert float(cache.model(torch.tensor([0.0]), timestep=timestep)) == 0
        assert found == expected
    cache.model(torch.ones(1), 8)  # a generation that ends early, then another one
    cache.model(torch.ones(1), 8)
    with pytest.raises(RuntimeError, match="called with timestep 8, step 1 has 7: an earlier"):
        cache.model(torch.ones(1), 8)
    cache.begin()
    cache.model(torch.ones(1), 8)
    cache.disable()
    assert not cache.model._forward_pre_hooks


class Pair(nn.Module):
    def forward(self, hidden: Tensor) -> Any:
        return hidden, hidden


class Longer(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden, hidden])


def model_of(*blocks: nn.Module) -> nn.Module:
    model = nn.Module()
    model.blocks = nn.ModuleList(blocks)
    model.forward = lambda x: [x := block(x) for block in model.blocks][-1]  # type: ignore[method-assign,assignment]
    return model


def test_blocks_that_do_not_fit_say_so() -> None:
    cache = attach(model_of(Pair()), ["blocks"], 2, streams=("hidden",))
    cache.step(0)
    with pytest.raises(RuntimeError, match=r"blocks.0 returns 2 values, outputs names 1: hidden"):
        cache.model(torch.ones(1))
    longer = model_of(Longer())
    cache = attach(longer, ["blocks"], 2, IntervalConfig(start=0), streams=("hidden",))
    cache.step(0)
    with pytest.raises(RuntimeError, match=r"changes a stream from \(1,\) to \(2,\)"):
        longer(torch.ones(1))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"blocks": "first"}, "blocks must be a list of paths, got 'first'"),
    ({"blocks": ["layers"]}, "blocks: Toy has no 'layers'"),
    ({"blocks": ["first", "first.0"]}, "blocks: first.0 is the same module as first.0"),
    ({"streams": ("x",)}, "streams: first.0 takes hidden, scale, not 'x'"),
    ({"outputs": ("x",)}, "outputs must be among hidden, got x"),
    ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
    ({"branches": ("a", "a")}, "branches must be distinct names"),
    ({"branches": "ab"}, "branches must be distinct names, got 'ab'"),
    ({"kind": "sum"}, "kind must be one of delta, output, got 'sum'"),
    ({"timesteps": [1, 2]}, "timesteps must be 8, one a step, got 2"),
    ({"timesteps": range(8), "timestep": "t"}, "timestep: Toy takes no 't'"),
    (
        {"cache": BacConfig()},
        "cache must be a config of none, uniform, interval, deepcache, taylor, teacache, first_bl",
    ),
    ({"cache": TeaCacheConfig()}, "cache=teacache needs what calibrate(run) measures"),
    ({"cache": FirstBlockConfig(blocks=3)}, "cache.blocks must be from 1 to 2 (3 blocks), got 3"),
    ({"cache": FirstBlockConfig(dynamic=False)}, "cache.dynamic must be true for a foreign model"),
    ({"cache": IntervalConfig(first_block=3)}, "cache.first_block must be from 0 to 2"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_mistakes_are_named_and_leave_the_model_alone(
    settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Toy()
    given = {"blocks": ["first", "rest"], "n_steps": 8, "streams": ("hidden",), **settings}
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        attach(model, **given)
    assert float(model(torch.ones(1))) == 24


def test_plans_are_saved_for_exactly_this_model(tmp_path: Path) -> None:
    cache = toy(WINDOW)
    cache.save(tmp_path / "plan.json")
    again = toy()
    again.load(tmp_path / "plan.json")
    assert again.summary()["plan"] == cache.summary()["plan"]
    assert outputs(again) == outputs(cache)
    other = toy()
    with torch.no_grad():
        other.model.weight.fill_(2)
    changed = attach_again(other)
    with pytest.raises(PlanError, match="made for another model"):
        changed.load(tmp_path / "plan.json")
    assert changed.plan.mask.all()
    with pytest.raises(PlanError, match="the plan has 8 steps, the generation 9"):
        toy(n_steps=9).load(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="or another kind"):
        toy(kind="output").load(tmp_path / "plan.json")


def attach_again(cache: Attached) -> Attached:
    cache.disable()
    return attach(cache.model, ["first", "rest"], 8, streams=("hidden",))


def test_summary_and_another_config_at_run_time() -> None:
    cache = toy(WINDOW)
    outputs(cache)
    summary = cache.summary()
    assert (summary["computed"], summary["hits"]) == (8 + 2 * 4, 2 * 4)
    assert summary["computed_share"] == summary["planned_share"] == pytest.approx(2 / 3)
    assert summary["method"].startswith("interval start=1 interval=3")
    cache.update_config(IntervalConfig(interval=1))
    assert outputs(cache) == [24 * x for x in INPUTS]
    assert (cache.summary()["hits"], cache.summary()["cache_bytes"]) == (0, 0)
    cache.update_config(WINDOW)
    cache.step(0)
    cache.model(torch.ones(1))
    cache.step(1)
    cache.model(torch.ones(1))
    assert cache.summary()["cache_bytes"] == 4
    cache.clear()
    assert (cache.summary()["computed"], cache.summary()["cache_bytes"]) == (0, 0)


def test_search_meets_the_ratio_and_uses_the_best(tmp_path: Path) -> None:
    cache = toy(WINDOW)

    def run() -> Tensor:
        return torch.tensor(outputs(cache, [1.0, 2, 3, 4, 5, 6, 7, 8]))

    found = cache.search(run, ratio=1.3, intervals=(2, 3), starts=(0, 2), path=tmp_path / "f.json")
    assert [f.score for f in found] == sorted(f.score for f in found)
    assert all(f.ratio >= 1.3 for f in found)
    assert {f.config.first_block for f in found} == {0, 1}
    assert cache.plan.mask.mean() == pytest.approx(1 / found[0].ratio)
    assert (tmp_path / "f.json").read_text().count('"score"') == len(found)
    with pytest.raises(ValueError, match="ratio must be at most 2 with intervals"):
        cache.search(run, ratio=3, intervals=(2,), starts=(0,))
    before = cache.plan.digest()

    def broken() -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.search(broken)
    assert cache.plan.digest() == before


@pytest.fixture(params=MODELS, scope="module")
def foreign(request: pytest.FixtureRequest) -> Foreign:
    return MODELS[request.param]()


@torch.no_grad()
def generation(foreign: Foreign, before: Callable[[int], None]) -> list[Tensor]:
    """What the model puts out in every step of a generation that steps on by its own outputs."""
    x, found = foreign.latent, []
    for step, t in enumerate(TIMESTEPS):
        before(step)
        out = foreign.call(foreign.model, x, t)
        found.append(out)
        x = x - 0.1 * out
    return found


def test_an_all_compute_plan_is_bit_equal_and_off_is_off(foreign: Foreign) -> None:
    plain = generation(foreign, lambda step: None)
    cache = attach(foreign.model, **foreign.attach_to)
    assert all(
        torch.equal(a, b) for a, b in zip(generation(foreign, cache.step), plain, strict=True)
    )
    cache.disable()
    again = generation(foreign, lambda step: None)
    assert all(torch.equal(a, b) for a, b in zip(again, plain, strict=True))


@pytest.mark.parametrize("kind", ["delta", "output"])
def test_what_leaves_a_window_in_diffusers_models(foreign: Foreign, kind: str) -> None:
    """Hooks outside the cache see what goes into and out of the stack."""
    whole = IntervalConfig(start=1, interval=3)
    cache = attach(foreign.model, cache=whole, kind=kind, **foreign.attach_to)
    first, last = cache.blocks[0], cache.blocks[-1]
    seen: list[tuple[Tensor, Tensor]] = []
    starts: list[Tensor] = []

    def into(module: nn.Module, args: Any, kwargs: Any) -> None:
        starts.append(kwargs.get("hidden_states", args[0] if args else None).clone())

    def out_of(module: nn.Module, args: Any, out: Any) -> None:
        place = foreign.outputs.index("hidden_states")
        seen.append((starts[-1], out[place] if isinstance(out, tuple) else out))

    handles = [
        first.module.register_forward_pre_hook(into, with_kwargs=True),
        last.module.register_forward_hook(out_of),
    ]
    found = generation(foreign, cache.step)
    for handle in handles:
        handle.remove()
    cache.disable()
    computed = cache.computed[:, 0].astype(bool)
    assert np.flatnonzero(computed).tolist() == [0, 1, 4, 7]
    for step in (2, 3, 5):
        anchor = int(np.flatnonzero(computed[:step])[-1])
        (then, stored), (now, got) = seen[anchor], seen[step]
        expected = stored if kind == "output" else now + (stored - then)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    plain = generation(foreign, lambda step: None)
    assert torch.equal(found[1], plain[1])
    assert not torch.equal(found[2], plain[2])
    assert found[-1].isfinite().all()


def test_all_methods_and_the_counter_on_diffusers_models(foreign: Foreign, tmp_path: Path) -> None:
    cache = attach(foreign.model, timesteps=TIMESTEPS, **foreign.attach_to)
    plain = generation(foreign, lambda step: None)[-1]
    for config in (
        IntervalConfig(start=1, first_block=1, n_blocks=2),
        DeepCacheConfig(compute_interval=2, always=[0, 3]),
        TaylorConfig(warm_up=2, cool_down=1, interval=3),
        FirstBlockConfig(threshold=0.5, cool_down=1),
    ):
        cache.update_config(config)
        out = generation(foreign, lambda step: None)[-1]
        assert 0 < float((out - plain).norm() / plain.norm()) < 0.5
        assert cache.summary()["hits"] > 0
    cache.save(tmp_path / "plan.json")
    assert CachePlan.load(tmp_path / "plan.json").n_steps == N_STEPS
    cache.disable()
