"""UNets in the fused engine: the same actions as the network's own modules, whatever is asked."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    CachePlan,
    DeepCacheConfig,
    FusedConfig,
    NoCacheConfig,
    ReferenceConfig,
    TaylorConfig,
    UniformConfig,
    accelerated,
    query_flops,
    resolve_engine,
    sites_of,
)
from accel.engines import backend
from accel.engines.calls import FusedCalls
from accel.kernels.native import library
from accel.kernels.operations import COPY, MISH, PLUS, Rows, Section, moved, norm
from accel.kernels.packed import Packed
from policies import DiffusionPolicy, from_reference
from tests.helpers.stock_unet import OBS, TO, VARIANTS, live_unet

N = 10
LOADED = library()
pytestmark = pytest.mark.skipif(LOADED is None, reason="no C compiler")

SAMPLERS: dict[str, dict[str, Any]] = {
    "ddpm, of a hundred": {"name": "ddpm", "steps": 5},
    "ddim": {"name": "ddim", "steps": 4},
    "dpmpp": {"name": "dpmpp", "steps": 6},
}


def inputs(n: int = 2) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


def small(variant: str = "global, scaled") -> DiffusionPolicy:
    return from_reference(live_unet(variant, steps=N))


def act(policy: DiffusionPolicy, plan: Any, engine: Any, n: int = 2) -> torch.Tensor:
    with accelerated(policy, plan, engine=engine) as fast:
        fast.act(*inputs(n))  # a query leaves nothing to the next
        return fast.act(*inputs(n))


def assert_same(policy: DiffusionPolicy, found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-4 in normalised units."""
    scale = policy.normalizer.params_dict["action"]["scale"]
    torch.testing.assert_close(found * scale, expected * scale, atol=1e-4, rtol=0)


def random_plan(policy: DiffusionPolicy, seed: int) -> CachePlan:
    """Random depths, and at times a forecast from the last two."""
    rng, sites = np.random.default_rng(seed), sites_of(policy)
    depths = [0, 0, *rng.integers(0, len(sites) + 1, N - 2)]
    mask = np.array([[not d or u < d - 1 for u in range(len(sites))] for d in depths])
    alpha = None
    if seed % 2:
        alpha = np.zeros((*mask.shape, 2))
        alpha[~mask] = [1.5, -0.5]
    return CachePlan(sites, mask, policy.fingerprint(), "random", alpha)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_actions_are_the_networks(variant: str, seed: int) -> None:
    policy = small(variant)
    for plan in (None, random_plan(policy, seed)):
        for n in (1, 3):
            expected = act(policy, plan, "reference", n)
            found = act(policy, plan, "fused", n)
            assert_same(policy, found, expected)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_under_every_sampler(sampler: dict[str, Any]) -> None:
    settings = dict(sampler)
    policy = small().with_sampler(settings.pop("name"), settings["steps"])
    expected = act(policy, UniformConfig(steps=3), "reference")
    found = act(policy, UniformConfig(steps=3), "fused")
    assert_same(policy, found, expected)


@pytest.mark.parametrize(
    "cache",
    [NoCacheConfig(), UniformConfig(steps=4), DeepCacheConfig(level=2), TaylorConfig(interval=3)],
    ids=lambda cache: str(cache.name),
)
def test_cells_and_cached_bytes_are_the_references(cache: Any) -> None:
    policy, stats = small(), []
    for engine in ("reference", "fused"):
        with accelerated(policy, cache, engine=engine) as fast:
            fast.act(*inputs())
            fast.act(*inputs())
            stats.append(fast.stats())
            assert isinstance(fast._engine, FusedCalls) == (engine == "fused")
    assert stats[0]["computed"] == stats[1]["computed"]
    assert cache.name == "none" or stats[0]["cache_bytes"] == stats[1]["cache_bytes"]


def test_a_rows_bits_depend_on_nothing_but_itself() -> None:
    policy = small()
    plan, (obs, _) = random_plan(policy, 0), inputs(5)
    found = []
    for threads, rows in ((1, [0, 1, 2, 3, 4]), (2, [0, 1, 2, 3, 4]), (1, [4, 2]), (1, [0])):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with accelerated(policy, plan) as fast:
                made = fast.act(obs[rows], [torch.Generator().manual_seed(row) for row in rows])
        finally:
            torch.set_num_threads(before)
        found.append((rows, made))
    together = found[0][1]
    for rows, made in found[1:]:
        assert torch.equal(made, together[rows])


def test_observations_of_the_last_query_are_forgotten() -> None:
    for variant in ("global", "local", "in-painting"):
        policy = small(variant)
        obs, _ = inputs()
        with accelerated(policy) as fast:
            fast.act(10 * obs.flip(0), inputs()[1])
            again = fast.act(obs, inputs()[1])
        assert torch.equal(again, act(policy, None, "fused"))


