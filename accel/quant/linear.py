"""A linear layer that holds codes instead of a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from .codes import (
    asymmetric,
    integer_product,
    pack4,
    quantise_weight,
    token_codes,
    unpack4,
)
from .config import OFF
from .shown import ShownWeight
from .spec import LinearSpec
from .transform import Transform, hadamard, mix, padded, rotate

VERSION = 1


class QuantisedLinear(nn.Module):
    """y = rotate_back(T(x) W^T) + b in codes, with T of transform.py; for inference only.

    `weight` shows dtype, device and shape of what it was made from, and refuses arithmetic, so that
    no caller can read it and bypass the layer. Faster ways to compute it are in kernels.py; what
    they need is in the buffers: inverse_smooth (K,), first, second, perm (width,), codes (N, width)
    int8 or packed uint8 (N, width / 2), scale (N,), bias (N,) and rows, the outputs' rotation.
    Whatever a model is cast to, they keep their types.

    Attributes:
        name: in its model, for messages.
        source_dtype: of the weight it stands for, and of what the model was cast to since.
        executor: what computes it in the place of `plain`, see execution.py.
        ran: whether it has been called.
    """

    inverse_smooth: Tensor | None
    first: Tensor | None
    perm: Tensor | None
    second: Tensor | None
    rows: Tensor | None
    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, spec: LinearSpec) -> None:
        super().__init__()
        self.spec, self.name, self.ran = spec, "", False
        self.source_dtype = torch.float32
        self.executor: Callable[[QuantisedLinear, Tensor], Tensor] | None = None
        self.in_features, self.out_features = spec.in_features, spec.out_features
        self.width = padded(spec.in_features, spec.block)
        width, n = self.width, spec.out_features
        self._buffer("inverse_smooth", torch.ones(spec.in_features) if spec.smooth else None)
        self._rotation("first", spec.first)
        self._buffer("perm", torch.arange(width, dtype=torch.int32) if spec.permute else None)
        self._rotation("second", spec.second)
        stored = spec.rows > 1 and spec.rows_kind == "stored"
        turn = hadamard(spec.rows).float() if spec.rows > 1 else None
        if stored:
            turn = torch.eye(spec.rows).repeat(n // spec.rows, 1, 1)
        self.register_buffer("rows", turn, persistent=stored)
        if spec.weight_bits == OFF:
            self._buffer("codes", torch.zeros(n, width))
        elif spec.weight_bits > 4:
            self._buffer("codes", torch.zeros(n, width, dtype=torch.int8))
        else:
            self._buffer("codes", torch.zeros(n, width // 2, dtype=torch.uint8))
        self._buffer("scale", torch.ones(n))
        self._buffer("bias", torch.zeros(n) if spec.bias else None)

    def _buffer(self, name: str, value: Tensor | None) -> None:
        self.register_buffer(name, value)

    def _rotation(self, name: str, kind: str) -> None:
        size = self.spec.block
        if kind == "stored":
            self._buffer(name, torch.eye(size).repeat(self.width // size, 1, 1))
        else:
            matrix = hadamard(size).float() if kind == "hadamard" else None
            self.register_buffer(name, matrix, persistent=False)

    @classmethod
    def from_weight(
        cls, spec: LinearSpec, transform: Transform, weight: Tensor, bias: Tensor | None, clip: bool
    ) -> QuantisedLinear:
        """Transform and quantise a weight (N, K) on its device; float64 until the codes."""
        layer = cls(spec)
        layer.source_dtype = weight.dtype
        w = transform.weight(weight.detach().cpu().double())
        if spec.rows > 1:
            back = hadamard(spec.rows) if transform.back is None else transform.back
            w = rotate(w.T.contiguous(), back.mT.contiguous()).T.contiguous()
            layer.rows = back.float()
        if spec.weight_bits == OFF:
            layer.codes = w.float().contiguous()
        else:
            codes, layer.scale = quantise_weight(w, spec.weight_bits, clip)
            layer.codes = codes if spec.weight_bits > 4 else pack4(codes)
        if transform.smooth is not None:
            layer.inverse_smooth = (1 / transform.smooth).float()
        if transform.perm is not None:
            layer.perm = transform.perm.to(torch.int32)
        for name in ("first", "second"):
            if getattr(spec, name) == "stored":
                setattr(layer, name, getattr(transform, name).float())
        if bias is not None:
            layer.bias = bias.detach().cpu().float().clone()
        return layer.to(weight.device)

    def transformed(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, width)."""
        if self.inverse_smooth is not None:
            x = x * self.inverse_smooth
        return mix(x, self.width, self.first, self.perm, self.second)

    def weight_codes(self) -> Tensor:
        """(N, width): int8, or float32 where weights are not quantised."""
        return unpack4(self.codes) if self.codes.dtype == torch.uint8 else self.codes

    @property
    def weight(self) -> Tensor:
        """(N, K) without values, see `ShownWeight`."""
        return ShownWeight(self.shown_shape, self.source_dtype, self.codes.device, self.name)

    @property
    def shown_shape(self) -> tuple[int, ...]:
        """Of the weight that it stands for."""
        return self.out_features, self.in_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N) in the dtype of x."""
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"layer {self.name or 'without a name'} takes {self.in_features} features, got an "
                f"input of {tuple(x.shape)}"
            )
        self.ran = True
        flat = x.detach().reshape(-1, self.in_features).float()
        y = self.plain(flat) if self.executor is None else self.executor(self, flat)
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)

    def plain(self, x: Tensor) -> Tensor:
        """(T, K) float32 -> (T, N): the formula in torch, which kernels are checked against."""
        y = PRODUCTS[self.spec.arithmetic](self, self.transformed(x))
        if self.rows is not None:
            y = rotate(y, self.rows)
        return y if self.bias is None else y + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        """Moves the buffers and casts none: scales of fewer bits would be other numbers."""
        self.source_dtype = fn(
            torch.empty(0, dtype=self.source_dtype, device=self.codes.device)
        ).dtype
        for name, buffer in self._buffers.items():
            if buffer is not None:
                moved = fn(buffer.view(torch.int32) if buffer.is_floating_point() else buffer)
                self._buffers[name] = moved.view(buffer.dtype)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self.spec)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        mine, state = self.get_extra_state(), {"rows_kind": "hadamard", **state}
        wrong = [k for k in {**mine, **state} if mine.get(k) != state.get(k)]
        if wrong:
            k = wrong[0]
            raise ValueError(f"{k} must be {mine.get(k)!r}, the state has {state.get(k)!r}")

    def extra_repr(self) -> str:
        s = self.spec
        bits = f"W{s.weight_bits}A{s.activation_bits}"
        return f"{s.in_features}, {s.out_features}, {s.method}, {bits}, {s.arithmetic}"


def integer(layer: QuantisedLinear, x: Tensor) -> Tensor:
    """(T, width) -> (T, N): 8-bit products, summed exactly, scaled once."""
    codes, scale = token_codes(x, layer.spec.activation_bits, layer.spec.activation_clip)
    return integer_product(codes, layer.weight_codes()).float() * scale * layer.scale


def rounded(layer: QuantisedLinear, x: Tensor) -> Tensor:
    """(T, width) -> (T, width): what the codes of the inputs stand for, in floating point."""
    spec = layer.spec
    if spec.activation_bits < OFF and spec.activation == "asymmetric":
        return asymmetric(x, spec.activation_bits, spec.activation_clip)
    if spec.activation_bits < OFF:
        codes, scale = token_codes(x, spec.activation_bits, spec.activation_clip)
        return codes * scale
    return x


def simulated(layer: QuantisedLinear, x: Tensor) -> Tensor:
    """(T, width) -> (T, N): the same formula, or one without integers, in floating point."""
    return rounded(layer, x) @ (layer.weight_codes() * layer.scale[:, None]).T


PRODUCTS: dict[str, Callable[[QuantisedLinear, Tensor], Tensor]] = {
    "integer": integer,
    "simulated": simulated,
}
