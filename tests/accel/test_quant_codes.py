"""Codes, products of codes, and the layer that holds them."""

from __future__ import annotations

import pytest
import torch

from accel.quant import codes
from accel.quant.linear import integer, simulated
from tests.helpers.quant_data import fitted, output_error, planted, relative


def test_weight_codes_have_a_scale_per_row_from_the_grid() -> None:
    linear, _ = planted("none")
    w = linear.weight.detach().double() * torch.logspace(-3, 3, 192)[:, None]
    clipped, scales = codes.quantise_weight(w, 4, clip=True)
    plain, widest = codes.quantise_weight(w, 4, clip=False)
    assert clipped.abs().max() <= 7
    assert torch.allclose(widest * 7, w.abs().amax(1).float())
    for q, s in ((clipped, scales), (plain, widest)):
        errors = (w - q * s[:, None].double()).norm(dim=1) / w.norm(dim=1)
        assert errors.max() < 0.25  # every row, whatever its size
    better = (w - clipped * scales[:, None]).norm(dim=1) / (w - plain * widest[:, None]).norm(dim=1)
    assert better.max() < 1 + 1e-6
    assert better.mean() < 0.95


def test_four_bits_are_packed_two_to_a_byte() -> None:
    q = torch.randint(-7, 8, (6, 10), dtype=torch.int8)
    q[0, :2] = torch.tensor([-8, 7])
    packed = codes.pack4(q)
    assert packed.dtype == torch.uint8
    assert packed.shape == (6, 5)
    assert torch.equal(codes.unpack4(packed), q)


@pytest.mark.parametrize("k", [256, 1024, 1025, 3072])
@pytest.mark.parametrize("rows", [1, 10, 33])
def test_the_integer_product_is_exact(rows: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.randint(-127, 128, (rows, k), dtype=torch.int8)
    b = torch.randint(-127, 128, (48, k), dtype=torch.int8)
    a[0], b[0], b[1] = 127, -127, 127
    expected = (a.long() @ b.long().T).to(torch.int32)
    assert torch.equal(codes.integer_product(a, b), expected)
    assert torch.equal(codes.exact_product(a, b), expected)
    monkeypatch.setattr(codes, "_int_mm", lambda a, b: expected + 1)
    codes.int_mm_pays.cache_clear()
    assert torch.equal(codes.integer_product(a, b), expected)  # a wrong _int_mm is not used
    codes.int_mm_pays.cache_clear()


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("row_rot", ["none", "restore"])
def test_integers_and_floating_point_agree(weight_bits: int, row_rot: str) -> None:
    linear, x = planted("channels", tokens=32)
    layer = fitted(linear, x, weight_bits=weight_bits, row_rot=row_rot)
    flat = layer.transformed(x)
    assert layer.spec.arithmetic == "integer"
    assert relative(integer(layer, flat), simulated(layer, flat)) < 1e-5
    by_hand = (flat / (s := flat.abs().amax(1, keepdim=True) / 127)).round() * s
    weight = layer.weight_codes() * layer.scale[:, None]
    assert (
        relative(integer(layer, flat), by_hand @ weight.T) < 1e-3
    )  # a scale divided, not multiplied
    assert relative(layer(x), linear(x).detach()) < {4: 0.15, 8: 0.02}[weight_bits]


def test_errors_fall_with_bits_and_16_is_off() -> None:
    linear, x = planted("channels", 128, 64, 64)
    errors = [
        output_error(linear, x, "duquant", weight_bits=bits, activation_bits=16)
        for bits in (2, 3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    for off in ({"weight_bits": 16}, {"activation_bits": 16}):
        assert output_error(linear, x, "duquant", **{"weight_bits": 8, **off}) < 0.015
    both = {"weight_bits": 16, "activation_bits": 16}
    assert output_error(linear, x, "duquant", **both) < 2e-6


def test_asymmetric_codes_suit_one_sided_inputs() -> None:
    linear, x = planted("none")
    x = torch.nn.functional.gelu(x)
    bits = {"weight_bits": 8, "activation_bits": 4}
    layer = fitted(linear, x, "rtn", **bits, activation="asymmetric")
    assert layer.spec.arithmetic == "simulated"
    symmetric = output_error(linear, x, "rtn", **bits)
    assert output_error(linear, x, "rtn", **bits, activation="asymmetric") < 0.8 * symmetric


@pytest.mark.parametrize("permute", [True, False])
@pytest.mark.parametrize("method", ["rtn", "duquant"])
def test_forward_changes_nothing(permute: bool, method: str) -> None:
    linear, x = planted("channels", tokens=16)
    weight, before = linear.weight.detach().clone(), x.clone()
    layer = fitted(linear, x, method, permute=permute)
    state = {n: t.clone() for n, t in layer.state_dict().items() if isinstance(t, torch.Tensor)}
    outputs = [layer(x), layer(x)]
    assert torch.equal(*outputs)
    assert torch.equal(x, before)
    assert torch.equal(linear.weight, weight)
    assert all(torch.equal(layer.state_dict()[n], t) for n, t in state.items())
    assert layer.state_dict().keys() == {*state, "_extra_state"}


def test_a_token_does_not_depend_on_others_or_on_earlier_calls() -> None:
    linear, x = planted("channels", tokens=16)
    layer = fitted(linear, x)
    together = layer(x)
    layer(1000 * x)
    alone = torch.cat([layer(row[None]) for row in x])
    assert relative(alone, together) < 2e-3  # a code or two may round otherwise
    crowd = torch.cat([x[:1], 1e4 * x[1:]])
    assert relative(layer(crowd)[:1], together[:1]) < 2e-3
    shaped = layer(x.view(2, 8, -1))
    assert torch.equal(shaped.view(16, -1), together)


@pytest.mark.parametrize("activation", ["symmetric", "asymmetric"])
def test_zero_and_constant_tokens(activation: str) -> None:
    linear, x = planted("channels", tokens=16)
    layer = fitted(linear, x, activation=activation)
    out = layer(torch.zeros(3, 256))
    assert torch.equal(out, linear.bias.detach().expand(3, -1))
    constant = torch.full((2, 256), 3.0)
    assert relative(layer(constant), linear(constant).detach()) < 0.05
    with torch.no_grad():
        linear.weight[5] = 0
    assert torch.equal(fitted(linear, x)(x)[:, 5], linear.bias[5].detach().expand(16))


def test_clipping_activations_clips() -> None:
    linear, x = planted("none", tokens=16)
    q, scale = codes.token_codes(x, 8, 0.5)
    peak = x.abs().amax(1)
    assert torch.allclose((q * scale).abs().amax(1), peak / 2)
    assert torch.isfinite(fitted(linear, x, activation_clip=0.9)(x)).all()
