"""Networks that take weights from elsewhere: none are drawn for them first, or they share them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWS = (Tensor.uniform_, Tensor.normal_)
Module = TypeVar("Module", bound=nn.Module)


class Undrawn(TorchFunctionMode):
    """Within it what fills parameters does nothing; buffers are computed as ever.

    Every parameter is in the weights that are loaded, and drawing them takes longer than that.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        fills = func in DRAWS or getattr(func, "__module__", None) == nn.init.__name__
        return filled if fills and isinstance(filled, nn.Parameter) else func(*args, **kwargs)


def shared(module: Module) -> Module:
    """A copy of a module of any kind with parameters and buffers of its own in the same memory."""
    memo: dict[int, Any] = {id(b): b.detach() for b in module.buffers()}
    memo |= {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    return copy.deepcopy(module, memo)
