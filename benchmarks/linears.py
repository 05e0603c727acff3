"""The linear layers of one computed step, packed and run alone: a yardstick for the step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from policies import DiffusionPolicy


class Linears:
    """Every linear of one denoising step after hoisting, over the live tokens of `batch` rows.

    Packed by oneDNN for that many rows, with this policy's weights; nothing between them. The
    fused engine's C program has linears of its own and may be faster.
    """

    def __init__(self, policy: DiffusionPolicy, batch: int) -> None:
        sizes = policy.sizes
        model: Any = policy.model
        assert not sizes.encoder_only, "only policies with a decoder are benchmarked"
        rows, dim = batch * policy.n_live, sizes.n_emb
        layers: list[tuple[Tensor, Tensor]] = [(model.input_emb.weight, model.input_emb.bias)]
        for layer in model.decoder.layers:
            own, cross = layer.self_attn, layer.multihead_attn
            layers += [
                (own.in_proj_weight, own.in_proj_bias),
                (own.out_proj.weight, own.out_proj.bias),
                (cross.in_proj_weight[:dim], cross.in_proj_bias[:dim]),
                (cross.out_proj.weight, cross.out_proj.bias),
                (layer.linear1.weight, layer.linear1.bias),
                (layer.linear2.weight, layer.linear2.bias),
            ]
        layers.append((model.head.weight, model.head.bias))
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            self.inputs = {
                width: torch.randn((rows, width), generator=generator)
                for width in {weight.shape[1] for weight, _ in layers}
            }
            self.packed = torch.backends.mkldnn.is_available()
            self.calls = [
                (self.inputs[w.shape[1]], self._pack(w.detach(), rows), b.detach())
                for w, b in layers
            ]

    def _pack(self, weight: Tensor, rows: int) -> Tensor:
        if not self.packed:
            return weight
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        return packed

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        out = torch.empty(0)
        for x, weight, bias in self.calls:
            if self.packed:
                out = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
            else:
                out = F.linear(x, weight, bias)
        return out
