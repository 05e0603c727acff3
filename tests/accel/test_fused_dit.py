"""DiTs in the fused engine: what the network computes, row by row, with codes and two threads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from accel import (
    DuQuantConfig,
    FusedConfig,
    RtnConfig,
    UniformConfig,
    accelerated,
    collect,
    quantize,
    resolve_engine,
)
from accel.engines import backend
from accel.engines.calls import FusedCalls
from accel.kernels import native
from policies import DiffusionPolicy
from tests.accel.test_fused import random_plan
from tests.accel.test_helper import threads
from tests.helpers.dit import DIFFUSION, dit_policy, flow, noise, query

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")

NATIVE = FusedConfig(backend="native")
SAMPLERS = {"ddpm": DIFFUSION, "euler": flow("euler", 8), "rk4": flow("rk4", 2)}
FORMS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learnt places": {"use_rope": False, "use_positional_encoding": True},
    "three heads": {"n_emb": 48, "n_head": 3},
    "one layer, wide heads": {"n_layer": 1, "n_emb": 64, "n_head": 1},
}


def acted(policy: DiffusionPolicy, engine: Any, plan: Any = None, n: int = 3) -> Tensor:
    with accelerated(policy, plan, engine=engine) as fast:
        assert isinstance(fast._engine, FusedCalls) == (engine != "reference")
        actions: Tensor = fast.act(*query(n))
    return actions


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("form", FORMS)
def test_actions_are_the_networks(form: str, sampler: str) -> None:
    policy = dit_policy(SAMPLERS[sampler], **FORMS[form])
    for seed, n in ((0, 1), (1, 3)):
        plans = (None, random_plan(policy, seed, 0.5, 2, biased=bool(seed)))
        for plan in plans:
            found, expected = (acted(policy, engine, plan, n) for engine in (NATIVE, "reference"))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_rows_bits_depend_on_nothing_but_itself() -> None:
    policy = dit_policy(SAMPLERS["euler"])
    obs, _ = query(5)
    for plan in (None, UniformConfig(steps=3)):
        with accelerated(policy, plan, engine=NATIVE) as fast:
            together = fast.act(obs, noise(5))
        for n, rows in ((2, [0, 1, 2, 3, 4]), (1, [4, 2]), (2, [3])):
            with threads(n), accelerated(policy, plan, engine=NATIVE) as fast:
                made = fast.act(obs[rows], [torch.Generator().manual_seed(r) for r in rows])
            assert torch.equal(made, together[rows])


def test_the_last_query_is_forgotten() -> None:
    policy = dit_policy(SAMPLERS["euler"])
    obs, _ = query(2)
    with accelerated(policy, engine=NATIVE) as fast:
        fast.act(10 * obs.flip(0), noise(2, 5))
        assert torch.equal(fast.act(obs, noise(2)), acted(policy, NATIVE, n=2))


@pytest.mark.parametrize("precision", ["half", "bf16"])
def test_rounded_weights_stay_near(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "bfloat_cpu", lambda: True)
    monkeypatch.setattr(native.library(), "bfloat_works", lambda: 1)
    policy = dit_policy(SAMPLERS["euler"], scale=1.0)
    if precision == "half" and not native.half_works():
        pytest.skip("this CPU loads no half precision")
    config = resolve_engine(FusedConfig(precision=precision), policy)
    found, expected = acted(policy, config), acted(policy, "reference")
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("config", [RtnConfig(), DuQuantConfig(weight_bits=4, row_rot="restore")])
@pytest.mark.parametrize("modulated", [True, False])
def test_codes_are_the_layers_own(config: Any, modulated: bool) -> None:
    """Also those of modulations, which see time and observations as one vector."""
    policy = dit_policy(SAMPLERS["euler"], scale=1.5, n_emb=64, timestep_embed_dim=64)
    if not modulated:
        config = replace(config, exclude=(*config.exclude, "modulation"))
    statistics = collect(policy, [query(8)], 1, run=lambda p, batch: p.act(*batch))
    made = quantize(policy, statistics, config, backend="torch")
    assert any("modulation" in layer.name for layer in made.layers) == modulated
    plain, found = policy.act(*query(3)), []
    for engine in (NATIVE, "reference"):
        for n in (3, 1):
            with accelerated(policy, None, made, engine=engine) as fast:
                found.append(fast.act(query(3)[0][:n], noise(n)))
                counted = {layer["name"] for layer in fast.stats()["quantised"]}
    assert counted == {layer.name for layer in made.layers}
    error = float((found[2] - plain).norm())
    assert error > 0
    # a code more or less, where sums are in another order, against what codes cost
    assert float((found[0] - found[2]).norm()) < 0.3 * error
    assert torch.equal(found[1], found[0][:1])
