"""Values of the query before: nothing changes without weights, and rows are on their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accel import CachePlan, PlanError, UniformConfig, accelerated, resolve
from accel.caches import CACHES
from accel.engines.carrying import KEY
from accel.plans.across import Across
from accel.protocol import Compute
from policies import DiffusionPolicy, from_reference
from tests.helpers.stock import OBS, TO, live_policy
from tests.helpers.stock_unet import live_unet

N = 8
CONFIG = UniformConfig(steps=4, across=True)


def made(kind: str = "causal") -> DiffusionPolicy:
    return from_reference(live_policy(kind, steps=N))


def seen(rows: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(rows, TO, OBS, generator=torch.Generator().manual_seed(seed))


def noise(rows: int = 3, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(rows)]


def played(
    policy: DiffusionPolicy, cache: Any, n_queries: int = 4, memory: Any = None
) -> list[Tensor]:
    """The actions of some queries of three episodes, one after the other."""
    memory = [{} for _ in range(3)] if memory is None else memory
    with accelerated(policy, cache=cache, engine="reference") as fast:
        return [fast.act(seen(seed=q), noise(seed=q), memory) for q in range(n_queries)]


def planned(policy: DiffusionPolicy, **changed: Any) -> CachePlan:
    plan = resolve(policy, replace(CONFIG, **changed))
    assert plan.across is not None
    return plan


@pytest.mark.parametrize("kind", ["causal", "encoder-only"])
def test_weights_of_zero_change_nothing_to_the_bit(kind: str) -> None:
    policy = made(kind)
    without = resolve(policy, UniformConfig(steps=4))
    alpha = np.zeros((*without.mask.shape, 2))
    alpha[..., 0] = 0.5  # of its own query: without effect where nothing is taken
    zero = replace(without, across=Across(alpha))
    for a, b in zip(played(policy, without), played(policy, zero), strict=True):
        assert torch.equal(a, b)
    assert zero.digest() == without.digest()
    with accelerated(policy, cache=zero) as fast:  # which the fused engine runs as well
        assert not fast.keeps_memory


def test_full_queries_are_the_plan_without_it() -> None:
    """The first one of an episode, every second one from there on, and all without a memory."""
    policy = made()
    without = played(policy, UniformConfig(steps=4))
    found = played(policy, CONFIG)
    same = [torch.equal(a, b) for a, b in zip(found, without, strict=True)]
    assert same == [True, False, True, False]
    never = played(policy, replace(CONFIG, refresh=0))
    same = [torch.equal(a, b) for a, b in zip(never, without, strict=True)]
    assert same == [True, False, False, False]
    with accelerated(policy, cache=CONFIG, engine="reference") as fast:
        for q in range(2):
            assert torch.equal(fast.act(seen(seed=q), noise(seed=q)), without[q])


@pytest.mark.parametrize("refresh", [0, 2, 3])
def test_a_later_query_is_what_it_says_by_hand(refresh: int) -> None:
    """Weights of both ages and a bias, against branches that were recorded query by query."""
    policy = made()
    plan = planned(policy, refresh=refresh)
    assert plan.across is not None
    alpha = np.zeros((*plan.mask.shape, 2))
    steps = np.flatnonzero(plan.mask[:, 0])
    alpha[steps[1], 2:] = (0.25, 0.5)
    alpha[steps[2], :1] = (0.0, 1.0)
    width, live = policy.sizes.n_emb, policy.n_live + policy.sizes.encoder_only
    bias = torch.randn(*plan.mask.shape, live, width, generator=noise(1)[0]).numpy() * 0.1
    plan = replace(plan, across=Across(alpha, refresh), bias=bias)
    found = played(policy, plan)

    last: dict[tuple[int, int], Tensor] = {}
    age: int | None = None
    for query, actions in enumerate(found):
        full = age is None or (refresh > 0 and age >= refresh)
        now: dict[tuple[int, int], Tensor] = {}
        anchors: dict[int, Tensor] = {}

        def branch(step: int, site: int, compute: Compute) -> Tensor:
            own, before = alpha[step, site]
            extra = torch.from_numpy(bias[step, site])
            if plan.mask[step, site] and (full or not before):  # noqa: B023
                value = compute()
            elif plan.mask[step, site]:
                value = before * last[step, site]  # noqa: B023
                value = value + own * anchors[site] if own else value  # noqa: B023
                value[:, :live] += extra
            else:
                value = anchors[site].clone()  # noqa: B023
                value[:, :live] += extra
                return value
            anchors[site] = now[step, site] = value  # noqa: B023
            return value

        with torch.inference_mode():
            expected = policy.denoise(policy.encode(seen(seed=query)), noise(seed=query), branch)
        torch.testing.assert_close(actions, expected, rtol=1e-5, atol=1e-5)
        last, age = now, 1 if full or age is None else age + 1


def test_rows_do_not_depend_on_their_neighbours() -> None:
    """One that begins beside others that go on: the same bits as in a batch of its own kind."""
    policy = made()
    together = played(policy, CONFIG)
    memory: list[dict[str, Any]] = [{} for _ in range(3)]
    with accelerated(policy, cache=CONFIG, engine="reference") as fast:
        fast.act(seen(seed=0), noise(seed=0), memory)
        memory[1].clear()
        mixed = fast.act(seen(seed=1), noise(seed=1), memory)
        stats = fast.stats()
        without = played(policy, UniformConfig(steps=4))[1]
        assert torch.equal(mixed[0], together[1][0])
        assert torch.equal(mixed[2], together[1][2])
        assert torch.equal(mixed[1], without[1])
        assert [row[KEY].age for row in memory] == [2, 1, 2]
    across = stats["across"]
    assert (across["refresh"], across["rows"], across["reusing_rows"]) == (2, 6, 2)
    expected = (4 * across["full_flops"] + 2 * across["reusing_flops"]) / 6
    assert across["reusing_flops"] < across["full_flops"]
    assert stats["flops"] == pytest.approx(expected, rel=1e-9)
    n = np.array(stats["computed"]) + np.array(stats["hits"])
    assert (n == 2).all()


def test_a_memory_of_another_plan_is_none() -> None:
    policy, memory = made(), [{} for _ in range(3)]
    played(policy, CONFIG, 1, memory)
    other = replace(CONFIG, steps=5)
    alone = played(policy, UniformConfig(steps=5), 1)
    assert torch.equal(played(policy, other, 1, memory)[0], alone[0])


def test_a_timed_query_is_a_later_one_and_is_not_counted() -> None:
    policy, memory = made(), [{} for _ in range(3)]
    with accelerated(policy, cache=CONFIG, engine="reference") as fast:
        timed = fast.uncounted()
        for q in range(5):
            timed.act(seen(seed=q), noise(seed=q), memory)
        assert timed.stats()["across"]["reusing_rows"] == 12
        assert fast.stats()["n_queries"] == 0


def test_a_file_holds_it(tmp_path: Path) -> None:
    policy = made()
    plan = planned(policy, refresh=3)
    plan.save(tmp_path / "plan.json")
    again = CachePlan.load(tmp_path / "plan.json")
    assert again.digest() == plan.digest()
    assert again.across is not None
    assert again.across.refresh == 3
    content = json.loads((tmp_path / "plan.json").read_text())
    content["across"]["refresh"] = 2
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="digest"):
        CachePlan.load(tmp_path / "plan.json")
    resolve(policy, UniformConfig(steps=4)).save(tmp_path / "plan.json")
    assert "across" not in json.loads((tmp_path / "plan.json").read_text())


def test_a_plan_and_an_identity_without_it_are_what_they_were() -> None:
    policy, identity = made(), CACHES["uniform"].identity
    config = UniformConfig(steps=4)
    assert identity(config, policy) == {
        "name": "uniform",
        "steps": 4,
        "spacing": "quadratic",
        "power": 3.0,
    }
    assert identity(CONFIG, policy) == {**identity(config, policy), "across": True, "refresh": 2}
    plan = planned(policy)
    assert plan.digest() != resolve(policy, config).digest()
    assert replace(plan, across=None).digest() == resolve(policy, config).digest()


def test_which_steps_uniform_takes() -> None:
    plan = planned(made(), steps=5)
    assert plan.across is not None
    steps = np.flatnonzero(plan.mask[:, 0])
    assert np.flatnonzero(plan.across.taken.any(axis=1)).tolist() == steps[:2].tolist()


@pytest.mark.parametrize(
    ("cell", "weights", "said"),
    [
        ((1, 0), (0.0, 1.0), "takes a value of the query before that it does not compute"),
        ((0, 0), (0.5, 0.5), "uses a stored value of its own query, there is none"),
        ((0, 0), (0.0, np.nan), "is not finite"),
    ],
)
def test_plans_that_do_not_hold_together(
    cell: tuple[int, int], weights: tuple[float, float], said: str
) -> None:
    plan = resolve(made(), UniformConfig(steps=2))
    alpha = np.zeros((*plan.mask.shape, 2))
    alpha[cell] = weights
    with pytest.raises(PlanError, match=said):
        replace(plan, across=Across(alpha))


@pytest.mark.parametrize("refresh", [1, -1, True, 2.0])
def test_refresh_of_a_plan(refresh: Any) -> None:
    plan = planned(made())
    assert plan.across is not None
    with pytest.raises(PlanError, match=r"across\.refresh must be 0 or at least 2"):
        replace(plan, across=replace(plan.across, refresh=refresh))


def test_mistakes() -> None:
    policy = made()
    with pytest.raises(ValueError, match=r"cache\.refresh must be 0"):
        UniformConfig(across=True, refresh=1)
    with pytest.raises(ValueError, match=r"cache\.refresh=3 needs cache\.across=true"):
        UniformConfig(refresh=3)
    with pytest.raises(ValueError, match=r"needs cache\.steps of at least 2"):
        UniformConfig(steps=1, across=True)
    with (
        pytest.raises(PlanError, match="needs engine=reference, got engine=fused"),
        accelerated(policy, cache=CONFIG),
    ):
        pass
    with pytest.raises(PlanError, match="is of branches or blocks"):
        resolve(from_reference(live_unet("global", steps=N)), CONFIG)
