"""What a quantised layer shows in the place of its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
LIKE: dict[
    Any, Callable[..., Tensor]
] = {  # operations that read no value, and what makes the same of an ordinary tensor
    aten.new_empty.default: torch.Tensor.new_empty,
    aten.new_zeros.default: torch.Tensor.new_zeros,
    aten.new_ones.default: torch.Tensor.new_ones,
    aten.new_full.default: torch.Tensor.new_full,
    aten.empty_like.default: torch.empty_like,
    aten.zeros_like.default: torch.zeros_like,
    aten.ones_like.default: torch.ones_like,
    aten.full_like.default: torch.full_like,
}


class ShownWeight(Tensor):
    """dtype, device and shape of a weight that was replaced by codes; it has no values.

    Code that walks layers by hand reads these (`x.to(layer.weight.dtype)`: SmolVLA, Gemma, T5).
    Anything that would need a value is refused, so that no product can bypass the layer.

    Example:
        >>> shown = ShownWeight((4, 8), torch.bfloat16, torch.device("cpu"), "blocks.0.q_proj")
        >>> torch.ones(2, 8).to(shown.dtype).dtype, tuple(shown.shape), shown.new_zeros(2).dtype
        (torch.bfloat16, (4, 8), torch.bfloat16)
    """

    layer: str

    @staticmethod
    def __new__(
        cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layer: str
    ) -> ShownWeight:
        make: Any = Tensor._make_wrapper_subclass
        made: ShownWeight = make(cls, shape, dtype=dtype, device=device)
        made.layer = layer
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        mine = next((a for a in args if isinstance(a, ShownWeight)), None)
        if mine is not None and func is aten.detach.default:
            return ShownWeight(tuple(mine.shape), mine.dtype, mine.device, mine.layer)
        if mine is not None and mine is args[0] and func in LIKE:
            empty = torch.empty(mine.shape, dtype=mine.dtype, device="meta")
            settings = {
                "device": mine.device,
                **{k: v for k, v in (kwargs or {}).items() if v is not None},
            }
            return LIKE[func](empty, *args[1:], **settings)
        layer = mine.layer if mine is not None and mine.layer else "of a quantised model"
        raise RuntimeError(  # of a TypeError, operators would make one of their own
            f"layer {layer} has codes in the place of its weight, {func} cannot compute with it: "
            "call the layer, or leave it out with quant.exclude"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        kind = f"{tuple(self.shape)}, {self.dtype}, {self.device}"
        return f"ShownWeight({self.layer!r}, {kind}: quantised, without values)"
