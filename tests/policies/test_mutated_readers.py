"""Each reader refuses a mutated file by its one error, or loads it as it is written and finite."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from accel import CachePlan, PlanError, UniformConfig, resolve
from policies import DiffusionPolicy, from_reference, load_policy, save_policy
from policies.data.datasets import DatasetError, read_dataset
from policies.reference.reader import CheckpointError
from policies.transformer.config import NetworkConfig
from skipstep.npz_files import open_npz
from skipstep.plain_files import PlainFileError, parse_json, parse_yaml
from tests.helpers.damage import DEEP, as_json, changed, flipped
from tests.helpers.stock import live_policy

T = TypeVar("T")
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "alias"),
        (DEEP, "nested deeper"),
        ("a: 1\na: 2", "twice"),
        ("a: .nan", "no finite number"),
        ("a: -.inf", "no finite number"),
        ("a: !!python/object/apply:os.system [x]", "not YAML"),
        ("a: [", "not YAML"),
        ("\0", "not YAML"),
        ("a: !!set {b}", "set"),
        ("? [1]\n: 2", "a key must be"),
    ],
)
def test_yaml_is_plain_data(text: str, said: str) -> None:
    with pytest.raises(PlainFileError, match=said) as refused:
        parse_yaml(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested deeper"),
        ("[" * 80 + "]" * 80, "nested deeper"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[NaN]", "no finite number"),
        ("[1e999]", "no finite number"),
        ("9" * 5000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_json_is_plain_data(text: Any, said: str) -> None:
    with pytest.raises(PlainFileError, match=said):
        parse_json(text)


def loaded_or_refused(load: Callable[[], T], error: type[Exception], path: Path) -> T | None:
    """None where the reader's one error names the file in one line."""
    refused = None
    try:
        return load()
    except error as raised:
        refused = str(raised)
    assert str(path) in refused
    assert "\n" not in refused
    return None


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return from_reference(live_policy("causal"))


@pytest.fixture
def folder(policy: DiffusionPolicy, tmp_path: Path) -> Path:
    save_policy(policy, tmp_path / "policy", torch.float32)
    return tmp_path / "policy"


def settings(folder: Path, **values: Any) -> None:
    """Change "network.n_layer" and the like in policy.yaml."""
    content = yaml.safe_load((folder / "policy.yaml").read_text())
    for name, value in values.items():
        *groups, last = name.split("__")
        inside = content
        for group in groups:
            inside = inside[group]
        inside[last] = value
    (folder / "policy.yaml").write_text(yaml.safe_dump(content))


NAN = float("nan")
SETTINGS = [
    ("network__n_layer", 10_000, "network.n_layer must be at most 1024"),
    ("network__n_layer", 900, "at least"),
    ("network__n_layer", True, "network.n_layer must be a whole number, got True"),
    ("network__n_emb", 65_536, "its settings ask for"),
    ("network__horizon", 10_000, "its settings ask for"),
    ("network__p_drop_attn", NAN, "no finite number"),
    ("network__p_drop_attn", 2.5, "network.p_drop_attn must be at most 1"),
    ("network__causal_attn", "no", "network.causal_attn must be true or false, got 'no'"),
    ("network", [], "network must be a mapping"),
    ("sampler__num_train_timesteps", 10**8, "num_train_timesteps must be at most 100000"),
    ("sampler__steps", 2.5, "sampler.steps must be whole numbers"),
    ("sampler__steps", True, "sampler.steps must be whole numbers"),
    ("sampler__clip_sample_range", NAN, "no finite number"),
    ("sampler__clip_sample_range", -1, "sampler.clip_sample_range must be above 0, got -1"),
    ("sampler__clip_sample_range", 0, "sampler.clip_sample_range must be above 0, got 0"),
    ("sampler__clip_sample", "no", "sampler.clip_sample must be true or false, got 'no'"),
    ("sampler__beta_end", 1.5, "sampler.beta_end must be at least 0 and below 1, got 1.5"),
    ("sampler", None, "sampler must be a mapping"),
    ("task__abs_action", "yes", "task.abs_action must be true or false or null, got 'yes'"),
    ("obs_dim", "4", "obs_dim must be a whole number, got '4'"),
    ("n_action_steps", None, "n_action_steps must be a whole number, got None"),
    ("schema", 5, "schema must be"),
    ("further", 5, "further"),
]


@pytest.mark.parametrize(("name", "value", "said"), SETTINGS)
def test_settings_are_strict_and_bounded(name: str, value: Any, said: str, folder: Path) -> None:
    settings(folder, **{name: value})
    with pytest.raises(CheckpointError) as refused:
        load_policy(folder)
    assert said in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "weights.safetensors")
    change(state)
    save_file(state, folder / "weights.safetensors")


def _zero_scale(state: dict[str, torch.Tensor]) -> None:
    state["normalizer.params_dict.action.scale"][1] = 0


