"""The records of policy families: each is whole, and one from outside of the project works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import accel
import policies
from accel import CACHES, ENGINES, accelerated, branch_errors, calibrate, resolve
from accel.plans.able import check_branches, check_quantizable
from policies import (
    CheckpointError,
    DiffusionPolicy,
    PolicyConfig,
    SamplerConfig,
    export_reference,
    from_reference,
    load_policy,
    save_policy,
)
from policies.reference.observers import OBSERVERS
from tests.helpers.dit import dit_policy
from tests.helpers.stock import live_policy
from tests.helpers.stock_unet import live_unet

LIVE: dict[str, Callable[[], Any]] = {"transformer": live_policy, "unet": live_unet}
OURS = sorted(LIVE)
ALL = sorted([*LIVE, "dit"])


def made(name: str) -> DiffusionPolicy:
    """A small policy of a family, as the reference implementation has it where it does."""
    return from_reference(LIVE[name]()) if name in LIVE else dit_policy()


def test_each_family_has_both_records() -> None:
    assert sorted(policies.FAMILIES) == ALL
    assert sorted(accel.FAMILIES) == sorted([*ALL, "blocks", "vla"])  # live ones have no policy


@pytest.mark.parametrize("name", OURS)
def test_each_entry_of_a_record(name: str) -> None:
    family, policy = policies.FAMILIES[name], from_reference(LIVE[name]())
    assert (family.name, family.sizes.family, policy.sizes.family) == (name, name, name)
    assert is_dataclass(family.sizes)
    assert family.mark in {f.name for f in fields(family.sizes)}
    assert isinstance(policy.sizes, family.sizes)
    assert isinstance(family.network(policy.sizes), type(policy.model))
    assert {n for n, _ in policy.model.named_buffers()} >= set(family.masks)
    reader, *images = family.readers
    assert not reader.observes
    assert images
    assert all(other.observes in OBSERVERS and other.live is None for other in images)
    assert hasattr(policy.model, reader.mark)
    assert reader.live is not None
    assert reader.live(LIVE[name]()) == policy.sizes
    assert reader.key("model._dummy_variable") == ""
    assert family.exporter is not None
    assert family.exporter.kind == name
    for other in policies.FAMILIES.values():
        if other is not family and other.readers:
            assert other.mark not in {f.name for f in fields(family.sizes)}
            assert not hasattr(policy.model, other.readers[0].mark)


@pytest.mark.parametrize("name", ALL)
def test_each_entry_of_accels_record(name: str) -> None:
    family, policy = accel.FAMILIES[name], made(name)
    sites = family.sites(policy.sizes)
    assert sites == accel.sites_of(policy)
    assert family.costs is not None
    assert family.costs.sites(policy).shape == (len(sites),)
    assert family.costs.rest(policy) > 0
    assert (family.costs.fused is not None) == ("fused" in family.engines)
    assert set(family.engines) <= set(ENGINES)
    assert "reference" in family.engines
    assert family.called in family.lacks("cache=x", "y")
    assert (family.first is not None) == family.calibratable


@pytest.mark.parametrize("name", ALL)
def test_the_caches_that_a_record_names_are_those_that_run(name: str) -> None:
    """A calibrated one that runs asks for its calibration, `plan` for its file."""
    family, policy = accel.FAMILIES[name], made(name)
    for cache, method in CACHES.items():
        try:
            resolve(policy, method.config())
        except ValueError as error:
            words = str(error)
            runs = cache == "plan" or (method.calibrated and "needs a calibration of" in words)
        else:
            runs = True
        assert runs == (cache in family.caches), cache


@dataclass
class MlpSizes(policies.Sizes):
    """Everything in one row: the trajectory, the observations and the timestep."""

    family: ClassVar[str] = "mlp"

    input_dim: int
    output_dim: int
    horizon: int
    n_obs_steps: int
    cond_dim: int
    width: int = 16


class Mlp(nn.Module):
    def __init__(self, sizes: MlpSizes) -> None:
        super().__init__()
        self.shape = (sizes.horizon, sizes.output_dim)
        seen = sizes.horizon * sizes.input_dim + sizes.n_obs_steps * sizes.cond_dim + 1
        self.layers = nn.Sequential(
            nn.Linear(seen, sizes.width), nn.Mish(), nn.Linear(sizes.width, np.prod(self.shape))
        )

    def forward(self, sample: Tensor, timestep: Tensor, cond: Tensor, branch: Any = None) -> Tensor:
        row = torch.cat([sample.flatten(1), cond.flatten(1), timestep[:, None] / 100], dim=1)
        out: Tensor = self.layers(row)
        return out.unflatten(1, self.shape)


def mlp_flops(policy: Any) -> int:
    return 2 * sum(p.numel() for p in policy.model.parameters() if p.ndim == 2)


@pytest.fixture
def mlp(monkeypatch: pytest.MonkeyPatch) -> DiffusionPolicy:
    """A policy of a family that is registered as a user would, and gone after the test."""
    monkeypatch.setitem(policies.FAMILIES, "mlp", policies.Family(sizes=MlpSizes, network=Mlp))
    costs = accel.Costs(lambda policy: np.zeros(0), mlp_flops)
    monkeypatch.setitem(accel.FAMILIES, "mlp", accel.Family(called="an MLP", costs=costs))
    torch.manual_seed(0)
    config = PolicyConfig(
        MlpSizes(3, 3, 8, 2, 5), 5, 3, 4, sampler=SamplerConfig(num_train_timesteps=10, steps=10)
    )
    return DiffusionPolicy(config).eval()


def query(n: int = 2) -> tuple[Tensor, list[torch.Generator]]:
    obs = torch.randn((n, 2, 5), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(n)]


def test_a_family_from_outside_is_saved_and_loaded(mlp: DiffusionPolicy, tmp_path: Path) -> None:
    save_policy(mlp, tmp_path / "a", torch.float32)
    again = load_policy(tmp_path / "a")
    assert again.config == mlp.config
    assert again.fingerprint() == mlp.fingerprint()
    assert torch.equal(again.act(*query()), mlp.act(*query()))
    file = tmp_path / "a" / "policy.yaml"
    assert OmegaConf.load(file).family == "mlp"
    file.write_text(file.read_text().replace("family: mlp", "family: nope"))
    with pytest.raises(
        CheckpointError, match="family must be one of transformer, unet, dit, mlp, got"
    ):
        load_policy(tmp_path / "a")


@pytest.mark.parametrize("name", OURS)
def test_families_from_before_there_were_any_are_not_named(name: str, tmp_path: Path) -> None:
    policy = from_reference(LIVE[name]())
    assert "family" not in policy.config.settings()
    save_policy(policy, tmp_path / "a", torch.float32)
    assert load_policy(tmp_path / "a").fingerprint() == policy.fingerprint()
    named = tmp_path / "a" / "policy.yaml"
    lines = [line for line in named.read_text().splitlines() if not line.startswith("digest:")]
    named.write_text("\n".join([*lines, f"family: {name}\n"]))
    assert load_policy(tmp_path / "a").config == policy.config


def test_a_family_from_outside_is_accelerated(mlp: DiffusionPolicy) -> None:
    plain = mlp.act(*query())
    for engine in ("reference", "fused"):  # fused gives way to reference
        with accelerated(mlp, accel.NoCacheConfig(), engine=engine) as fast:
            assert torch.equal(fast.act(*query()), plain)
            assert fast.stats()["flops"] == 10 * mlp_flops(mlp)
    summary = accel.summarize(resolve(mlp, None), mlp)
    assert (summary.flops_share, summary.mean_updates, summary.equivalent_steps) == (1, 10, 10)


def test_flops_that_are_not_known_are_none(
    mlp: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accel.FAMILIES, "mlp", accel.Family(called="an MLP"))
    with accelerated(mlp) as fast:
        fast.act(*query())
        assert fast.stats()["flops"] is None
    plan = resolve(mlp, None)
    assert accel.flops_share(mlp, plan.mask, mlp) is None
    summary = accel.summarize(plan, mlp)
    assert (summary.flops_share, summary.mean_updates, summary.equivalent_steps) == (None, 10, 10)


def test_a_family_from_outside_says_what_it_cannot_do(mlp: DiffusionPolicy, tmp_path: Path) -> None:
    obs, noise = query(8)
    plan = resolve(mlp, None)
    refused: dict[str, Callable[[], object]] = {
        f"cache={name} needs sites": lambda name=name: resolve(mlp, CACHES[name].config())
        for name in CACHES
        if name != "none"
    }
    refused |= {
        "cache=bac needs a transformer": lambda: check_branches(mlp, "cache=bac"),
        "quant=rtn needs a transformer": lambda: check_quantizable(mlp, "quant=rtn"),
        "a calibration needs a transformer": lambda: calibrate(mlp, obs, noise),
        "branch_errors needs a transformer": lambda: branch_errors(mlp, plan, obs, noise),
    }
    for words, ask in refused.items():
        with pytest.raises(accel.PlanError, match=words) as error:
            ask()
        assert str(error.value).endswith("the policy is an MLP (caches that run it: none)")
    with pytest.raises(ValueError, match="cannot run here: the policy is an MLP, which engine=ref"):
        accel.resolve_engine(accel.FusedConfig(backend="torch"), mlp)
    with pytest.raises(ValueError, match="no policies of family mlp"):
        export_reference(mlp, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="pred_action_steps_only=true needs observations"):
        replace(mlp.config, pred_action_steps_only=True)


def test_a_family_that_accel_does_not_know_is_refused_by_name(
    mlp: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(accel.FAMILIES, "mlp")
    words = r"policy\.sizes\.family must be one of accel\.FAMILIES \(transformer, .*\), got 'mlp'"
    with pytest.raises(ValueError, match=words), accelerated(mlp):
        pass


def test_a_family_that_is_not_registered_is_refused_by_name(
    mlp: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(policies.FAMILIES, "mlp")
    with pytest.raises(ValueError, match="family must be one of transformer, unet, dit, got 'mlp'"):
        DiffusionPolicy(mlp.config)


def test_the_caches_of_foreign_blocks_are_those_that_make_plans_of_blocks() -> None:
    able = {name for name, method in CACHES.items() if method.blocks}
    assert set(accel.FAMILIES["blocks"].caches) == able
