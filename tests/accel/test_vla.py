"""Caches on the action experts of small policies built like SmolVLA, pi0 and pi0.5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel import (
    BacConfig,
    CachePlan,
    Calibration,
    DeepCacheConfig,
    FirstBlockConfig,
    HashAbConfig,
    IntervalConfig,
    NoCacheConfig,
    PlanError,
    TaylorConfig,
    UniformConfig,
)
from accel.vla import accelerate_vla, calibrate_vla, find_vla
from tests.helpers.vla_models import KINDS, SmallVla, batch_of, noise_of, small_vla

DTYPES = [torch.float32, torch.bfloat16]
CACHES: dict[str, Any] = {
    "uniform": UniformConfig(steps=3),
    "interval": IntervalConfig(start=1, interval=3),
    "window": IntervalConfig(start=0, interval=4, first_block=1, n_blocks=2),
    "deepcache": DeepCacheConfig(compute_interval=3, always=[3]),
    "taylor": TaylorConfig(order=2, warm_up=3, cool_down=0, interval=4),
    "bands": TaylorConfig(low_order=0, high_order=2, warm_up=3, cool_down=0, interval=4),
    "bac": BacConfig(steps=3),
    "blocks": BacConfig(steps=3, layout="block", budget="global"),
    "hash_ab": HashAbConfig(steps=3, drift=False),
    "fitted": HashAbConfig(steps=3, forecast="fitted", drift=False),
}
CALIBRATED = ("bac", "blocks", "hash_ab", "fitted")
DRIFT = HashAbConfig(steps=3)  # adds how the calibration's mean moves from step to step


@pytest.fixture(scope="module")
def policies() -> dict[tuple[str, torch.dtype], SmallVla]:
    return {(kind, dtype): small_vla(kind, dtype) for kind in KINDS for dtype in DTYPES}


@pytest.fixture(scope="module")
def calibrations(
    policies: dict[tuple[str, torch.dtype], SmallVla],
) -> Callable[[str, torch.dtype], Calibration]:
    made: dict[tuple[str, torch.dtype], Calibration] = {}

    def of(kind: str, dtype: torch.dtype) -> Calibration:
        if (kind, dtype) not in made:
            policy = policies[kind, dtype]
            made[kind, dtype] = calibrate_vla(policy, [batch_of(policy, 8)], progress=False)
        return made[kind, dtype]

    return of


def state_of(policy: SmallVla) -> list[Any]:
    """What is set on every object of a policy, and its weights."""
    owners: list[Any] = list(policy.modules())
    return [sorted(vars(owner)) for owner in owners] + [
        value.clone() for value in policy.state_dict().values()
    ]


def same(before: list[Any], after: list[Any]) -> bool:
    pairs = zip(before, after, strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@contextmanager
def one_input(policy: SmallVla) -> Iterator[None]:
    """Every step of a query gets the input of its first."""
    core, first = policy.model, list[tuple[Tensor, Tensor]]()
    embed = core.embed_suffix

    def same_every_step(x_t: Tensor, timestep: Tensor) -> Any:
        if timestep[0] == 1:
            first[:] = [(x_t, timestep)]
        return embed(*first[0])

    core.embed_suffix = same_every_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        del core.embed_suffix


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_computed_is_the_plain_policy_to_the_bit(
    kind: str, dtype: torch.dtype, policies: Any
) -> None:
    policy = policies[kind, dtype]
    batch, noise, before = batch_of(policy, 2), noise_of(policy, 2), state_of(policy)
    plain = policy.predict_action_chunk(batch, noise)
    with accelerate_vla(policy, NoCacheConfig()) as fast:
        assert torch.equal(policy.predict_action_chunk(batch, noise), plain)
        assert torch.equal(policy.predict_action_chunk(batch, noise), plain)
    stats = fast.stats()
    assert (stats["queries"], stats["computed_share"]) == (2, 1.0)
    # keys and values of the prefix, of two layers, in nine steps of two queries
    assert stats["projections_saved"] == (2 * 2 * 9 * 2 if kind == "smolvla" else 0)
    assert stats["prefix_ms"]["median"] > 0 < stats["denoise_ms"]["last"]
    assert same(before, state_of(policy))
    assert torch.equal(policy.predict_action_chunk(batch, noise), plain)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in CACHES if name not in CALIBRATED]
    + [("smolvla", name) for name in CALIBRATED],
)
def test_one_input_in_every_step_gives_the_plain_output(
    kind: str, name: str, policies: Any, calibrations: Any
) -> None:
    for dtype in DTYPES:
        policy = policies[kind, dtype]
        batch, noise = batch_of(policy, 2, seed=9), noise_of(policy, 2)
        calibration = calibrations(kind, dtype) if name in CALIBRATED else None
        with one_input(policy):
            plain = policy.predict_action_chunk(batch, noise)
            with accelerate_vla(policy, CACHES[name], calibration) as fast:
                found = policy.predict_action_chunk(batch, noise)
        assert fast.stats()["computed_share"] < 0.8
        # a hit of bfloat16 is the stored value itself, but for what a forecast rounds
        assert (found - plain).abs().max() <= (1e-5 if dtype == torch.float32 else 0.02), dtype


def test_a_drift_of_such_queries_is_none(policies: Any) -> None:
    policy = policies["pi05", torch.float32]
    batch, noise = batch_of(policy, 2, seed=9), noise_of(policy, 2)
    with one_input(policy):
        calibration = calibrate_vla(policy, [batch_of(policy, 8)], progress=False)
        plain = policy.predict_action_chunk(batch, noise)
        with accelerate_vla(policy, DRIFT, calibration) as fast:
            found = policy.predict_action_chunk(batch, noise)
    assert fast.plan.bias is not None
    assert (found - plain).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in KINDS for name in ("uniform", "taylor", "window")]
    + [(kind, name) for kind in ("smolvla", "pi05") for name in ("hash_ab", "drift")],
)
def test_hits_are_what_the_plan_says(
    kind: str, name: str, policies: Any, calibrations: Any
) -> None:
    policy = policies[kind, torch.float32]
    calibration = calibrations(kind, torch.float32) if name in ("hash_ab", "drift") else None
    batch, noise = batch_of(policy), noise_of(policy)
    plain = policy.predict_action_chunk(batch, noise)
    with accelerate_vla(policy, CACHES.get(name, DRIFT), calibration) as fast:
        found = policy.predict_action_chunk(batch, noise)
    assert (fast.computed == fast.plan.mask).all()
    assert fast.stats()["cache_bytes"] > 0
    apart = float((found - plain).norm() / plain.norm())
    assert 1e-6 < apart < 0.6
    # the oracle: hooks that put stored sums in the place of what o_proj and mlp gave
    assert torch.allclose(found, by_hooks(policy, fast.plan, batch, noise), atol=1e-5)


def by_hooks(policy: SmallVla, plan: CachePlan, batch: Any, noise: Tensor) -> Tensor:
    """A query in which everything is computed, and hits are replaced afterwards."""
    step, kept, handles = [-1], dict[int, list[Tensor]](), []
    layers: Any = find_vla(policy).layers

    def of(site: int) -> Callable[..., Any]:
        def replace(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            if site == 0:
                step[0] += 1
            t, stored = step[0], kept.setdefault(site, [])
            if plan.mask[t, site]:
                stored.insert(0, out.clone())
                return out
            weights = [1.0] if plan.alpha is None else plan.alpha[t, site].tolist()
            total = sum(w * value for w, value in zip(weights, stored, strict=False))
            assert isinstance(total, Tensor)
            return total if plan.bias is None else total + torch.from_numpy(plan.bias[t, site])

        return replace

    for i, layer in enumerate(layers):
        handles.append(layer.module.self_attn.o_proj.register_forward_hook(of(2 * i)))
        handles.append(layer.module.mlp.register_forward_hook(of(2 * i + 1)))
    try:
        return policy.predict_action_chunk(batch, noise)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_a_hit_is_not_computed(kind: str, policies: Any) -> None:
    policy = policies[kind, torch.float32]
    layer, calls = find_vla(policy).layers[0].module, dict[str, int]()
    parts = {n: getattr(layer.self_attn, n) for n in ("q_proj", "k_proj", "v_proj", "o_proj")}
    parts |= {"down_proj": layer.mlp.down_proj}

    def count(name: str, module: Any) -> None:
        real = module.forward

        def counted(x: Tensor) -> Tensor:
            calls[name] = calls.get(name, 0) + 1
            out: Tensor = real(x)
            return out

        module.forward = counted

    for name, module in parts.items():
        count(name, module)
    try:
        with accelerate_vla(policy, UniformConfig(steps=3)):
            policy.predict_action_chunk(batch_of(policy), noise_of(policy))
    finally:
        for module in parts.values():
            del module.forward
    assert calls == dict.fromkeys(parts, 3)


def test_rows_do_not_depend_on_each_other(policies: Any) -> None:
    policy = policies["smolvla", torch.float32]
    batch, noise = batch_of(policy, 3), noise_of(policy, 3)
    with accelerate_vla(policy, TaylorConfig(warm_up=2, interval=3)):
        both = policy.predict_action_chunk(batch, noise)
        one = {k: v[1:2] for k, v in batch.items()}
        assert torch.allclose(policy.predict_action_chunk(one, noise[1:2]), both[1:2], atol=1e-5)


def test_select_action_and_its_queue_are_the_policy_s_own(policies: Any) -> None:
    policy = policies["pi0", torch.float32]
    batch, noise = batch_of(policy), noise_of(policy)
    policy.reset()
    with accelerate_vla(policy, UniformConfig(steps=2)) as fast:
        actions = [policy.select_action(batch, noise) for _ in range(5)]
        assert fast.stats()["queries"] == 2
    assert torch.equal(actions[0], actions[4])
    policy.reset()


def test_a_plan_is_saved_and_fits_these_weights_only(tmp_path: Path, calibrations: Any) -> None:
    policy = small_vla("pi05")
    calibration = calibrations("pi05", torch.float32)
    fast = accelerate_vla(policy, HashAbConfig(steps=3), calibration)
    batch, noise = batch_of(policy), noise_of(policy)
    found = policy.predict_action_chunk(batch, noise)
    fast.plan.save(tmp_path / "plan.json")
    calibration.save(tmp_path / "calibration.json")
    fast.disable()
    again = accelerate_vla(policy, CachePlan.load(tmp_path / "plan.json"))
    assert torch.equal(policy.predict_action_chunk(batch, noise), found)
    again.update_config(BacConfig(steps=3), Calibration.load(tmp_path / "calibration.json"))
    policy.predict_action_chunk(batch, noise)
    assert again.stats()["queries"] == 1
    again.disable()
    with torch.no_grad():
        policy.model.action_in_proj.weight += 1
    for cache, given in ((fast.plan, None), (BacConfig(steps=3), calibration)):
        with pytest.raises(PlanError, match="fingerprints differ"):
            accelerate_vla(policy, cache, given)
    assert torch.equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(batch)) is (
        False
    )  # noise of its own


def test_what_is_not_offered_is_refused_by_name(policies: Any) -> None:
    policy = policies["smolvla", torch.float32]
    before = state_of(policy)
    with pytest.raises(TypeError, match="none, uniform, bac, hash_ab, interval, deepcache, taylor"):
        accelerate_vla(policy, FirstBlockConfig())
    with pytest.raises(PlanError, match="cache=bac needs a calibration"):
        accelerate_vla(policy, BacConfig())
    with pytest.raises(PlanError, match=r"cache\.first_block must be from 0 to 3"):
        accelerate_vla(policy, IntervalConfig(first_block=4))
    with pytest.raises(ValueError, match="at least 8 queries, got 3 rows in 1 batches"):
        calibrate_vla(policy, [batch_of(policy, 3)])
    with pytest.raises(RuntimeError, match=r"eval mode: call policy\.eval"):
        calibrate_vla(small_vla().train(), [batch_of(policy, 8)])
    with pytest.raises(TypeError, match="Linear has no sample_actions, denoise_step, embed_prefix"):
        accelerate_vla(nn.Linear(2, 2))
    other = small_vla()
    del other.model.vlm_with_expert.lm_expert.layers[2].mlp
    with pytest.raises(TypeError, match=r"lm_expert\.layers\.2 has no mlp"):
        accelerate_vla(other)
    other.model.vlm_with_expert.lm_expert.layers = nn.ModuleList()
    with pytest.raises(TypeError, match=r"vlm_with_expert\.lm_expert\.layers must hold layers"):
        accelerate_vla(other)
    assert same(before, state_of(policy))