def _nan_scale(state: dict[str, torch.Tensor]) -> None:
    state["normalizer.params_dict.action.scale"][1] = NAN


def _mask(state: dict[str, torch.Tensor]) -> None:
    state["model.mask"][0, 1] = 0


def _memory_mask(state: dict[str, torch.Tensor]) -> None:
    state["model.memory_mask"][0] = 0


def _nan_mask(state: dict[str, torch.Tensor]) -> None:
    state["model.mask"][0, 0] = NAN


def _integers(state: dict[str, torch.Tensor]) -> None:
    state["model.head.weight"] = state["model.head.weight"].to(torch.int32)


def _booleans(state: dict[str, torch.Tensor]) -> None:
    state["model.head.weight"] = state["model.head.weight"] > 0


def _shape(state: dict[str, torch.Tensor]) -> None:
    state["model.head.weight"] = state["model.head.weight"][:, :-1].contiguous()


def _missing(state: dict[str, torch.Tensor]) -> None:
    del state["model.head.weight"]


def _too_large(state: dict[str, torch.Tensor]) -> None:
    state["model.head.weight"] = torch.full_like(
        state["model.head.weight"], 1e300, dtype=torch.double
    )


WEIGHTS = {
    _zero_scale: "the scale of action is 0 at 1",
    _nan_scale: "NaN or infinite",
    _mask: "model.mask is not the mask",
    _memory_mask: "model.memory_mask is not the mask",
    _nan_mask: "model.mask is not the mask",
    _integers: "model.head.weight must be of torch.float32, got torch.int32",
    _booleans: "model.head.weight must be of torch.float32, got torch.bool",
    _shape: "head.weight",
    _missing: "head.weight",
    _too_large: "model.head.weight holds NaN or infinite",
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_are_those_of_the_settings(change: Any, folder: Path) -> None:
    weights(folder, change)
    with pytest.raises(CheckpointError) as refused:
        load_policy(folder)
    assert WEIGHTS[change] in str(refused.value)
    assert "\n" not in str(refused.value)


def _swapped(state: dict[str, torch.Tensor]) -> None:
    attentions = "self_attn", "multihead_attn"
    first, second = (f"model.decoder.layers.0.{name}.out_proj.weight" for name in attentions)
    state[first], state[second] = state[second], state[first]


def _one_value(state: dict[str, torch.Tensor]) -> None:
    state["model.head.weight"][0, 0] += 1


@pytest.mark.parametrize("change", [_swapped, _one_value])
def test_a_folder_that_was_changed_is_refused_by_its_digest(change: Any, folder: Path) -> None:
    weights(folder, change)
    with pytest.raises(
        CheckpointError, match="digest does not match the settings and weights"
    ) as e:
        load_policy(folder)
    assert "\n" not in str(e.value)
    (folder / "policy.yaml").write_text("".join(without_digest(folder)))
    load_policy(folder)  # as the folders of earlier versions


def without_digest(folder: Path) -> list[str]:
    lines = (folder / "policy.yaml").read_text().splitlines(keepends=True)
    return [line for line in lines if not line.startswith("digest:")]


def test_a_file_that_was_cut_off_is_refused_wherever_it_was(folder: Path) -> None:
    """Also one from before there were digests, which ended with the task."""
    path = folder / "policy.yaml"
    whole, older = path.read_text().splitlines(keepends=True), without_digest(folder)
    ends = older.index(next(line for line in older if "robot_noise_ratio" in line))
    for lines, most in ((whole, len(whole)), (older, ends + 1)):
        for n in range(most):
            path.write_text("".join(lines[:n]))
            with pytest.raises(CheckpointError) as error:
                load_policy(folder)
            assert "\n" not in str(error.value)
    path.write_text("".join(older[: ends + 1]))
    load_policy(folder)


def test_any_mutation_of_a_policy_is_refused_or_loaded_as_written(folder: Path) -> None:
    rng = random.Random(0)
    content = yaml.safe_load((folder / "policy.yaml").read_text())
    for round_ in range(60):
        mutated = changed(content, rng)
        (folder / "policy.yaml").write_text(yaml.safe_dump(mutated))
        if round_ % 3 == 0:
            text = yaml.safe_dump(content).encode()
            (folder / "policy.yaml").write_bytes(flipped(text, rng))
        loaded = loaded_or_refused(lambda: load_policy(folder), CheckpointError, folder)
        if loaded is None:
            continue
        read = parse_yaml((folder / "policy.yaml").read_text())
        assert read == content  # what has a digest is what was written, or is refused


@pytest.mark.parametrize(("n_emb", "n_head"), [(20, 4), (6, 3), (4, 4), (8, 1)])
def test_widths_that_torch_runs_are_taken(n_emb: int, n_head: int) -> None:
    NetworkConfig(3, 3, 8, 2, cond_dim=4, n_emb=n_emb, n_head=n_head)


@pytest.mark.parametrize(("n_emb", "n_head"), [(2, 1), (5, 1), (10, 4), (0, 1), (-4, 1)])
def test_other_widths_are_refused(n_emb: int, n_head: int) -> None:
    with pytest.raises(ValueError, match=r"network\.n_emb must be (even|at least)"):
        NetworkConfig(3, 3, 8, 2, cond_dim=4, n_emb=n_emb, n_head=n_head)


PLANS: dict[str, tuple[Any, str]] = {
    "n_steps": (10**9, "n_steps must be a whole number from 1 to 100000"),
    "n_slots": (10**6, "n_slots must be a whole number from 1 to 64"),
    "method": (5, "method must be a text, got 5"),
    "rows": ({}, "rows must be those of the sites"),
    "alpha": ({}, "coefficients must be listed by site"),
    "sites": (5, ""),
    "bands": ([], ""),
}


@pytest.mark.parametrize("key", PLANS)
def test_a_plans_sizes_are_bounded(key: str, policy: DiffusionPolicy, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    resolve(policy, UniformConfig(steps=3)).save(path)
    content = json.loads(path.read_text())
    content[key], said = PLANS[key]
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError) as refused:
        CachePlan.load(path)
    assert said in str(refused.value)


def test_any_mutation_of_a_plan_is_refused_or_is_the_plan(
    policy: DiffusionPolicy, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    plan = resolve(policy, UniformConfig(steps=3))
    plan.save(path)
    content, rng = json.loads(path.read_text()), random.Random(0)
    mutants = ["S1000000000", "S99999999999999", DEEP, "[]", '{"schema": NaN}']
    rows = dict.fromkeys(content["rows"], "S1000000000")
    texts = [*mutants, as_json({**content, "rows": rows})]
    texts += [as_json(changed(content, rng)) for _ in range(200)]
    for text in texts:
        path.write_text(text)
        loaded = loaded_or_refused(lambda: CachePlan.load(path), PlanError, path)
        assert loaded is None or loaded.digest() == plan.digest()


def npz_of(path: Path, header: str, content: bytes = b"") -> Path:
    """An obs.npy with a header by hand."""
    body = header.encode().ljust(118) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("obs.npy", raw)
    return path


HEADERS = {
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 7), }": "bytes, and 0 are",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (": "obs: ",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }": "objects",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }": "shape",
    "{'descr': 5, 'fortran_order': False, 'shape': (1,), }": "obs: ",
    "(" * 100: "obs: ",
    "": "obs: ",
}


