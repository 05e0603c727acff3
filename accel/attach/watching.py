"""What a cache puts on a model: a forward on each block, and hooks around the model's own calls."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .streams import Block
from .wrapping import Wrapper

if TYPE_CHECKING:
    from .attached import Attached

log = logging.getLogger(__name__)

REASON = (
    "accel.attach decides outside of compiled code which blocks run: compile the blocks, not the "
    "model, before attaching (blocks[i] = torch.compile(blocks[i]))"
)


class Watch:
    """Ours on a model, put there and taken off as a whole.

    Args:
        attached: whose generation the blocks run.
    """

    def __init__(self, attached: Attached) -> None:
        self.attached, self.on = attached, False
        self.wrappers = [Wrapper(i, b, self._forward) for i, b in enumerate(attached.blocks)]
        self._hooks: list[Any] = []
        self._outside: Callable[..., Any] | None = None

    def put(self) -> None:
        """On the blocks and the model.

        Raises:
            RuntimeError: it is on, or another tool has replaced a forward; nothing is changed then.
        """
        if self.on:
            name = self.attached.blocks[0].name
            raise RuntimeError(f"{name} has a replaced forward already: this cache is on")
        for wrapper in self.wrappers:
            wrapper.check()
        for wrapper in self.wrappers:
            wrapper.put()
        self._hook(self._begins, self._ends)
        self.guard()
        self.on = True

    def take(self) -> None:
        """Off again; where another tool is around a block's forward, ours stays, and passes on."""
        kept = [wrapper.block.name for wrapper in self.wrappers if wrapper.take()]
        if kept and self.on:
            log.warning(
                "%s: another tool is around the cache, which stays there and passes calls on; "
                "disable() after that tool is taken off removes it",
                kept[0],
            )
        for hook in self._hooks:
            hook.remove()
        self._hooks, self.on, self._outside = [], False, None

    def guard(self) -> None:
        """Keep all of it out of torch.compile, once that has been imported (which takes long)."""
        if self._outside is None and "torch._dynamo" in sys.modules:
            keep_out: Any = torch.compiler.disable
            self._outside = keep_out(self._interpreted, reason=REASON)
            self._hook(keep_out(self._begins, reason=REASON), keep_out(self._ends, reason=REASON))

    def _hook(self, begins: Callable[..., Any], ends: Callable[..., Any]) -> None:
        for hook in self._hooks:
            hook.remove()
        model = self.attached.model
        self._hooks = [
            model.register_forward_pre_hook(begins, with_kwargs=True),
            model.register_forward_hook(ends),
        ]

    # --- called by the model

    def _forward(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not self.on:
            return compute(*args, **kwargs)
        if self._outside is not None and torch.compiler.is_compiling():
            return self._outside(index, block, compute, *args, **kwargs)
        return self.attached.generation.forward(index, block, compute, *args, **kwargs)

    def _begins(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        counter = self.attached.counter
        if counter is not None:
            step, branch = counter.count(args, kwargs)
            if step == 0 and counter.calls == 1:
                self.attached.renew()
            self.attached.step(step, branch)
        self.attached.generation.calls.begins()

    def _interpreted(
        self, index: int, block: Block, compute: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return self.attached.generation.forward(index, block, compute, *args, **kwargs)

    def _ends(self, module: nn.Module, args: Any, out: Any) -> None:
        self.attached.generation.calls.ends()
        self.attached.generation.end_of_call()
