"""What flows through the blocks of a model that is not ours: how it is passed, and sums of it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Values = tuple[Tensor | None, ...]


@dataclass
class Block:
    """One block, and how its streams are passed.

    Attributes:
        name: path in the model.
        module: the block.
        places: {stream: position among the arguments}, where it may be passed by position.
        form: what it returns: 0 a tensor, n a tuple of n; None until it has run.
    """

    name: str
    module: nn.Module
    places: dict[str, int]
    form: int | None = None


class Streams:
    """What blocks pass on.

    Args:
        names: arguments of a block.
        outputs: those that it returns, in this order.
    """

    def __init__(self, names: Sequence[str], outputs: Sequence[str]) -> None:
        self.names = tuple(names)
        self.order = [self.names.index(stream) for stream in outputs]

    def into(self, block: Block, args: Any, kwargs: Any) -> Values:
        """The streams that a call got; None for one that it did not."""
        found = []
        for stream in self.names:
            if stream in kwargs:
                found.append(kwargs[stream])
            else:
                place = block.places[stream]
                found.append(args[place] if place < len(args) else None)
        return tuple(found)

    def after(self, block: Block, out: Any, args: Any, kwargs: Any) -> Values:
        """Streams after a block; those that it does not return are as they came."""
        values = list(self.into(block, args, kwargs))
        for place, value in zip(self.order, out if block.form else (out,), strict=False):
            values[place] = value
        return tuple(values)

    def packed(self, block: Block, values: Values) -> Any:
        """As the block returns them."""
        if not block.form:
            return values[self.order[0]]
        return tuple(values[place] for place in self.order)

    def learn(self, block: Block, out: Any) -> None:
        """Note the form of what a block returns.

        Raises:
            RuntimeError: it is not what `outputs` says.
        """
        if block.form is not None:
            return
        if isinstance(out, Tensor):
            block.form = 0
        elif isinstance(out, tuple) and len(out) == len(self.order):
            block.form = len(out)
        else:
            got = f"{len(out)} values" if isinstance(out, tuple) else type(out).__name__
            raise RuntimeError(
                f"{block.name} returns {got}, outputs names {len(self.order)}: "
                f"{', '.join(self.names[i] for i in self.order)}"
            )


def find_blocks(model: nn.Module, paths: Sequence[str], streams: Sequence[str]) -> list[Block]:
    """The blocks of some nn.ModuleLists, in the order of the paths.

    Raises:
        ValueError: a path that names no filled nn.ModuleList, or blocks without such an argument.
    """
    if isinstance(paths, str) or not paths:
        raise ValueError(f"blocks must be a list of paths, got {paths!r}")
    found: list[Block] = []
    for path in paths:
        try:
            stack = model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"blocks: {type(model).__name__} has no {path!r}") from error
        if not isinstance(stack, nn.ModuleList) or not len(stack):
            raise ValueError(
                f"blocks: {path!r} must be an nn.ModuleList with blocks in it, "
                f"got {type(stack).__name__}"
            )
        for index, module in enumerate(stack):
            parameters = list(inspect.signature(type(module).forward).parameters)[1:]
            missing = [stream for stream in streams if stream not in parameters]
            if missing:
                raise ValueError(
                    f"streams: {path}.{index} takes {', '.join(parameters)}, not {missing[0]!r}"
                )
            places = {stream: parameters.index(stream) for stream in streams}
            found.append(Block(f"{path}.{index}", module, places))
    return found


def owned(values: Values) -> Values:
    """Copies, which blocks that work in place leave alone."""
    return tuple(None if value is None else value.clone() for value in values)


def less(values: Values, others: Values) -> Values:
    """Stream by stream; None where either is."""
    found = []
    for value, other in zip(values, others, strict=True):
        if value is not None and other is not None and value.shape != other.shape:
            raise RuntimeError(
                f"a run of blocks changes a stream from {tuple(other.shape)} to "
                f"{tuple(value.shape)}: it has no delta; let it end where the shape changes"
            )
        found.append(None if value is None or other is None else value - other)
    return tuple(found)


def combined(start: Values | None, terms: Sequence[tuple[Values, float]]) -> Values:
    """Start + sum of coefficient * values, new tensors; a stream that was None stays None."""
    found: list[Tensor | None] = []
    for index in range(len(terms[0][0])):
        total = None if start is None else start[index]
        missing = terms[0][0][index] is None
        for values, coefficient in () if missing else terms:
            value = values[index]
            assert value is not None
            if total is None:
                total = value.clone() if coefficient == 1 else coefficient * value
            else:
                total = torch.add(total, value, alpha=coefficient)
        found.append(None if missing else total)
    return tuple(found)
