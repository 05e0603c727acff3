"""Checkpoints, policy folders, and what accelerates a policy: plans, calibrations, integers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel import (
    CachePlan,
    Calibration,
    DuQuantConfig,
    PlanError,
    UniformConfig,
    calibrate,
    collect,
    load_quantized,
    quantize,
    resolve,
    save_quantized,
)
from policies import (
    CheckpointError,
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    UnetConfig,
    UnsupportedPolicy,
    export_lerobot,
    export_reference,
    load_policy,
    save_policy,
)
from policies.reference.files import read_file

from .kind import Kind


def _network() -> NetworkConfig:
    return NetworkConfig(2, 2, 8, 2, cond_dim=3, n_layer=2, n_head=2, n_emb=16, causal_attn=True)


def _policy(sizes: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    sampler = SamplerConfig(num_train_timesteps=8, steps=8)
    return DiffusionPolicy(PolicyConfig(sizes, 3, 2, 4, sampler=sampler)).eval()


def transformer() -> DiffusionPolicy:
    return _policy(_network())


def unet() -> DiffusionPolicy:
    sizes = UnetConfig(2, 8, 2, "global", 3, [8, 16], 8, n_groups=4, oa_step_convention=True)
    return _policy(sizes)


def _make_checkpoint(folder: Path) -> Path:
    export_reference(transformer(), folder / "a.ckpt")
    return folder / "a.ckpt"


def _make_folder(folder: Path) -> Path:
    save_policy(unet(), folder / "policy")
    return folder / "policy"


def _make_lerobot(folder: Path) -> Path:
    export_lerobot(unet(), folder / "lerobot", state_dim=2)
    return folder / "lerobot"


def _finite(policy: DiffusionPolicy) -> str:
    state = policy.state_dict()
    wrong = [n for n, v in state.items() if "mask" not in n and not bool(v.isfinite().all())]
    return f"{wrong[0]} is not finite" if wrong else ""


def _as_in_checkpoint(policy: DiffusionPolicy, before: Any, path: Path) -> str:
    """Settings as the file has them, weights finite."""
    cfg, _ = read_file(path)
    said, model = cfg["policy"], cfg["policy"]["model"]
    pairs = {
        "n_obs_steps": (policy.n_obs_steps, said["n_obs_steps"]),
        "n_action_steps": (policy.n_action_steps, said["n_action_steps"]),
        "horizon": (policy.horizon, said["horizon"]),
        "obs_dim": (policy.obs_dim, said["obs_dim"]),
        "action_dim": (policy.action_dim, said["action_dim"]),
        "steps": (policy.n_inference_steps, said["num_inference_steps"]),
    }
    network = policy.config.settings()["network"]
    pairs |= {k: (network[k], v) for k, v in model.items() if k in network}
    return _different(pairs) or _finite(policy)


def _as_in_lerobot(policy: DiffusionPolicy, before: Any, path: Path) -> str:
    said = json.loads((path / "config.json").read_text())
    network = policy.config.settings()["network"]
    pairs = {
        "n_obs_steps": (policy.n_obs_steps, said["n_obs_steps"]),
        "n_action_steps": (policy.n_action_steps, said["n_action_steps"]),
        "horizon": (policy.horizon, said["horizon"]),
        "down_dims": (list(network["down_dims"]), said["down_dims"]),
        "num_train_timesteps": (
            policy.config.sampler.num_train_timesteps,
            said["num_train_timesteps"],
        ),
    }
    return _different(pairs) or _finite(policy)


def _different(pairs: Mapping[str, tuple[Any, Any]]) -> str:
    wrong = [f"{k} is {ours!r}, written {said!r}" for k, (ours, said) in pairs.items()
             if ours != said or type(ours) is not type(said)]  # fmt: skip
    return wrong[0] if wrong else ""


def _same(found: Any, before: Any, path: Path) -> str:
    return "" if found == before else f"another one was loaded: {found}, not {before}"


def _make_plan(folder: Path) -> Path:
    resolve(transformer(), UniformConfig(steps=3)).save(folder / "plan.json")
    return folder / "plan.json"


def _make_calibration(folder: Path) -> Path:
    policy, n = transformer(), 9
    seen = torch.randn((n, 2, 3), generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(i) for i in range(n)]
    calibrate(policy, seen, noise, progress=False).save(folder / "calibration")
    return folder / "calibration"


def _layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16)).eval()


def _make_quantised(folder: Path) -> Path:
    model = _layers()
    config = DuQuantConfig(include=(".*",), min_features=1, block=16, method="duquant")
    statistics = collect(model, [(torch.randn(32, 32),)], 1)
    save_quantized(quantize(model, statistics, config), folder / "a.safetensors")
    return folder / "a.safetensors"


POLICY = (CheckpointError, UnsupportedPolicy, FileNotFoundError)
KINDS: dict[str, Kind] = {
    "checkpoint": Kind(_make_checkpoint, load_policy, POLICY, _as_in_checkpoint),
    "policy folder": Kind(_make_folder, lambda p: load_policy(p).fingerprint(), POLICY, _same),
    "LeRobot policy": Kind(_make_lerobot, load_policy, POLICY, _as_in_lerobot),
    "plan": Kind(_make_plan, lambda p: CachePlan.load(p).digest(), (PlanError,), _same),
    "calibration": Kind(
        _make_calibration, lambda p: Calibration.load(p).digest(), (PlanError,), _same
    ),
    "quantised": Kind(
        _make_quantised,
        lambda p: load_quantized(p, _layers(), backend="torch").digest(),
        (ValueError,),
        _same,
    ),
}
