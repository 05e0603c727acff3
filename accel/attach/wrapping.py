"""A forward of our own on a block, put there and taken off beside those of other tools."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .streams import Block

Forward = Callable[..., Any]


class Wrapper:
    """Our forward of one block.

    A block that `torch.compile` made, or that was compiled in place, is computed as compiled; the
    cache around it is not.

    Args:
        index: of the block.
        block: whose forward it is.
        forward: (index, block, compute, *args, **kwargs) -> what the block returns.
    """

    def __init__(self, index: int, block: Block, forward: Forward) -> None:
        self.index, self.block, self.forward = index, block, forward
        self.ours: Any = None

    def check(self) -> None:
        """Refuse a block that another tool has hooked.

        Raises:
            RuntimeError: names it, and the way out.
        """
        module = self.block.module
        there = vars(module).get("forward")
        own = getattr(there, "__func__", None) is type(module).forward  # as diffusers leaves it
        if there is None or own or hasattr(module, "_orig_mod") or self.ours in chain(there):
            return
        raise RuntimeError(
            f"{self.block.name} has a replaced forward already: disable() another cache first; of "
            "another tool (offloading, hooks), attach before it, or take it off, attach, and put "
            "it on again"
        )

    def put(self) -> None:
        """Put it on; a tool that was put on after it keeps its place."""
        module = self.block.module
        there = vars(module).get("forward")
        if self.ours is not None and self.ours in chain(there):
            return
        self.before, self.compiled = there, module._compiled_call_impl
        compute: Forward = module.forward
        if self.compiled is not None:
            compute = partial(_bare, module, self.compiled)
            module._compiled_call_impl = None
        # an instance attribute, which `take` deletes: the class is never touched
        self.ours = partial(self.forward, self.index, self.block, compute)
        self.ours.__wrapped__ = module.forward  # for its signature
        module.forward = self.ours

    def take(self) -> bool:
        """Take it off; whether another tool is around it, so that it stays and passes calls on."""
        module = self.block.module
        there = vars(module).get("forward")
        if self.ours is None or there is not self.ours:
            return self.ours is not None and self.ours in chain(there)
        if self.before is None:
            del module.forward
        else:
            module.forward = self.before
        if self.compiled is not None:
            module._compiled_call_impl = self.compiled
        self.ours = None
        return False


def _bare(module: nn.Module, call: Forward, *args: Any, **kwargs: Any) -> Any:
    """A call that is compiled from the module's own forward, so with ours put aside."""
    there = vars(module).pop("forward")
    try:
        return call(*args, **kwargs)
    finally:
        vars(module)["forward"] = there


def chain(forward: Any) -> list[Any]:
    """A forward and those that it was put around, as functools.update_wrapper notes them."""
    found = []
    while forward is not None and forward not in found:
        found.append(forward)
        forward = getattr(forward, "__wrapped__", None)
    return found
