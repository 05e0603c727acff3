"""Warm starts: nothing changes without them, and what they begin with is what the memory says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from accel import UniformConfig, WarmConfig, accelerated
from accel.engines.backend import FusedConfig
from accel.joining import weights
from accel.warm import COMMITTED, EXECUTED, KEY
from policies import DiffusionPolicy, SamplerConfig, from_reference
from tests.helpers.stock import OBS, TO, VARIANTS, live_policy
from tests.helpers.stock_unet import live_unet

N, K = 8, 5
KINDS: dict[str, Any] = {
    **{name: lambda name=name: live_policy(name, steps=N) for name in VARIANTS},
    "UNet": lambda: live_unet("global", steps=N),
    "UNet, in-painting": lambda: live_unet("in-painting", steps=N),
}
ENGINES = ["reference", "fused"]


def seen(rows: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, TO, OBS, generator=torch.Generator().manual_seed(seed))


def noise(rows: int = 3, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(rows)]


def made(kind: str = "causal") -> DiffusionPolicy:
    return from_reference(KINDS[kind]())


def memories(rows: int = 3) -> list[dict[str, Any]]:
    return [{} for _ in range(rows)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_first_query_is_a_full_one_to_the_bit(kind: str, engine: str) -> None:
    """And so are all of them from step 0, the end of pure noise."""
    policy, kept = made(kind), memories()
    with accelerated(policy, engine=engine) as plain:
        expected = plain.act(seen(), noise())
    with accelerated(policy, engine=engine, warm=WarmConfig(start=K)) as warm:
        found = warm.act(seen(), noise(), kept)
        without = warm.act(seen(), noise())
    assert torch.equal(found, without)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    with accelerated(policy, engine=engine, warm=WarmConfig(start=0)) as none:
        for _ in range(2):
            assert torch.equal(none.act(seen(), noise(), kept), expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_second_query_goes_on_from_the_shifted_chunk(kind: str, engine: str) -> None:
    """The same as the rest of the sampler's steps by hand, from the same beginning."""
    policy, kept = made(kind), memories(1)
    far = policy.with_n_action_steps(policy.longest_chunk)
    with accelerated(policy, engine=engine, warm=WarmConfig(start=K)) as warm:
        warm.act(seen(1), noise(1), kept)
        found = warm.act(seen(1, 2), noise(1, 2), kept)
        assert warm.stats()["warm"] == {"from": K, "rows": 2, "warm_rows": 1, "calls": N - K / 2}
    chunk = policy.normalizer.normalize("action", far.act(seen(1), noise(1)))[0]
    length = policy.config.length
    guess = torch.zeros(1, length, policy.sizes.input_dim)
    for place in range(length):
        index = place - policy.first_action + policy.n_action_steps
        guess[0, place, : policy.action_dim] = chunk[min(max(index, 0), len(chunk) - 1)]
    generator, table, cond = noise(1, 2)[0], policy.table, policy.encode(seen(1, 2))
    level = float(policy.alpha_bar[K])
    drawn = torch.randn(guess.shape, generator=generator)
    x = level**0.5 * guess + (1 - level) ** 0.5 * drawn
    last: list[torch.Tensor] = []
    with torch.no_grad():
        for s in range(K, N):
            policy._inpaint(x, cond)
            timestep = torch.tensor([int(table.timesteps[s])])
            out = policy.model(x, timestep, cond if policy.sizes.obs_as_cond else None)
            z = torch.randn(guess.shape, generator=generator) if table.draws[s] else None
            x = table.step(s, x, out, z, last)
    actions = policy.normalizer.unnormalize("action", x[..., : policy.action_dim])
    expected = actions[:, policy.first_action :][:, : policy.n_action_steps]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_follows_the_chunk_may_be_noise() -> None:
    policy, kept = made(), memories(1)
    found = []
    for fill in ("repeat", "noise"):
        with accelerated(policy, warm=WarmConfig(start=N - 1, fill=fill)) as warm:
            kept = memories(1)
            warm.act(seen(1), noise(1), kept)
            found.append(warm.act(seen(1, 2), noise(1, 2), kept))
    assert not torch.allclose(found[0], found[1])


