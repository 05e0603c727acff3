"""Where the names of points go, so that none lies over another one or over a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAME_PX, LINE_PX = 6.6, 13.0  # of a letter of a name, and between two lines
GAP = 8.0  # between a point and its name
RINGS = (0.0, 14.0, 28.0, 44.0, 62.0)  # how far names are moved away to find room


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge.

        Example:
            >>> Box(0, 0, 2, 2).meets(Box(1, 1, 3, 3)), Box(0, 0, 2, 2).meets(Box(2, 0, 3, 2))
            (True, False)
        """
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def within(self, other: Box) -> bool:
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


@dataclass(frozen=True)
class Name:
    """A name that found room: its baseline starts at (x, y); `box` is what it covers."""

    x: float
    y: float
    box: Box
    moved: bool


def text_box(x: float, y: float, words: str, anchor: str = "start") -> Box:
    """What a text covers whose baseline starts, or ends, at (x, y)."""
    width = NAME_PX * len(words)
    left = x - (width if anchor == "end" else width / 2 if anchor == "middle" else 0)
    return Box(left, y - 10, left + width, y + 3)


def placed(
    points: Sequence[tuple[float, float, str]],
    room: Box,
    avoid: Sequence[Box] = (),
    radius: float = 5.0,
) -> list[Name | None]:
    """A place for each point's name, the first ones first; None where there is no room.

    Args:
        points: (x, y, name) in pixels.
        room: where names may be.
        avoid: what else no name covers.
        radius: of the points' dots, which no name covers.
    """
    taken = [*avoid]
    taken += [Box(x - radius, y - radius, x + radius, y + radius) for x, y, _ in points]
    found: list[Name | None] = []
    for x, y, words in points:
        name = next((n for n in _candidates(x, y, words) if _fits(n.box, room, taken)), None)
        found.append(name)
        taken += [name.box] if name else []
    return found


def _fits(box: Box, room: Box, taken: Sequence[Box]) -> bool:
    return box.within(room) and not any(box.meets(other) for other in taken)


def _candidates(x: float, y: float, words: str) -> list[Name]:
    """Right of the point, left, above and below it; then the same farther away."""
    width = NAME_PX * len(words)
    found = []
    for ring in RINGS:
        near, middle = GAP + 0.5 * ring, y + 4
        places = [(x + near, middle - dy) for dy in dict.fromkeys((0.0, ring, -ring))]
        places += [(x - near - width, middle - dy) for dy in dict.fromkeys((0.0, ring, -ring))]
        for left in (x - width / 2, x - width + GAP, x - GAP):
            places += [(left, y - GAP - ring), (left, y + GAP + 10 + ring)]
        found += [Name(a, b, text_box(a, b, words), ring > 0) for a, b in places]
    return found
