"""Convolutions of an encoder: the linear layers that they are on patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from accel.quant import RtnConfig, collect, load_quantized, quantize, save_quantized
from accel.quant.config import OFF, DuQuantConfig
from accel.quant.convolution import Flattened, QuantisedConv2d, patches, quantised
from accel.quant.fitting import fit_linear
from accel.quant.selection import choose, linears
from accel.quant.statistics import LayerStatistics

SHAPES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "7x7": {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
    "1x1": {"kernel_size": 1, "stride": 2},
    "oblong and dilated": {
        **{"kernel_size": (1, 5), "stride": (1, 2), "padding": (0, 3), "dilation": (1, 2)}
    },
}


class Seeing(nn.Module):
    """A model with an encoder of images, and a convolution that is none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.GroupNorm(4, 64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.Conv2d(64, 64, 3, padding=1, groups=2),
        )
        self.other = nn.Conv2d(64, 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.denoise(self.encode(x))
        return out

    def encode(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x)
        return out

    def denoise(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(x)
        return out


class Foreign(nn.Module):
    """Another library's model: an `encoder` whose weight it reads, for one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(64, 64)])])

    def forward(self, image: Tensor) -> Tensor:
        seen = self.encoder(image.to(self.encoder[1].weight.dtype))
        out: Tensor = self.blocks[0][0](seen.mean((-2, -1)))
        return out


def image(rows: int = 2) -> Tensor:
    return torch.rand((rows, 3, 24, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> Seeing:
    torch.manual_seed(0)
    return Seeing().eval()


@pytest.mark.parametrize("geometry", SHAPES.values(), ids=SHAPES)
def test_a_convolution_is_a_linear_layer_on_patches(geometry: dict) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, **geometry)
    x = torch.randn(2, 4, 13, 18)
    expected = conv(x)
    found = Flattened(conv)(patches(conv, x)).view(2, -1, 8).mT.reshape(expected.shape)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("geometry", SHAPES.values(), ids=SHAPES)
def test_without_rounding_it_is_the_convolution(geometry: dict) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, **geometry)
    x = torch.randn(2, 4, 13, 18)
    rows = patches(conv, x)
    statistics = LayerStatistics(rows.abs().amax(0), rows, (1.0,), len(rows))
    config = DuQuantConfig(weight_bits=OFF, activation_bits=OFF)
    layer = fit_linear("conv", Flattened(conv), statistics, config, "duquant", OFF)
    found = quantised(layer, conv)(x)
    assert found.shape == conv(x).shape
    assert torch.allclose(found, conv(x), atol=1e-4)


def test_the_encoders_convolutions_are_quantised_by_default(model: Seeing) -> None:
    statistics = collect(model, [(image(),)], n_batches=1)
    assert set(statistics.layers) == {"encoder.0", "encoder.3"}
    assert statistics.layers["encoder.0"].n_tokens == 2 * 12 * 10
    small = quantize(model, statistics, RtnConfig())
    assert {r.name: r.shape for r in small.layers} == {
        "encoder.0": (64, 147),
        "encoder.3": (64, 576),
    }
    assert isinstance(small.model.encoder[3], QuantisedConv2d)
    assert type(small.model.other) is nn.Conv2d
    exact, found = model(image()), small.model(image())
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < 0.03
    assert type(model.encoder[3]) is nn.Conv2d


def test_few_patches_do_not_choose_a_method(model: Seeing) -> None:
    model.encoder[3] = nn.Conv2d(64, 64, 1)
    statistics = collect(model, [(torch.rand(1, 3, 8, 8),)], n_batches=1)
    assert statistics.layers["encoder.3"].n_tokens == 16
    small = quantize(model, statistics, DuQuantConfig())
    assert {r.method for r in small.layers} == {"duquant"}


def test_integers_are_what_they_simulate(model: Seeing) -> None:
    """The same layer computed in floating point from its codes."""
    statistics = collect(model, [(image(),)], n_batches=1)
    layer = quantize(model, statistics, RtnConfig()).model.encoder[0]
    x, codes = image(), layer.weight_codes().double() * layer.scale.double()[:, None]
    rows = patches(model.encoder[0], x).double()
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    expected = (rows / scale).round() * scale @ codes[:, :147].T
    found = layer(x).flatten(2).mT.flatten(0, 1)
    assert torch.allclose(found.double(), expected, atol=2e-3)


def test_a_file_holds_them(model: Seeing, tmp_path: Path) -> None:
    statistics = collect(model, [(image(),)], n_batches=1)
    small = quantize(model, statistics, RtnConfig(weight_bits=4))
    save_quantized(small, tmp_path / "q.safetensors")
    again = load_quantized(tmp_path / "q.safetensors", model)
    assert torch.equal(again.model(image()), small.model(image()))


def test_an_exclusion_leaves_them_out(model: Seeing) -> None:
    statistics = collect(model, [(image(),)], n_batches=1)
    small = quantize(model, statistics, RtnConfig(exclude=(r"encoder\.0",)))
    assert [r.name for r in small.layers] == ["encoder.3"]
    with pytest.raises(ValueError, match="leaves none"):
        quantize(model, statistics, RtnConfig(exclude=("encoder",)))


def test_convolutions_of_other_models_are_left_alone() -> None:
    torch.manual_seed(0)
    foreign = Foreign().eval()
    images = [torch.rand(3, 8, 8), torch.rand(3, 9, 11), torch.rand(2, 3, 8, 8)]
    statistics = collect(foreign, [(x,) for x in images], n_batches=3)
    assert set(statistics.layers) == {"blocks.0.0"}
    small = quantize(foreign, statistics, RtnConfig())
    assert [r.name for r in small.layers] == ["blocks.0.0"]
    assert small.model(images[0]).shape == (64,)
    del foreign.blocks
    with pytest.raises(ValueError, match=r"quant\.include: .* matches none"):
        choose(linears(foreign, {}), RtnConfig())
