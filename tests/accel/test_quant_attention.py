"""Attention whose projections are called, against nn.MultiheadAttention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accel.quant import DuQuantConfig, collect, quantize
from accel.quant.attention import Attention
from tests.helpers.quant_data import EVERYTHING, relative

CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)  # true is masked
PADDING = torch.zeros(3, 6, dtype=torch.bool)
PADDING[0, 4:] = PADDING[2, 1:] = True


def stock(batch_first: bool = True, bias: bool = True) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(64, 4, 0.1, bias=bias, batch_first=batch_first).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(seed))


MASKS = {
    "none": {},
    "bool": {"attn_mask": CAUSAL},
    "float": {"attn_mask": torch.zeros(6, 6).masked_fill(CAUSAL, float("-inf"))},
    "by head": {"attn_mask": CAUSAL.expand(12, 6, 6)},
    "hint": {"attn_mask": CAUSAL, "is_causal": True},
    "padding": {"key_padding_mask": PADDING},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
}


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("cross", [False, True])
def test_it_equals_the_stock_module(masks: str, cross: bool) -> None:
    x, memory = tokens(), tokens(2) if cross else None
    key = x if memory is None else memory
    plain = stock()
    expected = plain(x, key, key, **MASKS[masks], need_weights=False)[0]
    out, weights = Attention.from_stock(plain, cross)(x, key, key, **MASKS[masks])
    assert weights is None
    assert torch.allclose(out, expected, atol=1e-5)
    if masks != "none":
        assert not torch.allclose(out, plain(x, key, key)[0], atol=1e-2)


def test_a_keep_mask_is_the_opposite_of_an_attention_mask() -> None:
    x, opened = tokens(), Attention.from_stock(stock(), cross=False)
    assert torch.equal(opened(x, x, x, keep_mask=~CAUSAL)[0], opened(x, x, x, attn_mask=CAUSAL)[0])
    assert not torch.allclose(opened(x, x, x, keep_mask=~CAUSAL)[0], opened(x, x, x)[0], atol=1e-2)


def test_sequence_first_and_no_bias() -> None:
    plain, x = stock(batch_first=False, bias=False), tokens()
    opened = Attention.from_stock(plain, cross=False)
    assert torch.allclose(opened(x, x, x)[0], plain(x, x, x)[0], atol=1e-5)


def test_what_it_cannot_do_is_refused() -> None:
    x, opened = tokens(), Attention.from_stock(stock(), cross=False)
    with pytest.raises(ValueError, match="no weights to return"):
        opened(x, x, x, need_weights=True)
    with pytest.raises(ValueError, match="same tensors"):
        opened(x, tokens(2), tokens(2))
    with pytest.raises(ValueError, match="eval mode"):
        opened.train()(x, x, x)
    with pytest.raises(ValueError, match="as wide as queries"):
        Attention.from_stock(nn.MultiheadAttention(64, 4, kdim=32), cross=True)


class Block(nn.Module):
    """Self- and cross-attention, as a model calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other = stock(), stock()

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        x = x + self.own(x, x, x, attn_mask=CAUSAL, need_weights=False)[0]
        out: torch.Tensor = self.other(x, memory, memory, need_weights=False)[0]
        return x + out


def test_every_projection_is_quantised_and_runs() -> None:
    block, inputs = Block().eval(), (tokens(), tokens(2))
    statistics = collect(block, [inputs] * 2, 2)
    plain = block(*inputs).detach()
    outputs = {}
    for bits in (2, 16):
        config = DuQuantConfig(include=EVERYTHING, weight_bits=bits, activation_bits=16)
        quantised = quantize(block, statistics, config)
        calls: list[str] = []
        for report in quantised.layers:
            layer = quantised.model.get_submodule(report.name)
            layer.register_forward_hook(
                lambda *_, name=report.name, calls=calls: calls.append(name)
            )
        outputs[bits] = quantised.model(*inputs)
        own, other = ("own.in_proj", "own.out_proj"), ("q_proj", "kv_proj", "out_proj")
        assert calls == [*own, *(f"other.{name}" for name in other)]
    assert relative(outputs[16], plain) < 5e-6  # float32's own rounding, which differs by CPU
    assert relative(outputs[2], plain) > 0.05


def test_the_fast_path_of_torchs_encoder_layer_is_not_taken() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = tokens()
    statistics = collect(model, [(x,)], 1)
    config = DuQuantConfig(weight_bits=16, activation_bits=16)
    off = quantize(model, statistics, config).model
    feed_forward = DuQuantConfig(weight_bits=2, include=(r"linear1",))
    coarse = quantize(model, statistics, feed_forward).model
    with torch.no_grad():
        assert relative(off(x), model(x)) < 5e-6
        assert relative(coarse(x), model(x)) > 0.01
