"""Packs of the openpi fork: made, written, read, and refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import accel
from accel.quant.config import DuQuantConfig
from accel.quant.execution import quantised_layers
from accel.quant.pack import Pack, pack_path, read_pack, write_pack
from tests.helpers.quant_data import planted, relative
from tests.helpers.walked import Block

SEED = DuQuantConfig(weight_bits=4, row_rot="restore", include=("",), method="duquant")


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.quant.duquant.warn_slower", lambda *args: None)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


def rows(n: int = 80) -> torch.Tensor:
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_pack_changes_nothing_without_rounding() -> None:
    linear, x = planted("channels", 64, 48, 20)
    pack = Pack.fit(linear.weight, 16, turn=16)
    transform = pack.transform()
    moved = transform.weight(linear.weight.double())
    assert pack.outputs is not None
    turned = (pack.outputs @ moved.view(3, 16, 64)).view(48, 64)
    y = (transform.activations(x.double()) @ turned.T).view(20, 3, 1, 16) @ pack.outputs
    assert relative(y.view(20, 48), x.double() @ linear.weight.double().T) < 1e-12
    assert torch.allclose(pack.scale * 7, moved.abs().amax(1))
    energy = linear.weight.square().mean(0).double()
    assert pack.perm is not None
    order = energy.argsort(descending=True)
    assert pack.perm[:4].tolist() == [order[0], order[-1], order[1], order[-2]]


def test_the_forks_setting_runs_from_its_packs(model: nn.Module, tmp_path: Path) -> None:
    written = accel.make_packs(model, tmp_path, SEED)
    assert [p.name for p in written] == ["fc1.npz", "fc2.npz"]
    statistics = accel.collect(model, [(rows(),)], 1)
    small = accel.quantize(model, statistics, SEED, packs=tmp_path)
    layer: Any = small.model.fc1
    assert (layer.spec.rows, layer.spec.rows_kind, layer.spec.second) == (16, "stored", "stored")
    with torch.no_grad():
        plain = model(rows())
        assert 1e-3 < relative(small.model(rows()), plain) < 0.2
        assert relative(small.model(rows()), _in_torch(small.model)(rows())) < 1e-3
        assert relative(layer.plain(rows()), layer(rows())) < 1e-3  # C has the stored rotation too
    none = accel.quantize(
        model,
        statistics,
        DuQuantConfig(weight_bits=16, activation_bits=16, row_rot="restore", include=("",)),
        packs=tmp_path,
    )
    assert relative(none.model(rows()), plain) < 2e-6
    accel.save_quantized(small, tmp_path / "a.safetensors")
    loaded = accel.load_quantized(tmp_path / "a.safetensors", model)
    assert torch.equal(loaded.model(rows()), small.model(rows()))
    again = accel.write_packs(small, model, tmp_path / "again")
    for first, second in zip(written, again, strict=True):
        one, two = np.load(first), np.load(second)
        assert one.files == two.files
        assert all(np.allclose(one[n], two[n], atol=1e-6) for n in one.files if n != "meta")


def _in_torch(model: nn.Module) -> nn.Module:
    made = copy.deepcopy(model)
    accel.quant.execute(made, "torch")
    return made


def test_blocks_that_c_has_no_memory_for_run_in_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48)).eval()
    statistics = accel.collect(model, [(rows(),)], 1)
    write_pack(Pack.fit(model[0].weight, 16, turn=24), pack_path(tmp_path, "0"))
    narrow = replace(SEED, min_features=8)
    small = accel.quantize(model, statistics, narrow, packs=tmp_path)
    assert small.model[0].executor is None
    assert relative(small.model(rows()), model(rows()).detach()) < 0.2
    with pytest.raises(ValueError, match="16 and 24, must be powers of two up to 512"):
        accel.quantize(model, statistics, narrow, packs=tmp_path, backend="native")


def test_the_files_are_those_of_the_fork(tmp_path: Path) -> None:
    linear, _ = planted("none", 32, 24, 4)
    path = write_pack(Pack.fit(linear.weight, 8, turn=8), pack_path(tmp_path, "a.b/c d"))
    assert path.name == "a.b_c_d.npz"
    held = np.load(path, allow_pickle=False)
    meta = json.loads(held["meta"].tolist())
    assert meta == {
        **{"in_features": 32, "out_features": 24, "block_size": 8, "block_out_size": 8},
        **{"enable_permute": True, "lambda_smooth": 0.15},
    }
    assert held["R_in_blocks"].tolist() == [0, 1, 2, 3]
    assert held["R_out_blocks"].tolist() == [0, 1, 2]
    assert (held["Rin_3"].dtype, held["Rout_2"].shape) == (np.float32, (8, 8))
    assert (held["perm"].dtype, held["weight_scale"].dtype) == (np.int64, np.float32)
    read = read_pack(path)
    read.check("c", linear.weight)
    assert torch.allclose(read.inputs, Pack.fit(linear.weight, 8).inputs, atol=1e-6)


def test_transforms_that_a_pack_can_hold_are_written(model: nn.Module, tmp_path: Path) -> None:
    statistics = accel.collect(model, [(rows(),)], 1)
    settings: dict[str, Any] = {"method": "duquant", "include": ("",), "row_rot": "restore"}
    plain = accel.quantize(model, statistics, DuQuantConfig(alpha=None, permute=False, **settings))
    accel.write_packs(plain, model, tmp_path)
    again = accel.quantize(
        model, statistics, DuQuantConfig(alpha=None, permute=False, **settings), packs=tmp_path
    )
    assert relative(again.model(rows()), plain.model(rows())) < 2e-3
    smooth = accel.quantize(model, statistics, DuQuantConfig(**settings))
    with pytest.raises(
        ValueError, match=r"layer fc1 cannot be written .* quant\.alpha must be null"
    ):
        accel.write_packs(smooth, model, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert set(quantised_layers(smooth.model)) == {"fc1", "fc2"}


def test_packs_that_do_not_fit_are_refused(model: nn.Module, tmp_path: Path) -> None:
    statistics = accel.collect(model, [(rows(),)], 1)
    accel.make_packs(model, tmp_path, SEED)
    torch.manual_seed(5)
    other = Block().eval()
    foreign = accel.collect(other, [(rows(),)], 1)
    with pytest.raises(ValueError, match=r"fc1\.npz: it was made from another weight .* layer fc1"):
        accel.quantize(other, foreign, SEED, packs=tmp_path)
    wider = DuQuantConfig(block=32, include=("",))
    with pytest.raises(ValueError, match=r"fc1\.npz: quant\.block must be 16, got 32"):
        accel.quantize(model, statistics, wider, packs=tmp_path)
    content = dict(np.load(tmp_path / "fc1.npz"))
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "perm": ({"perm": np.zeros(64, int)}, "perm must be a permutation of 64"),
        "orthogonal": ({"Rin_0": 2 * content["Rin_0"]}, "Rin: rotations must be orthogonal"),
        "outputs": ({"Rout_1": content["Rout_1"][:4]}, "Rout: must have a rotation for every"),
        "meta": ({"meta": np.array("{}")}, "'in_features'"),
        "narrow": ({"weight_scale": content["weight_scale"][:5]}, "the pack one of"),
    }
    for change, said in wrong.values():
        np.savez(tmp_path / "fc1.npz", **(content | change))
        with pytest.raises(ValueError, match=rf"fc1\.npz: .*{said}"):
            accel.quantize(model, statistics, SEED, packs=tmp_path)
    (tmp_path / "fc1.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"fc1\.npz: "):
        read_pack(tmp_path / "fc1.npz")
    (tmp_path / "fc1.npz").unlink()
    with pytest.raises(ValueError, match=r"fc1\.npz: there is no pack of layer fc1"):
        accel.quantize(model, statistics, SEED, packs=tmp_path)
    with pytest.raises(ValueError, match=r"layer fc1 has 64 inputs, which quant\.block=128 "):
        accel.make_packs(model, tmp_path, DuQuantConfig(block=128, include=("",)))
