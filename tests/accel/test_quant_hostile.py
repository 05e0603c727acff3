"""Files of quantised models whose digest is right and whose content is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from accel.quant import DuQuantConfig, collect, load_quantized, quantize, save_quantized
from accel.quant.hashes import sha256
from tests.helpers.quant_data import EVERYTHING

Tensors = dict[str, Tensor]
Change = Callable[[Tensors, dict[str, Any]], None]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32)).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 8 and one of 4 bits; the first layer has all of a transform's parts."""
    folder, plain = tmp_path_factory.mktemp("quant"), model()
    statistics = collect(plain, [(torch.randn(32, 64),)], 1)
    for bits in (8, 4):
        config = DuQuantConfig(
            include=EVERYTHING,
            weight_bits=bits,
            min_features=1,
            block=16,
            rotation="greedy",
            greedy_steps=2,
            method="duquant",
        )
        save_quantized(quantize(plain, statistics, config), folder / f"{bits}.safetensors")
    return folder


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """The file with other content, and the digest of that."""
    with safe_open(source, framework="pt") as file:
        header = json.loads(file.metadata()["skipstep"])
    tensors = load_file(source)
    change(tensors, header)
    header["digest"] = sha256(tensors)
    save_file(tensors, target, {"skipstep": json.dumps(header)})
    return target


def set_at(name: str, value: Any) -> Change:
    """Change one number of a tensor of the first layer."""

    def change(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors[f"0.{name}"].view(-1)[0] = value

    return change


def cast(name: str, dtype: torch.dtype) -> Change:
    def change(tensors: Tensors, header: dict[str, Any]) -> None:
        tensors[f"0.{name}"] = tensors[f"0.{name}"].to(dtype)

    return change


def spec(**values: Any) -> Change:
    def change(tensors: Tensors, header: dict[str, Any]) -> None:
        header["specs"]["0"] |= values

    return change


NAN = float("nan")
HOSTILE: dict[str, tuple[int, Change, str]] = {
    "perm twice": (8, set_at("perm", 1), "0.perm must hold each number"),
    "perm beyond": (8, set_at("perm", 10**6), "0.perm must hold each number below 64 once"),
    "perm below": (8, set_at("perm", -1), "0.perm must hold each number"),
    "scale 0": (8, set_at("scale", 0), "0.scale must be above 0, got 0.0"),
    "scale NaN": (8, set_at("scale", NAN), "0.scale holds NaN"),
    "scale negative": (8, set_at("scale", -1), "0.scale must be above 0, got -1.0"),
    "code -128": (8, set_at("codes", -128), "0.codes of 8 bits must be from -127 to 127, got 128"),
    "code -8": (4, set_at("codes", 0x88), "0.codes of 4 bits must be from -7 to 7, got 8"),
    "smooth 0": (8, set_at("inverse_smooth", 0), "0.inverse_smooth must be above 0"),
    "bias infinite": (8, set_at("bias", float("inf")), "0.bias holds NaN or infinite"),
    "rotation": (8, set_at("first", 3), "0.first must be rotations"),
    "float codes": (8, cast("codes", torch.float32), "0.codes must be torch.int8"),
    "long perm": (8, cast("perm", torch.int64), "0.perm must be torch.int32"),
    "huge": (8, spec(out_features=10**9), "codes must have the shape (1000000000, 64)"),
    "true": (8, spec(in_features=True), "in_features must be of type int, got True"),
    "text": (8, spec(smooth="no"), "smooth must be of type bool, got 'no'"),
    "bits": (8, spec(weight_bits=99), "bits must be from 2 to 16"),
    "rows": (8, spec(rows=2**30), "rows must be a power of two that divides"),
    "block": (8, spec(block=0), "block must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_layer_has_is_refused(name: str, files: Path, tmp_path: Path) -> None:
    bits, change, said = HOSTILE[name]
    path = rewritten(files / f"{bits}.safetensors", tmp_path / "a.safetensors", change)
    with pytest.raises(ValueError, match=r"a\.safetensors: ") as refused:
        load_quantized(path, model())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_right_is_loaded(bits: int, files: Path, tmp_path: Path) -> None:
    path = rewritten(files / f"{bits}.safetensors", tmp_path / "a.safetensors", lambda t, h: None)
    loaded = load_quantized(path, model())
    assert loaded.model(torch.ones(1, 64)).isfinite().all()