def test_weights_that_half_precision_holds_are_stored_in_it() -> None:
    policy = small()
    rounded = copy.deepcopy(policy)
    for p in rounded.model.parameters():
        p.data = p.data.half().float()
    expected = act(rounded, None, "reference")
    assert_same(rounded, act(rounded, None, "fused"), expected)
    if backend.half_works():  # the same weights, but for what half precision never stores: biases
        made = act(policy, None, FusedConfig(precision="half"))
        assert torch.allclose(made, expected, atol=0.05)
        assert not torch.equal(made, act(policy, None, "fused"))


@pytest.mark.parametrize("variant", ["global, scaled", "global", "local", "in-painting"])
def test_flops_are_without_what_is_computed_once(variant: str) -> None:
    """Linear layers of conditions, counted from the network's modules."""
    policy = small(variant)
    embedded = policy.sizes.diffusion_step_embed_dim
    named = dict(policy.model.named_modules())
    encoders = [
        module[1].weight
        for name, module in named.items()
        if name.endswith("cond_encoder")
        and "local_cond_encoder.1" not in name
        and name != "local_cond_encoder"
    ]
    of_time = sum(2 * weight.numel() for weight in encoders) + 16 * embedded**2
    once = sum(2 * len(weight) * (weight.shape[1] - embedded) for weight in encoders)
    everything = np.ones((N, len(sites_of(policy))))
    expected = query_flops(policy, everything) - N * of_time + once
    with accelerated(policy) as fast:
        fast.act(*inputs())
        assert fast.stats()["flops"] == expected


def test_who_runs_what(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    policy = small()
    monkeypatch.setattr(backend, "bfloat_cpu", lambda: False)
    assert resolve_engine(FusedConfig(), policy) == FusedConfig(backend="native")
    for config, words in (
        (FusedConfig(backend="torch"), "that precision is for native"),
        (FusedConfig(precision="bf16"), "this CPU has no instruction for products of bfloat16"),
        (FusedConfig(precision="half", backend="torch"), "that precision is for native"),
    ):
        said = f"engine.backend={config.backend} with engine.precision={config.precision} cannot"
        with pytest.raises(ValueError, match=f"{said} run here: {words}"):
            resolve_engine(config, policy)
    monkeypatch.setattr(backend, "is_compiled", lambda: False)
    with caplog.at_level(logging.INFO):
        assert resolve_engine(FusedConfig(), policy) == ReferenceConfig()
    assert "engine=reference runs this UNet: no compiled code" in caplog.text
    with pytest.raises(ValueError, match="cannot run here: no compiled code"):
        resolve_engine(FusedConfig(backend="native"), policy)


def test_operations_are_torchs() -> None:
    """Norm with Mish, scale, shift and shortcut; Mish by itself far out; copies and sums."""
    assert LOADED is not None
    packed, rng = Packed(LOADED), torch.Generator().manual_seed(0)
    for channels, groups in ((8, 2), (24, 8), (40, 4)):
        start, to, more = (Rows.zeros(3, 5, channels, 1, packed.panel) for _ in range(3))
        for rows in (start, more):
            rows.view.copy_(4 * torch.randn(rows.view.shape, generator=rng))
        module = torch.nn.GroupNorm(groups, channels)
        with torch.no_grad():
            module.weight.copy_(torch.randn(channels, generator=rng))
            module.bias.copy_(torch.randn(channels, generator=rng))
        time = torch.zeros(2 * start.ld)
        seen = torch.zeros(3, 2 * start.ld)
        for part in (time, seen):
            for i in range(2):
                own = part[..., i * start.ld : i * start.ld + channels]
                own.copy_(torch.randn(own.shape, generator=rng))
        told = time + seen
        scale, shift = (told[:, None, i * start.ld :][..., :channels] for i in range(2))
        operations = [
            norm(packed, module, start, to, told=0, scales=1, add=more.place()),
            moved(PLUS, more, to.place()),
        ]
        Section(LOADED, operations, slice(0, 3), torch.zeros(3 * start.ld))(time, seen)
        plain = torch.nn.functional.mish(module(start.view.mT).mT)
        expected = plain * scale + shift + 2 * more.view
        torch.testing.assert_close(to.view, expected, atol=2e-5, rtol=1e-5)
        assert bool((to.values[:, 0] == 0).all() and (to.values[:, -1] == 0).all())
    wide = torch.tensor([-1e30, -90.0, -20.0, -1.0, -1e-8, 0.0, 1e-8, 1.0, 30.0, 1e30, torch.nan])
    start, to = (Rows.zeros(1, 1, len(wide), 0, packed.panel) for _ in range(2))
    start.view.copy_(wide)
    run = [moved(MISH, start, start.place()), moved(COPY, start, to.place())]
    Section(LOADED, run, slice(0, 1), torch.zeros(1))(torch.zeros(1), torch.zeros(1, 1))
    expected = torch.nn.functional.mish(wide.double()).float()
    torch.testing.assert_close(to.view.flatten(), expected, atol=1e-30, rtol=1e-6, equal_nan=True)
