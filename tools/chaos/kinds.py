"""Every kind of file that this project reads: one that is whole, its reader, and what must hold.

A reader refuses by its own errors, in one line; or what it loads is what is written. Folders of
ours have a digest, so there what is loaded is what was there before the damage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
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
    DatasetError,
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    UnetConfig,
    UnsupportedPolicy,
    export_lerobot,
    export_reference,
    load_policy,
    read_dataset,
    save_policy,
)
from policies.reference.files import read_file
from runners.errors import UserError
from runners.store.folder import RunStore, StoreError
from runners.store.published import published
from runners.store.reading import UNREADABLE, read_run

PROJECT = Path(__file__).resolve().parents[2]
LENGTHS = (5, 4)


@dataclass(frozen=True)
class Kind:
    """A kind of file or folder.

    Attributes:
        make: writes a whole one into a folder; returns what is to be read.
        load: reads it, and returns what `check` looks at.
        refusals: what it is refused by.
        check: (what was loaded now, what was loaded of the whole one, the path) -> what is wrong.
    """

    make: Callable[[Path], Path]
    load: Callable[[Path], Any]
    refusals: tuple[type[Exception], ...]
    check: Callable[[Any, Any, Path], str]


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


def _make_npz(folder: Path) -> Path:
    n, rng = sum(LENGTHS), np.random.default_rng(0)
    obs, action = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    np.savez(folder / "a.npz", obs=obs, action=action, episode_ends=np.cumsum(LENGTHS))
    return folder / "a.npz"


def _make_hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.hdf5", "w") as file:
        for i, n in enumerate(LENGTHS):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = n
            demo["actions"], demo["obs/object"] = np.ones((n, 2)), np.ones((n, 3), np.float32)
    return folder / "a.hdf5"


def _make_lerobot_data(folder: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "set"
    (path / "meta").mkdir(parents=True)
    (path / "data/chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v3.0", "splits": {"train": f"0:{len(LENGTHS)}"}, "fps": 10}
    (path / "meta/info.json").write_text(json.dumps(info))
    rows = [
        {"observation.state": [0.1] * 3, "action": [0.2] * 2, "episode_index": e, "frame_index": f}
        for e, n in enumerate(LENGTHS)
        for f in range(n)
    ]
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, path / "data/chunk-000/file-000.parquet")
    return path


def _read_data(path: Path) -> Any:
    return read_dataset([path], obs_keys=["object"] if path.suffix == ".hdf5" else None)


def _whole_data(found: Any, before: Any, path: Path) -> str:
    arrays = [found.action, *found.numbers.values()]
    if any(not np.isfinite(array).all() for array in arrays):
        return "numbers are not finite"
    lengths = np.diff(found.ends, prepend=0)
    if any(len(array) != lengths.sum() for array in arrays) or min(lengths) < 1:
        return f"episodes end at {found.ends.tolist()}, of {[len(a) for a in arrays]} steps"
    return ""


def _make_run(folder: Path) -> Path:
    run = published(PROJECT / "results/studies/starter.yaml")[0]
    target = folder / run.name
    target.mkdir(parents=True)
    run.copy(target, ("config.yaml", "result.json", "episodes.jsonl"))
    lines = (target / "episodes.jsonl").read_text().splitlines(keepends=True)[:10]
    (target / "episodes.jsonl").write_text("".join(lines))
    (target / "status.json").write_text(json.dumps({"status": "finished"}))
    (target / "time.json").write_text(json.dumps({"policy_s": 1.0}))
    (target / "plan.txt").write_text("0" * 64)
    np.savez_compressed(target / "observations.npz", obs=np.ones((2, 4, 60)))
    file = target / "wandb/offline-run-20260101_000000-a/run-a.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b":W&B\0\0\0" + bytes(64))
    return target


def _read_run(path: Path) -> Any:
    run = read_run(path)
    if run.status == UNREADABLE:
        raise StoreError(run.error)
    return run


def _numbers(value: Any) -> Any:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


def _as_in_run(run: Any, before: Any, path: Path) -> str:
    for what in (run.result, run.config, *run.episodes.values()):
        if not all(math.isfinite(number) for number in _numbers(what)):
            return "a number is not finite"
    whole = (path / "episodes.jsonl").read_bytes().rpartition(b"\n")[0]  # the rest was cut off
    lines = [json.loads(line) for line in whole.split(b"\n") if line]
    if sorted(run.episodes) != sorted({line["seed"] for line in lines}):
        return f"episodes are {sorted(run.episodes)}"
    if run.result and run.result != json.loads((path / "result.json").read_text()):
        return "the result is another one"
    return ""


def _resume(path: Path) -> Any:
    """Open it as the same command would, and look at what it would start from."""
    config = OmegaConf.to_container(OmegaConf.load(path.parent / "whole.yaml"))
    with RunStore(path, config) as store:
        store.observations()
        store.result()
        return dict(store.episodes)


def _make_resumed(folder: Path) -> Path:
    path = _make_run(folder)
    (folder / "whole.yaml").write_bytes((path / "config.yaml").read_bytes())
    return path


def _kept(found: Any, before: Any, path: Path) -> str:
    made_up = [seed for seed in found if type(seed) is not int]
    return f"seeds are {made_up}" if made_up else ""


def _sync(path: Path) -> Any:
    from runners import sync

    sync.has_key = lambda: True
    sent: list[Path] = []
    said, _ = sync.sync_study(path.parent, lambda file: not sent.append(file))
    return [str(file.relative_to(path)) for file in sent], len(said)


def _sent_inside(found: Any, before: Any, path: Path) -> str:
    return "" if found[0] in ([], before[0]) else f"sent {found[0]}"


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
    "npz data": Kind(_make_npz, _read_data, (DatasetError,), _whole_data),
    "HDF5 data": Kind(_make_hdf5, _read_data, (DatasetError,), _whole_data),
    "LeRobot data": Kind(_make_lerobot_data, _read_data, (DatasetError,), _whole_data),
    "run folder": Kind(_make_run, _read_run, (StoreError,), _as_in_run),
    "resumed run": Kind(_make_resumed, _resume, (StoreError,), _kept),
    "W&B folder": Kind(_make_run, _sync, (UserError, StoreError), _sent_inside),
}
