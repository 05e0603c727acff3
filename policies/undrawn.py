"""Networks whose weights are loaded next: none are drawn for them first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWS = (Tensor.uniform_, Tensor.normal_)


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
