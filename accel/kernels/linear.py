"""Linear layers for inference: a table of kernels, chosen by a check against the plain one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


class PlainLinear:
    """torch's own linear."""

    name = "fp32"

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (rows, out)."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(self(x))

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x).add_(other)


class PackedLinear(PlainLinear):
    """oneDNN's linear with its weight in the layout that oneDNN chose for `rows` rows."""

    name = "fp32_packed"

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def gelu(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "gelu", [], "none"
        )
        return out

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, other, self.weight, self.bias, "add"
        )
        return out


@lru_cache(maxsize=1)
def packed_works() -> bool:
    """Whether the packed kernel exists here and computes what torch's own linear computes."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, other = (
        torch.randn(shape, generator=generator) for shape in ((5, 16), (8, 16), (8,), (5, 8))
    )
    plain = PlainLinear(weight, bias, 5)
    calls: list[Callable[[PlainLinear], Tensor]] = [
        lambda k: k(x),
        lambda k: k.gelu(x),
        lambda k: k.add(x, other.clone()),
    ]
    try:
        packed = PackedLinear(weight, bias, 5)
        good = all(torch.allclose(call(packed), call(plain), atol=1e-5) for call in calls)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        log.info("packed linears are not available here: %s", str(error).splitlines()[0])
        return False
    if not good:
        log.warning("packed linears compute something else here, torch's own are used")
    return good


class BF16Linear(PlainLinear):
    """Weights and inputs rounded to bfloat16, results in float32."""

    name = "bf16"

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        self.weight, self.bias = weight.bfloat16(), bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight).float() + self.bias


class Wrapped(PlainLinear):
    """A function (rows, in) -> (rows, out) as a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


KERNELS: dict[str, type[PlainLinear]] = {
    "fp32": PlainLinear,
    "fp32_packed": PackedLinear,
    "bf16": BF16Linear,
}


def linear(weight: Tensor, bias: Tensor, rows: int, precision: str = "exact") -> PlainLinear:
    """The kernel for a layer: packed on a CPU where that works, else torch's own."""
    packed = weight.device.type == "cpu" and packed_works()
    name = "bf16" if precision == "bf16" else "fp32_packed" if packed else "fp32"
    return KERNELS[name](weight.detach(), bias.detach(), rows)
