"""Success against measured speed-up, as docs/pictures/frontier.svg.

    python -m benchmarks.frontier.picture kitchen

Every arm of a task that was timed is a point with its Wilson interval; a few have a name. It is
drawn from results/ alone: no torch, no simulator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from runners.metrics import wilson
from runners.svg import Scale
from skipstep.whole_files import write_whole

from .measured import measured
from .page import Row, rows_of

OUT = Path("docs/pictures/frontier.svg")
WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 60, 24, 48, 56
TICKS = (5, 10, 20, 50, 100, 200)
LINE = 16  # between names
X = Scale(TICKS[0] * 0.9, TICKS[-1] * 1.4, LEFT, WIDTH - RIGHT, log=True)
Y = Scale(0, 1, HEIGHT - BOTTOM, TOP)


class Kind(NamedTuple):
    """What arms have in common, and its colour."""

    name: str
    colour: str


PLAIN = Kind("all steps", "#222222")
FEW = Kind("few steps, stochastic", "#0b6bcb")
ODE = Kind("few steps, deterministic", "#7a8ca0")
CACHE = Kind("a cache on all steps", "#d1600a")
ON_TOP = Kind("a cache on few steps", "#b3261e")
INTEGERS = Kind("few steps in 8-bit integers", "#12805c")
KINDS = (PLAIN, FEW, ODE, CACHE, ON_TOP, INTEGERS)
NAMED = {  # of kitchen: label -> where its name is put, from the point
    "ddpm-100": ("100 DDPM steps", 8, -8),
    "ddpm-10 trailing": ("10 steps", -8, -14),
    "ddpm-5 trailing": ("5 steps", -6, -14),
    "ddpm-5 trailing, duquant W8A8": ("5 steps, integers", -72, -14),
    "ddpm-100, bac S = 9": ("bac, hash_ab, uniform", -34, 46),
    "ddpm-10 trailing, uniform S = 5": ("10 steps, uniform", -60, 34),
    "ddpm-100, hash_ab S = 4": ("hash_ab at 10 % of the FLOPs", 10, 4),
    "ddim-10 trailing": ("10 steps, DDIM", 10, 10),
    "ddpm-3 trailing": ("3 steps", 10, 4),
}


def kind_of(row: Row) -> Kind:
    """By what makes the arm cheaper."""
    config = row.run.config
    few, cached = int(config["sampler"]["steps"]) < 100, config["cache"]["name"] != "none"
    if cached:
        return ON_TOP if few else CACHE
    if config["quant"]["name"] != "none":
        return INTEGERS
    if not few:
        return PLAIN
    return FEW if any(word in row.label for word in ("ddpm", "SDE", "eta 1")) else ODE


def drawn(task: str, rows: Sequence[Row]) -> Iterator[str]:
    """The elements of the picture."""
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    n = max(row.n for row in rows)
    title = f"{task.capitalize()}: success against speed, 95 % intervals, up to {n} seeds an arm"
    yield _text(LEFT, 22, title, size=14)
    yield from _axes()
    for row in sorted(rows, key=lambda row: row.n):
        yield from _point(row)
    for row in rows:
        if row.label in NAMED:
            name, dx, dy = NAMED[row.label]
            place = X(row.times) + dx, Y(row.n_success / row.n) + dy
            yield _text(*place, name, colour=kind_of(row).colour)
    there = [kind for kind in KINDS if any(kind_of(row) is kind for row in rows)]
    for i, kind in enumerate(there):
        yield _text(LEFT + 12, Y(0.02) - (len(there) - 1 - i) * LINE, kind.name, kind.colour)


def _axes() -> Iterator[str]:
    for percent in range(0, 101, 20):
        y = Y(percent / 100)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3e6ea"/>'
        yield _text(LEFT - 8, y + 4, f"{percent} %", "#555555", anchor="end")
    for tick in TICKS:
        yield _text(X(tick), HEIGHT - BOTTOM + 22, f"{tick}x", "#555555", anchor="middle")
    words = "times as fast on one CPU thread, measured in turn in one process"
    yield _text(WIDTH - RIGHT, HEIGHT - 12, words, "#555555", anchor="end")


def _point(row: Row) -> Iterator[str]:
    x, colour = X(row.times), kind_of(row).colour
    low, high = wilson(row.n_success, row.n)
    yield (
        f'<path d="M{x:.1f} {Y(low):.1f}V{Y(high):.1f}" stroke="{colour}" opacity="0.45"/>'
        f'<circle cx="{x:.1f}" cy="{Y(row.n_success / row.n):.1f}" r="4.5" fill="{colour}">'
        f"<title>{escape(row.label)}: {row.n_success} of {row.n}</title></circle>"
    )


def _text(
    x: float, y: float, words: str, colour: str = "#222222", size: int = 12, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def picture(task: str) -> str:
    """The whole file; ValueError where no arm of the task was timed."""
    rows = [row for row in rows_of(task, measured("latency.json")) if row.timed and row.n]
    if not rows:
        raise ValueError(
            f"no arm of {task} was timed: python -m benchmarks.frontier.latency {task}"
        )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif">'
    )
    return "\n".join([head, *drawn(task, rows), "</svg>\n"])


def main() -> int:
    """Write the picture of a task."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("task")
    options = words.parse_args()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_whole(OUT, picture(options.task))
    print(OUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
