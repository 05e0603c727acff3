"""What runs of blocks add to the streams, in pieces that end where the model steps between blocks.

Some models change the stream between two blocks: they add a ControlNet's samples, turn frames into
tokens and back, join text and image. A difference that was taken across such a place would hold a
change that the model makes again in every step, so it is kept in pieces, one on each side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .streams import Streams
from .values import Shapes, Values, Weighted, combined, less, owned, shapes_of


@dataclass(frozen=True)
class Piece:
    """Blocks that ran one after the other, with nothing of the model between them.

    Attributes:
        ran: their indices.
        shapes: of the streams that the first one got.
        values: what they added, or what the last one put out.
    """

    ran: tuple[int, ...]
    shapes: Shapes
    values: Values


class Held:
    """Streams as a block put them out, to be compared with what the next one gets.

    Args:
        values: of the streams.
        copied: whether the model is known to change them in place, so that a copy is needed.
    """

    def __init__(self, values: Values, copied: bool) -> None:
        self.values = values
        untracked = any(value is not None and value.is_inference() for value in values)
        self.versions = None if untracked else _versions(values)
        self.copy = owned(values) if copied or untracked else None

    @property
    def untouched(self) -> bool:
        """Whether nothing has changed them in place."""
        if self.versions is None:
            assert self.copy is not None
            return all(_equal(a, b) for a, b in zip(self.values, self.copy, strict=True))
        return self.versions == _versions(self.values)

    def same(self, others: Values) -> bool:
        """Whether the next block gets exactly these."""
        pairs = zip(self.values, others, strict=True)
        return all(_one_view(a, b) for a, b in pairs) and self.untouched

    def taken(self) -> Values | None:
        """What the block put out; None where that was changed in place and is lost."""
        if self.copy is not None:
            return self.copy
        return self.values if self.untouched else None


class Recorder:
    """Notes what a run of blocks adds in one call of the model.

    Args:
        kind: delta or output, see `attach`.
        stop: one past the last block of the run.
        in_place: blocks after which the model changes a stream in place; found ones are added.

    Attributes:
        pieces: that are finished.
        begun: streams that the newest piece began with; none of an output.
        lost: whether a piece is missing, because the model changed its end in place.
    """

    def __init__(self, kind: str, stop: int, in_place: set[int]) -> None:
        self.kind, self.stop, self.in_place = kind, stop, in_place
        self.pieces: list[Piece] = []
        self.begun: Values = ()
        self.lost = False
        self._ran: list[int] = []
        self._shapes: Shapes = ()
        self._held: Held | None = None
        self._streams: Streams | None = None

    def enter(
        self, index: int, streams: Streams, values: Values, copy: Callable[[], Values]
    ) -> None:
        """Before a block runs, with what it gets and how to copy that."""
        goes_on = self._held is not None and (
            self.kind == "output" or (self._streams is streams and self._held.same(values))
        )
        if not goes_on:
            self.end()
            self.begun, self._shapes = copy() if self.kind == "delta" else (), shapes_of(values)
        self._streams = streams
        self._ran.append(index)

    def leave(self, index: int, values: Values) -> None:
        """After it, with the streams that leave it."""
        self._held = Held(values, index in self.in_place)
        if index + 1 == self.stop:
            self.end()

    def end(self) -> None:
        """The piece that is open ends with the last block that ran."""
        if self._held is None:
            return
        values = self._held.taken()
        if values is None:
            self.in_place.add(self._ran[-1])
            self.lost = True
        else:
            kept = owned(values) if self.kind == "output" else less(values, self.begun)
            self.pieces.append(Piece(tuple(self._ran), self._shapes, kept))
        self._ran, self._held = [], None


class Reuse:
    """A run of hits in one call of the model: what is added after which block.

    Args:
        kind: delta or output.
        terms: (pieces, coefficient, that of the low band), newest first.
        stop: one past the last block of the run.
        cutoff: of the low band.
    """

    def __init__(
        self,
        kind: str,
        terms: Sequence[tuple[Sequence[Piece], float, float]],
        stop: int,
        cutoff: float,
    ) -> None:
        self.kind, self.n_terms, self.stop, self.cutoff = kind, len(terms), stop, cutoff
        self._begins: dict[int, list[Piece]] = {}
        self._ends: dict[int, list[tuple[Piece, float, float]]] = {}
        for pieces, high, low in terms:
            for piece in pieces:
                self._begins.setdefault(piece.ran[0], []).append(piece)
                self._ends.setdefault(piece.ran[-1], []).append((piece, high, low))
        self._ran = {i for pieces, _, _ in terms for piece in pieces for i in piece.ran}
        self._passed: list[int] = []

    def fits(self, index: int, values: Values) -> bool:
        """Whether what begins with a block is of the shapes that it gets now."""
        begins = self._begins.get(index)
        return begins is None or all(piece.shapes == shapes_of(values) for piece in begins)

    def pass_on(self, index: int, name: str, values: Values) -> Values:
        """What leaves a block that does not run.

        Raises:
            RuntimeError: other blocks run in this step than in the one whose values are reused.
        """
        self._passed.append(index)
        if index not in self._ran:
            raise _other_blocks(name)
        due = self._ends.pop(index, None)
        if due is None:
            return values
        passed = [[i for i in self._passed if i >= piece.ran[0]] for piece, _, _ in due]
        apart = any(tuple(p) != piece.ran for p, (piece, _, _) in zip(passed, due, strict=True))
        if apart or (self.kind == "output" and len(due) != self.n_terms):
            raise _other_blocks(name)
        added: list[Weighted] = [(piece.values, high, low) for piece, high, low in due]
        return combined(None if self.kind == "output" else values, added, self.cutoff)

    def check_stop(self, index: int, name: str) -> None:
        """Before the run is given up at a block; an error where a piece is half done."""
        if any(p.ran[0] < index for due in self._ends.values() for p, _, _ in due):
            raise RuntimeError(
                f"{name} gets another shape than before, in the middle of what is reused: call "
                "begin() where the batch or the length changes"
            )

    def end(self, names: Sequence[str]) -> None:
        """The run is over; an error where a block that ends a piece did not run."""
        if self._ends:
            raise _other_blocks(names[min(self._ends)])


def _other_blocks(name: str) -> RuntimeError:
    return RuntimeError(
        f"other blocks run around {name} in this step than in the one whose values are reused: "
        "name calls that skip blocks as a branch of their own, step(s, branch)"
    )


def _versions(values: Values) -> list[int | None]:
    return [None if value is None else value._version for value in values]


def _equal(value: Tensor | None, other: Tensor | None) -> bool:
    return value is other or (value is not None and other is not None and torch.equal(value, other))


def _one_view(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors are the same numbers in the same memory."""
    if a is None or b is None or a is b:
        return a is b
    return (
        a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
    )
