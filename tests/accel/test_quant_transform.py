"""Smoothing, rotation and permutation: invariant, and good against outliers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from accel.quant import DuQuantConfig
from accel.quant.transform import Transform, crest, fit, greedy, zigzag
from tests.helpers.quant_data import fitted, output_error, planted, relative


def transform_of(kind: str, rotation: str, block: int = 16, seed: int = 0) -> Transform:
    linear, x = planted(kind)
    generator = torch.Generator().manual_seed(seed)
    return fit(
        x,
        x.abs().amax(0),
        linear.weight.detach(),
        block=block,
        alpha=0.5,
        rotation=rotation,
        permute=True,
        steps=16,
        generator=generator,
    )


@pytest.mark.parametrize("rotation", ["hadamard", "greedy"])
@pytest.mark.parametrize(("k", "n", "block"), [(256, 192, 16), (768, 64, 16), (256, 256, 64)])
def test_without_quantisation_the_layer_is_the_plain_one(
    k: int, n: int, block: int, rotation: str
) -> None:
    linear, x = planted("channels", k, n, 48)
    off = {"weight_bits": 16, "activation_bits": 16, "block": block, "greedy_steps": 4}
    layer = fitted(linear, x, rotation=rotation, **off)
    assert layer.inverse_smooth is not None
    assert layer.inverse_smooth.std() > 0.01
    assert layer.perm is not None
    assert not torch.equal(layer.perm, torch.arange(k, dtype=torch.int32))
    for matrix in (layer.first, layer.second):
        assert matrix is not None
        assert (matrix - torch.eye(block)).abs().max() > 0.1
    assert relative(layer(x), linear(x).detach()) < 2e-6


@pytest.mark.parametrize("method", ["rtn", "smooth", "duquant"])
@pytest.mark.parametrize("row_rot", ["none", "restore"])
def test_widths_that_blocks_do_not_divide_are_padded(method: str, row_rot: str) -> None:
    linear, x = planted("channels", 250, 72, 32)
    layer = fitted(linear, x, method, weight_bits=16, activation_bits=16, row_rot=row_rot)
    assert layer.width == 256
    assert (layer.rows is not None) == (method == "duquant" and row_rot == "restore")
    assert relative(layer(x), linear(x).detach()) < 2e-6


@pytest.mark.parametrize("rotation", ["hadamard", "greedy"])
def test_rotations_are_orthogonal_and_the_permutation_is_one(rotation: str) -> None:
    transform = transform_of("channels", rotation)
    for matrix in (transform.first, transform.second):
        assert matrix is not None
        error = matrix @ matrix.mT - torch.eye(16, dtype=torch.float64)
        assert error.abs().max() < 1e-6
    assert transform.perm is not None
    assert torch.equal(transform.perm.sort().values, torch.arange(256))
    _, x = planted("channels")
    plain = dataclasses.replace(transform, smooth=None)
    norms = plain.activations(x.double()).norm(dim=1)
    assert torch.allclose(norms, x.double().norm(dim=1), rtol=1e-9)


def test_one_rotation_where_a_second_would_undo_it() -> None:
    linear, x = planted("channels", 64, 64)
    assert fitted(linear, x, permute=False).second is None
    assert fitted(linear, x, block=64).second is None
    assert fitted(linear, x, block=64).first is not None


def test_zigzag_gives_all_blocks_the_same_mean() -> None:
    score = torch.rand(256, generator=torch.Generator().manual_seed(0))
    score[torch.arange(16) * 3] = 50 + torch.arange(16.0) / 4  # in the first blocks
    dealt = score[zigzag(score, 16)].view(16, 16)
    assert torch.equal((dealt > 10).sum(1), torch.ones(16, dtype=torch.long))
    before, after = score.view(16, 16).mean(1).std(), dealt.mean(1).std()
    assert after < 0.05 * before
    assert torch.equal(dealt, dealt.sort(1, descending=True).values)


@pytest.mark.parametrize("rotation", ["hadamard", "greedy"])
@pytest.mark.parametrize("kind", ["channels", "massive"])
def test_outliers_shrink(kind: str, rotation: str) -> None:
    transform = transform_of(kind, rotation)
    _, x = planted(kind)
    x = x[::8].double()  # with massive tokens, these
    before, after = crest(x), crest(transform.activations(x))
    assert after < 0.5 * before
    assert after < 3.8


def test_the_greedy_search_never_makes_a_block_worse() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.sign(torch.randn(64, 32, generator=generator)).double()  # flat already
    rotation = greedy(x, 8, 8, generator)
    rotated = torch.einsum("tbi,bij->tbj", x.view(64, 4, 8), rotation)
    assert (rotated.abs().amax((0, 2)) <= x.view(64, 4, 8).abs().amax((0, 2))).all()
    assert torch.equal(rotation, torch.eye(8, dtype=torch.float64).repeat(4, 1, 1))


def test_errors_come_in_the_published_order() -> None:
    eight = {m: output_error(*planted("channels"), m) for m in ("rtn", "smooth", "duquant")}
    assert eight["duquant"] < eight["smooth"] < eight["rtn"]
    four = {
        m: output_error(*planted("channels"), m, weight_bits=4, activation_bits=4)
        for m in ("rtn", "smooth", "duquant")
    }
    assert four["duquant"] < 0.5 * min(four["rtn"], four["smooth"])


@pytest.mark.parametrize("rotation", ["hadamard", "greedy"])
def test_the_same_seed_gives_the_same_layer(rotation: str) -> None:
    linear, x = planted("channels", 64, 64, 32)
    layers = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(layers))
        layers.append(fitted(linear, x, rotation=rotation, greedy_steps=4, seed=seed))
    first, second, third = (layer.state_dict() for layer in layers)
    for name in ("codes", "scale", "perm", *(n for n in first if n in ("first", "second"))):
        assert torch.equal(first[name], second[name])
    assert torch.equal(first["codes"], third["codes"]) == (rotation == "hadamard")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("weight_bits", 9),
        ("weight_bits", 1),
        ("activation_bits", 3),
        ("block", 24),
        ("method", "gptq"),
        ("rotation", "pca"),
        ("row_rot", "propagate"),
        ("alpha", 1.5),
        ("activation_clip", 0.0),
        ("include", ("(",)),
        ("include", ()),
        ("include", "layers"),
        ("layer_bits", {"a": 12}),
        ("min_features", 0),
    ],
)
def test_wrong_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^quant\.{setting} must be .*, got ") as caught:
        DuQuantConfig(**{setting: value})
    assert "\n" not in str(caught.value)
