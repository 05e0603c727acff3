"""policies/reference/reader.py: checkpoints of the reference implementation become plain data."""

from __future__ import annotations

import pathlib
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, nodes

from policies.reference.reader import describe_trusted
from tests.helpers.reader_files import KITCHEN, LIFT, NO_CFG, pack, pickled, read, refusal, save


@pytest.mark.parametrize(("path", "obs", "action", "to"), [(KITCHEN, 60, 9, 4), (LIFT, 19, 7, 2)])
def test_a_reference_checkpoint(path: Path, obs: int, action: int, to: int) -> None:
    checkpoint = read(path)
    cfg = checkpoint.cfg
    assert checkpoint.path == path
    assert (cfg["obs_dim"], cfg["action_dim"], cfg["n_obs_steps"]) == (obs, action, to)
    assert cfg["policy"]["model"]["input_dim"] == cfg["policy"]["model"]["output_dim"] == action
    assert cfg["policy"]["model"]["cond_dim"] == obs
    assert cfg["policy"]["n_action_steps"] == 8
    assert cfg["task"]["dataset"]["pad_before"] == to - 1
    assert cfg["optimizer"]["betas"] == [0.9, 0.95]
    assert cfg["logging"]["name"].startswith("${now:")
    assert checkpoint.pickles == {
        "_output_dir": "data/outputs/example",
        "global_step": 1234,
        "epoch": 56,
    }
    assert set(checkpoint.state_dicts) == {"model", "ema_model"}
    assert describe_trusted(path) == []


@pytest.mark.parametrize("path", [KITCHEN, LIFT])
def test_the_tensors_are_those_of_a_full_unpickling(path: Path) -> None:
    with path.open("rb") as file:
        expected = torch.load(file, pickle_module=dill, weights_only=False, map_location="cpu")
    for name, state_dict in read(path).state_dicts.items():
        assert list(state_dict) == list(expected["state_dicts"][name])
        for key, tensor in state_dict.items():
            assert tensor.dtype == expected["state_dicts"][name][key].dtype
            assert torch.equal(tensor, expected["state_dicts"][name][key])


def test_every_kind_of_config_node(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "any": nodes.AnyNode(1),
        "string": nodes.StringNode("s"),
        "integer": nodes.IntegerNode(3),
        "float": nodes.FloatNode(0.5),
        "boolean": nodes.BooleanNode(True),
        "bytes": nodes.BytesNode(b"\x00\xff"),
        "path": nodes.PathNode(Path("/a/b")),
        "none": None,
        "missing": "???",
        "list": [1, [2, {"x": "${..[0]}"}], None],
        "dict": {"empty": {}, "none": None, 3: "int key"},
        "ref": "${integer}",
        "relative": {"a": "${..float}", "b": "${.a}"},
        "sum": "${eval:'${integer} + ${any}'}",
        "time": "${now:%Y}",
        "whole": "${dict}",
    }
    cfg = OmegaConf.create(content)
    OmegaConf.update(cfg, "none_dict", OmegaConf.create(None))
    OmegaConf.set_readonly(cfg, True)
    OmegaConf.set_struct(cfg, True)
    got = read(save(tmp_path / "a.ckpt", {**NO_CFG, "cfg": cfg})).cfg
    assert got["bytes"] == b"\x00\xff"
    assert got["path"] == "/a/b"
    assert got["relative"] == {"a": 0.5, "b": 0.5}
    assert got["sum"] == 4
    assert got["time"] == "${now:%Y}"
    assert got["whole"] == got["dict"] == {"empty": {}, "none": None, 3: "int key"}
    assert (got["none"], got["none_dict"], got["missing"], got["ref"]) == (None, None, "???", 3)
    assert (got["any"], got["string"], got["float"], got["boolean"]) == (1, "s", 0.5, True)
    assert got["list"] == [1, [2, {"x": 2}], None]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_small_values_and_arrays(tmp_path: Path, protocol: int) -> None:
    values: dict[str, Any] = {
        "array": np.arange(6, dtype=">f4").reshape(2, 3).T,
        "text": np.array(["a", "bb"]),
        "empty": np.zeros((0, 3)),
        "flag": np.bool_(True),
        "float": np.float64(0.25),
        "big": 2**100,
        "bytes": b"\xff",
        "none_bytes": b"",
        "bytearray": bytearray(b"ab"),
        "path": pathlib.PurePosixPath("x/y"),
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, a=[1]),
        "tuple": (1, (2,)),
        "type": dict,
    }
    streams = {name: dill.dumps(value, protocol=protocol) for name, value in values.items()}
    got = read(save(tmp_path / "a.ckpt", {**NO_CFG, "pickles": streams})).pickles
    for name in ("array", "text", "empty"):
        np.testing.assert_array_equal(got[name], values[name])
        assert got[name].dtype == values[name].dtype
    for name in ("flag", "float", "big", "bytes", "none_bytes", "ordered", "default", "tuple"):
        assert got[name] == values[name]
    assert got["bytearray"] == b"ab"
    assert (got["path"], got["device"], got["dtype"]) == ("x/y", "cuda:1", "torch.bfloat16")
    assert (got["size"], got["type"]) == ([1, 2], "dill._dill._load_type('dict')")


def test_sets_are_lists(tmp_path: Path) -> None:
    for protocol in (2, 4):
        streams = {"set": dill.dumps({1}, protocol), "frozen": dill.dumps(frozenset({2}), protocol)}
        got = read(save(tmp_path / "a.ckpt", {**NO_CFG, "pickles": streams})).pickles
        assert got == {"set": [1], "frozen": [2]}


def test_tensors_of_every_type_and_shape(tmp_path: Path) -> None:
    base = torch.arange(24)
    tensors = {
        str(dtype): base.to(dtype)
        for dtype in (
            *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64),
            *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        )
    }
    tensors |= {
        "view": base.reshape(4, 6)[1:3, ::2],
        "transposed": base.reshape(4, 6).T,
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "empty_view": base[24:],
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    }
    payload = {**NO_CFG, "state_dicts": {"model": OrderedDict(tensors), "optimizer": {"state": {}}}}
    got = read(save(tmp_path / "a.ckpt", payload)).state_dicts
    assert list(got) == ["model"]
    for name, tensor in tensors.items():
        assert got["model"][name].dtype == tensor.dtype
        assert torch.equal(got["model"][name], tensor)
        assert got["model"][name].stride() == tensor.stride()


def test_a_live_module_and_its_optimizer(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters(), amsgrad=True)
    module(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    states = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    got = read(save(tmp_path / "a.ckpt", {**NO_CFG, "state_dicts": states})).state_dicts
    assert list(got) == ["model"]
    module.load_state_dict(got["model"])


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert "cannot be read" in refusal(tmp_path / "none.ckpt")
    assert "cannot be read" in refusal(tmp_path)
    for content in (b"", b"P", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(100), bytes(100)):
        path.write_bytes(content)
        refusal(path)
    torch.save(NO_CFG, path, _use_new_zipfile_serialization=False)
    assert "before 1.6" in refusal(path)
    torch.save({"weight": torch.ones(2)}, path)
    assert "not a diffusion_policy checkpoint" in refusal(path)
    refusal(pack(path, pickled([1])))
    refusal(pack(path, pickled({**NO_CFG, "cfg": None})))
    refusal(pack(path, pickled({**NO_CFG, "pickles": {"epoch": 3}})))
    refusal(pack(path, pickled({**NO_CFG, "pickles": {"epoch": b"\x80\x04"}})))
    assert "byte order" in refusal(pack(path, pickled(NO_CFG), {"byteorder": b"big"}))