def test_a_scene_that_jumped_is_asked_in_full() -> None:
    policy, kept = made(), memories(2)
    near, far = seen(1), 50 * seen(1)
    with accelerated(policy, warm=WarmConfig(start=K, jump=1.0)) as warm:
        warm.act(near.expand(2, -1, -1), noise(2), kept)
        found = warm.act(torch.cat([near, far]), noise(2, 1), kept)
        assert warm.stats()["warm"]["warm_rows"] == 1
    with accelerated(policy) as plain:
        expected = plain.act(torch.cat([near, far]), noise(2, 1))
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], expected[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["causal", "UNet"])
def test_rows_do_not_meet(kind: str) -> None:
    """What is warm and what is not beside a row changes none of its bits, nor its memory."""
    policy, found = made(kind), []
    with accelerated(policy, warm=WarmConfig(start=K)) as warm:
        for others in ("warm", "full"):
            kept = memories()
            warm.act(seen(), noise(), kept)
            if others == "full":
                kept[1], kept[2] = {}, {}
            found.append((warm.act(seen(3, 2), noise(3, 2), kept)[0], kept[0][KEY].actions))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["causal", "UNet"])
def test_cells_and_flops_are_of_the_steps_that_ran(kind: str) -> None:
    policy, kept = made(kind), memories(1)
    with accelerated(policy, warm=WarmConfig(start=K)) as warm:
        for query in range(4):
            warm.act(seen(1, query), noise(1, query), kept)
        stats = warm.stats()
        whole, rest = (part.stats()["flops"] for part in (warm.full, warm.tail))
    computed = np.array(stats["computed"])
    assert computed[:K].max() == computed[:K].min() == 1
    assert computed[K:].max() == computed[K:].min() == stats["n_queries"] == 4
    assert stats["flops"] == round(whole / 4 + 3 * rest / 4)
    assert rest < whole


def test_a_flow_is_refused() -> None:
    sampler = SamplerConfig(kind="euler", steps=4, prediction_type="velocity")
    flowing = DiffusionPolicy(replace(made().config, sampler=sampler))
    with pytest.raises(ValueError, match="sampler=euler follows a velocity"):
        flowing.from_step(1)


def test_what_is_refused() -> None:
    policy = made()
    for settings, words in (
        ({"start": -1}, "warm.from must be a whole number of at least 0, got -1"),
        ({"fill": "zeros"}, "warm.fill must be one of repeat, noise, got 'zeros'"),
        ({"jump": 0.0}, "warm.jump must be null or above 0, got 0.0"),
        ({"join": "x"}, "warm.join must be one of none, hard, soft, got 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            WarmConfig(**settings)
    for more, words in (
        ({"warm": WarmConfig(start=N)}, f"warm.from must be below {N}, the steps of the sampler"),
        ({"warm": WarmConfig(), "cache": UniformConfig(steps=2)}, "warm=chunk needs cache=none"),
    ):
        with pytest.raises(ValueError, match=words), accelerated(policy, **more):
            pass


@pytest.mark.parametrize("engine", ["reference", "fused", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decided_stays(kind: str, engine: str) -> None:
    """The first actions of a chunk that is held to the last one are the last one's."""
    policy, kept = made(kind), memories(2)
    runs = FusedConfig(backend="torch") if engine == "torch" and kind in VARIANTS else engine
    if runs == "torch":
        pytest.skip("UNets have no program in torch")
    with accelerated(policy, engine=runs, warm=WarmConfig(start=0, join="hard")) as warm:
        warm.act(seen(2), noise(2), kept)
        for row, n_done in zip(kept, (1, 2), strict=True):
            row |= {EXECUTED: n_done, COMMITTED: 1}
        last = [row[KEY].actions for row in kept]
        actions = warm.act(seen(2, 2), noise(2, 2), kept)
    found = policy.normalizer.normalize("action", actions)
    with accelerated(policy, engine="reference", warm=WarmConfig(start=0, join="hard")) as plain:
        again = memories(2)
        plain.act(seen(2), noise(2), again)
        for row, n_done in zip(again, (1, 2), strict=True):
            row |= {EXECUTED: n_done, COMMITTED: 1}
        expected = plain.act(seen(2, 2), noise(2, 2), again)
    for row, n_done in enumerate((1, 2)):
        torch.testing.assert_close(found[row, 0], last[row][n_done], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        actions, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def test_what_was_executed_is_held_and_what_is_not_committed_is_free() -> None:
    held = weights("hard", torch.arange(6) + 1, 8, 3, 0)
    assert held is not None
    assert held.tolist() == [1, 1, 0, 0, 0, 0]


def test_a_soft_join_lets_go_little_by_little() -> None:
    place = torch.arange(12)
    held = weights("soft", place - 1, 8, 3, 2)
    assert held is not None
    assert held[place < 1].tolist() == [0]  # before the last chunk
    assert held[1:6].tolist() == [1] * 5  # executed, and committed
    assert (held[5:9].diff() < 0).all()
    assert 0 < held[8] < 0.2
    assert held[9:].tolist() == [0, 0, 0]  # after it
    assert weights("none", place, 8, 3, 2) is None
