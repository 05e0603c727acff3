"""Multi-head attention made of linear layers that can be replaced.

nn.MultiheadAttention reads its weights without calling any layer, so a replaced out_proj is never
run. This module computes the same from layers that it calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .shown import ShownWeight


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer that shares these tensors."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


class Attention(nn.Module):
    """What nn.MultiheadAttention computes in eval mode, in layers: in_proj and out_proj.

    Attributes:
        cross: whether keys come from elsewhere: q_proj (E, E) and kv_proj (2E, E); else in_proj
            (3E, E), so that one transform and one quantisation serve all three.
    """

    in_proj: nn.Module
    q_proj: nn.Module
    kv_proj: nn.Module
    out_proj: nn.Module
    in_proj_bias = None  # nn.TransformerEncoderLayer's fast path, which bypasses layers, looks here
    _qkv_same_embed_dim = False

    def __init__(
        self, embed_dim: int, num_heads: int, batch_first: bool, cross: bool, bias: bool = True
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        self.cross, self.bias, self.name = cross, bias, ""
        sizes = {"q_proj": 1, "kv_proj": 2} if cross else {"in_proj": 3}
        for name, n in {**sizes, "out_proj": 1}.items():
            self.add_module(name, nn.Linear(embed_dim, n * embed_dim, bias))

    @classmethod
    def from_stock(cls, stock: nn.MultiheadAttention, cross: bool, name: str = "") -> Attention:
        """Share the weights of a stock module.

        Raises:
            ValueError: keys or values of another width, bias_k, bias_v or add_zero_attn.
        """
        if stock.in_proj_weight is None or stock.bias_k is not None or stock.add_zero_attn:
            raise ValueError(
                f"attention {name or 'module'} must have keys and values as wide as queries, and "
                f"no bias_k, bias_v or add_zero_attn"
            )
        e, weight, bias = stock.embed_dim, stock.in_proj_weight, stock.in_proj_bias
        with torch.device("meta"):
            self = cls(e, stock.num_heads, stock.batch_first, cross, bias is not None)
        if cross:
            self.q_proj = linear(weight[:e], None if bias is None else bias[:e])
            self.kv_proj = linear(weight[e:], None if bias is None else bias[e:])
        else:
            self.in_proj = linear(weight, bias)
        self.out_proj = linear(stock.out_proj.weight, stock.out_proj.bias)
        self.name = name
        return self.train(stock.training)

    @property
    def in_proj_weight(self) -> Tensor:
        """(3E, E) of the stock module, for code that reads its dtype: see `ShownWeight`."""
        first: Any = self.q_proj if self.cross else self.in_proj
        like = first.weight
        return ShownWeight((3 * self.embed_dim, self.embed_dim), like.dtype, like.device, self.name)

    def heads(
        self,
        query: Tensor,
        key: Tensor,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
        keep_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, T, E), (B, S, E) -> (B, T, E), what out_proj gets; masks as of `forward`."""
        if self.cross:
            q, (k, v) = self.q_proj(query), self.kv_proj(key).chunk(2, dim=-1)
        else:
            q, k, v = self.in_proj(query).chunk(3, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        mask = added_mask(attn_mask, key_padding_mask, keep_mask, q, k.shape[2])
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=is_causal and mask is None
        )
        return out.transpose(1, 2).flatten(2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        keep_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Arguments and shapes of nn.MultiheadAttention; weights are not returned.

        Args:
            query: (B, T, E) or, not batch_first, (T, B, E).
            key: the same tensor as query unless `cross`.
            value: the same tensor as key.
            key_padding_mask: (B, S), nn.MultiheadAttention's: true is masked, floats are added.
            attn_mask: likewise, (T, S) or (B * heads, T, S).
            need_weights: must be false.
            average_attn_weights: has no effect.
            is_causal: as there; a hint where there is an attn_mask.
            keep_mask: scaled_dot_product_attention's: true is seen; (T, S), (B, T, S) or
                (B, heads, T, S).

        Raises:
            ValueError: need_weights, training, or query, key and value of another kind.
        """
        if need_weights or self.training:
            raise ValueError("this attention has no weights to return and is for eval mode only")
        if key is not value or (not self.cross and query is not key):
            raise ValueError("query, key and value must be the same tensors as in calibration")
        if query.dim() != 3:
            raise ValueError(f"query must have 3 dimensions, got {query.dim()}")
        if not self.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        out = self.heads(query, key, attn_mask, key_padding_mask, is_causal, keep_mask)
        out = self.out_proj(out)
        return (out if self.batch_first else out.transpose(0, 1)), None


def added_mask(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    keep_mask: Tensor | None,
    q: Tensor,
    n_keys: int,
) -> Tensor | None:
    """All masks as one that is added to scores (B, heads, T, S), or None."""
    total: Tensor | None = None
    batch, n_heads, _, _ = q.shape
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask.view(batch, 1, 1, n_keys)
    for mask, means_masked in ((attn_mask, True), (key_padding_mask, True), (keep_mask, False)):
        if mask is None:
            continue
        if mask.dim() == 3:  # one per sample and head, or one per sample
            mask = mask.view(batch, -1 if len(mask) == batch * n_heads else 1, *mask.shape[1:])
        if mask.dtype == torch.bool:
            hidden = mask if means_masked else ~mask
            mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
            mask = mask.masked_fill(hidden, float("-inf"))
        total = mask if total is None else total + mask
    return total