@pytest.mark.parametrize("header", HEADERS)
def test_an_npz_header_is_not_believed(header: str, tmp_path: Path) -> None:
    path = npz_of(tmp_path / "a.npz", header)
    with open_npz(path) as arrays, pytest.raises(PlainFileError) as refused:
        arrays["obs"]
    assert HEADERS[header] in str(refused.value)
    with pytest.raises(DatasetError) as too:
        read_dataset([path])
    assert str(path) in str(too.value)


def test_any_mutation_of_an_npz_is_refused_or_finite(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.npz", random.Random(0)
    np.savez(path, obs=np.ones((4, 2)), action=np.ones((4, 1)), episode_ends=[4])
    whole = path.read_bytes()
    for _ in range(150):
        path.write_bytes(flipped(whole, rng))
        data = loaded_or_refused(lambda: read_dataset([path]), DatasetError, path)
        assert data is None or np.isfinite(data.action).all()


def test_an_hdf5_claims_no_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo.create_dataset("actions", (10**9, 7), "f8", chunks=(1000, 7))
        demo.create_dataset("obs/object", (10**9, 7), "f8", chunks=(1000, 7))
    with pytest.raises(DatasetError, match="claims to hold"):
        read_dataset([path], obs_keys=["object"])


@pytest.mark.parametrize("name", ["data/demo_0", "data/demo_0/obs", "mask", "mask/train"])
def test_a_huge_array_in_the_place_of_a_group_is_not_searched(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for demo in ("demo_0", "demo_1"):
            file[f"data/{demo}/actions"] = np.zeros((4, 2))
            file[f"data/{demo}/obs/object"] = np.zeros((4, 3))
        file["mask/train"] = np.array(["demo_0"], "S")
        del file[name]
        file.create_dataset(name, (10**9, 7), "f8", chunks=(1000, 7))
    with pytest.raises(
        DatasetError, match=r"must be a group|claims to hold|no obs/object|must hold"
    ):
        read_dataset([path], obs_keys=["object"])


def test_an_hdf5_whose_data_is_an_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(DatasetError, match="no group data"):
        read_dataset([path], obs_keys=["object"])
    shutil.copy(path, tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["data/demo_0"] = np.zeros(3)
    with pytest.raises(DatasetError):
        read_dataset([tmp_path / "b.hdf5"], obs_keys=["object"])
