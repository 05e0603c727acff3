"""What flows through the blocks of a model that is not ours, and how it is passed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .values import Values

Names = Sequence[str] | Mapping[str, Sequence[str]]
"""Of streams: for all blocks, or {path: those of its blocks}."""


class Streams:
    """What blocks pass on.

    Args:
        names: arguments of a block.
        outputs: those that it returns, in this order.

    Raises:
        ValueError: outputs that are no streams.
    """

    def __init__(self, names: Sequence[str], outputs: Sequence[str] | None) -> None:
        if isinstance(names, str) or isinstance(outputs, str):
            raise ValueError("streams and outputs must be lists of names")
        self.names = tuple(names)
        given = self.names if outputs is None else tuple(outputs)
        if not set(given) <= set(names) or len(set(given)) != len(given) or not given:
            raise ValueError(f"outputs must be among {', '.join(names)}, got {', '.join(given)}")
        self.order = [self.names.index(stream) for stream in given]

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


@dataclass
class Block:
    """One block, and how its streams are passed.

    Attributes:
        name: path in the model.
        module: the block.
        streams: that it passes on.
        places: {stream: position among the arguments}, where it may be passed by position.
        form: what it returns: 0 a tensor, n a tuple of n; None until it has run.
    """

    name: str
    module: nn.Module
    streams: Streams
    places: dict[str, int]
    form: int | None = None

    def learn(self, out: Any) -> None:
        """Note the form of what it returns.

        Raises:
            RuntimeError: it is not what `outputs` says.
        """
        order = self.streams.order
        if isinstance(out, Tensor):
            self.form = 0
        elif isinstance(out, tuple) and len(out) == len(order):
            self.form = len(out)
        else:
            got = f"{len(out)} values" if isinstance(out, tuple) else type(out).__name__
            raise RuntimeError(
                f"{self.name} returns {got}, outputs names {len(order)}: "
                f"{', '.join(self.streams.names[i] for i in order)}"
            )


def streams_of(paths: Sequence[str], names: Names, outputs: Names | None) -> list[Streams]:
    """Of the blocks of each path; one object where they are given for all.

    Raises:
        ValueError: a path without streams, or one that is not among the blocks.
    """
    if not isinstance(names, Mapping) and not isinstance(outputs, Mapping):
        return [Streams(names, outputs)] * len(paths)
    for word, given in (("streams", names), ("outputs", outputs)):
        if isinstance(given, Mapping) and set(given) != set(paths):
            raise ValueError(
                f"{word} must be of {', '.join(paths)}, each path of blocks, "
                f"got {', '.join(map(str, given))}"
            )
    return [
        Streams(
            names[path] if isinstance(names, Mapping) else names,
            outputs[path] if isinstance(outputs, Mapping) else outputs,
        )
        for path in paths
    ]


def find_blocks(
    model: nn.Module, paths: Sequence[str], names: Names, outputs: Names | None
) -> list[Block]:
    """The blocks at some paths, in their order.

    Args:
        model: any.
        paths: each of an nn.ModuleList of blocks, or of one block.
        names: streams, see `attach`.
        outputs: those that blocks return.

    Raises:
        ValueError: a path that leads nowhere, a block that is listed twice, or blocks without such
            an argument.
    """
    if isinstance(paths, str) or not paths:
        raise ValueError(f"blocks must be a list of paths, got {paths!r}")
    found: list[Block] = []
    listed: dict[int, str] = {}
    for path, streams in zip(paths, streams_of(paths, names, outputs), strict=True):
        for name, module in _modules(model, path):
            first = listed.setdefault(id(getattr(module, "_orig_mod", module)), name)
            if len(listed) == len(found):
                raise ValueError(
                    f"blocks: {name} is the same module as {first}: a block that is used twice in "
                    "a call has no place of its own; list blocks that are used once"
                )
            found.append(_block(name, module, streams))
    return found


def _modules(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    try:
        found = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"blocks: {type(model).__name__} has no {path!r}") from error
    if not isinstance(found, nn.ModuleList):
        return [(path, found)]
    if not len(found):
        raise ValueError(f"blocks: {path!r} must be an nn.ModuleList with blocks in it, got none")
    return [(f"{path}.{index}", module) for index, module in enumerate(found)]


def _block(name: str, module: nn.Module, streams: Streams) -> Block:
    # what torch.compile(block) returns takes anything, and calls _orig_mod
    kind: Any = type(getattr(module, "_orig_mod", module))
    parameters = list(inspect.signature(kind.forward).parameters)[1:]
    missing = [stream for stream in streams.names if stream not in parameters]
    if missing:
        raise ValueError(f"streams: {name} takes {', '.join(parameters)}, not {missing[0]!r}")
    places = {stream: parameters.index(stream) for stream in streams.names}
    return Block(name, module, streams, places)
