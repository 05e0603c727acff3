"""UNets with quantised convolutions: which layers they are, in both engines, under any plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from accel import (
    DeepCacheConfig,
    DuQuantConfig,
    FusedConfig,
    Quantized,
    RtnConfig,
    SmoothConfig,
    UniformConfig,
    accelerated,
    collect,
    kernels_of,
    load_quantized,
    quantize,
    resolve_engine,
    save_quantized,
)
from accel.engines.unet_layers import Layers
from accel.kernels.native import library
from accel.kernels.operations import Section, convolve
from accel.kernels.packed import Packed
from accel.quant.config import OFF
from accel.quant.convolution import Flattened, QuantisedConv1d, patches, quantised
from accel.quant.fitting import fit_linear
from accel.quant.native_linear import works
from accel.quant.statistics import LayerStatistics
from policies import DiffusionPolicy, from_reference
from tests.helpers.stock_unet import OBS, TO, live_unet

compiled = pytest.mark.skipif(not works(), reason="no compiled code for integers")
N = 4
SETTINGS: dict[str, Any] = {
    "rtn": RtnConfig(),
    "smooth": SmoothConfig(),
    "duquant": DuQuantConfig(method="duquant"),
    "W4A8": DuQuantConfig(weight_bits=4),
    "outputs turned": DuQuantConfig(method="duquant", row_rot="restore"),
    "weights alone": RtnConfig(weight_bits=4, activation_bits=OFF),
}
GEOMETRIES = {
    "of five taps": {"kernel_size": 5, "padding": 2},
    "every second place": {"kernel_size": 3, "padding": 1, "stride": 2},
    "of one tap": {"kernel_size": 1},
}


def inputs(rows: int) -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((rows, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(rows)]


def wide(variant: str = "global, scaled") -> DiffusionPolicy:
    return from_reference(live_unet(variant, steps=N, down_dims=[64, 96]))


def copied(policy: DiffusionPolicy, config: Any) -> Quantized:
    statistics = collect(policy, [inputs(8)], 1, run=lambda _, batch: policy.act(*batch))
    return quantize(policy, statistics, config, backend="torch")


def spread(x: torch.Tensor) -> float:
    return float(x.norm())


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return wide()


@pytest.fixture(scope="module")
def copies(policy: DiffusionPolicy) -> dict[str, Quantized]:
    return {name: copied(policy, config) for name, config in SETTINGS.items()}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_convolution_over_time_is_a_linear_layer_on_patches(geometry: dict[str, int]) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv1d(32, 48, **geometry), torch.randn(2, 32, 9)
    rows, flat = patches(conv, x), Flattened(conv)
    expected = conv(x)
    assert torch.allclose(flat(rows).view(2, -1, 48).mT, expected, atol=1e-5)
    statistics = LayerStatistics(rows.abs().amax(0), rows, (1.0,), len(rows))
    config = DuQuantConfig(weight_bits=OFF, activation_bits=OFF)
    layer = quantised(fit_linear("conv", flat, statistics, config, "duquant", OFF), conv)
    assert isinstance(layer, QuantisedConv1d)
    assert layer.shown_shape == tuple(conv.weight.shape)
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_all_convolutions_but_the_borders_are_quantised(
    policy: DiffusionPolicy, copies: dict[str, Quantized]
) -> None:
    """Not what actions enter by and leave by, the way up in length, time and observations."""
    found = {name.removeprefix("model.") for name in (r.name for r in copies["rtn"].layers)}
    convolutions = {n for n, m in policy.model.named_modules() if type(m) is nn.Conv1d}
    borders = {"down_modules.0.0.blocks.0.block.0", "down_modules.0.0.residual_conv"}
    assert found == convolutions - borders - {"final_conv.1"}
    shares = sum(report.share for report in copies["rtn"].layers)
    assert shares > 0.9
    left = {layer.name.removeprefix("model.") for layer in copies["rtn"].left_out}
    assert {"down_modules.0.0.cond_encoder.1", "diffusion_step_encoder.1"} <= left
    assert not found & left


@pytest.mark.parametrize("variant", ["global, scaled", "local", "in-painting"])
def test_codes_stand_for_the_network(variant: str) -> None:
    policy = wide(variant)
    expected = policy.act(*inputs(3))
    error = {}
    for name in ("rtn", "W4A8"):
        found = copied(policy, SETTINGS[name]).model.act(*inputs(3))  # type: ignore[operator]
        error[name] = spread(found - expected) / spread(expected)
    assert 1e-5 < error["rtn"] < error["W4A8"] < 0.3
    assert error["rtn"] < 0.03


@compiled
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("bits", [4, 8])
def test_compiled_codes_are_torchs(geometry: dict[str, int], bits: int) -> None:
    """Without a transform, the same codes and the same exact sums."""
    torch.manual_seed(0)
    conv, x = nn.Conv1d(32, 40, **geometry), torch.randn(3, 32, 16)
    rows = patches(conv, x)
    statistics = LayerStatistics(rows.abs().amax(0), rows, (1.0,), len(rows))
    flat = fit_linear("conv", Flattened(conv), statistics, DuQuantConfig(), "rtn", bits)
    layer = quantised(flat, conv)
    loaded = library()
    assert loaded is not None
    packed = Packed(loaded)
    layers = Layers(packed, wide().sizes, len(x), x.shape[2])
    expected = layer(x)
    start, to = layers.buffer(0, 32), layers.buffer(0, 40)
    start.view.copy_(x.mT)
    first, every = -(conv.kernel_size[0] // 2), conv.stride[0]
    linear = layers.linear(layer, start)
    operation = convolve(linear, start.place(first, every), to.place(), expected.shape[2])
    scratch = torch.zeros(100_000)
    Section(loaded, [operation], slice(0, 2), scratch)(torch.zeros(1), torch.zeros(3, 1))
    Section(loaded, [operation], slice(2, 3), scratch)(torch.zeros(1), torch.zeros(3, 1))
    found = to.view[:, : expected.shape[2]].mT
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@compiled
@pytest.mark.parametrize("cache", [None, UniformConfig(steps=3), DeepCacheConfig(level=1)])
@pytest.mark.parametrize("name", SETTINGS)
def test_engines_agree_on_codes(
    name: str, cache: Any, policy: DiffusionPolicy, copies: dict[str, Quantized]
) -> None:
    """They are closer to each other than to the plain network.

    No more can be asked of whole networks: where the last bit takes one code to the next, codes of
    the layers after it follow. Layers by themselves agree exactly, see above.
    """
    found = {}
    for engine in ("reference", "fused"):
        with accelerated(policy, cache, copies[name], engine=engine) as fast:
            found[engine] = fast.act(*inputs(3))
            stats = fast.stats()
    kernels = set(stats["kernels"].values())
    assert {layer["kernel"] for layer in stats["quantised"]} == kernels
    assert kernels == {"fp32" if name == "weights alone" else "native"}
    with accelerated(policy, cache) as fast:
        plain = fast.act(*inputs(3))
    gap, error = spread(found["fused"] - found["reference"]), spread(found["reference"] - plain)
    assert gap < 0.75 * error


@compiled
def test_a_rows_bits_depend_on_nothing_but_itself(
    policy: DiffusionPolicy, copies: dict[str, Quantized]
) -> None:
    obs, _ = inputs(5)
    for name in ("duquant", "outputs turned", "W4A8"):
        made = {}
        for rows in ((0, 1, 2, 3, 4), (4, 2), (0,)):
            with accelerated(policy, None, copies[name]) as fast:
                noise = [torch.Generator().manual_seed(row) for row in rows]
                made[rows] = fast.act(obs[list(rows)], noise)
        whole = made[0, 1, 2, 3, 4]
        assert torch.equal(made[4, 2], whole[[4, 2]])
        assert torch.equal(made[0,], whole[:1])


def test_codes_are_kept_in_a_file(policy: DiffusionPolicy, tmp_path: Path) -> None:
    made = copied(policy, DuQuantConfig())
    path = tmp_path / "unet.safetensors"
    save_quantized(made, path)
    again = load_quantized(path, policy, DuQuantConfig(), backend="torch")
    assert again.digest() == made.digest()
    obs, noise = inputs(2)
    assert torch.equal(again.model.act(obs, noise), made.model.act(*inputs(2)))  # type: ignore[operator]


@compiled
def test_who_runs_what(policy: DiffusionPolicy, copies: dict[str, Quantized]) -> None:
    model: Any = copies["rtn"].model
    assert set(kernels_of(model, FusedConfig()).values()) == {"native"}
    asymmetric = RtnConfig(activation="asymmetric")
    assert resolve_engine(FusedConfig(), policy, asymmetric).name == "reference"
    assert resolve_engine(FusedConfig(), policy, RtnConfig()).backend == "native"
    with pytest.raises(ValueError, match="cannot run here: quant=rtn: simulated arithmetic"):
        resolve_engine(FusedConfig(backend="native"), policy, asymmetric)
