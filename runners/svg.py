"""Small charts as inline SVG: no script, a few kilobytes, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from .html import DARK, LIGHT

STYLE = """
svg.chart { display: block; width: 100%; height: auto; max-width: 40rem; }
svg.chart text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg.chart text.soft { fill: var(--soft); }
svg.chart text.name { font-size: 11px; paint-order: stroke; stroke: var(--paper);
  stroke-width: 3px; stroke-linejoin: round; }
svg.chart .grid { stroke: var(--line); stroke-width: 1; }
svg.chart .axis { stroke: var(--soft); stroke-width: 1; }
svg.chart .guide { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 3; fill: none; }
svg.chart .halo { stroke: var(--paper); stroke-width: 1.5; }
svg.chart .edge { stroke: var(--soft); stroke-width: .6; }
svg.chart .hover { fill: none; pointer-events: all; }
svg.chart .hover:hover { stroke: var(--ink); stroke-width: 1; }
.broad > svg.chart { max-width: none; }
.phone { display: none; }
@media (max-width: 40rem) { .desk { display: none; } .phone { display: block; } }
"""
SHEET = """
svg.chart { max-width: none; }
svg.chart text.title { font-size: 18px; }
svg.chart text.heading { font-size: 14px; font-weight: 600; }
svg.chart rect.sheet { fill: var(--paper); }
"""
CHARACTER_PX = 6.4  # of a letter, on average
LEGEND_PX = 16.0  # between lines of a legend
TITLE_PX = 34.0  # of a picture, and above each drawing in it


@dataclass(frozen=True)
class Scale:
    """From values to pixels, along one axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        def place(v: float) -> float:
            return math.log(v) if self.log else v

        value = min(max(value, self.low), self.high)
        share = (place(value) - place(self.low)) / (place(self.high) - place(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values: three to seven of a linear axis, 1-2-5 of a logarithmic one."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        else:
            step = round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            found = [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [v for v in found if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)]


def round_step(least: float) -> float:
    """The smallest 1, 2 or 5 times a power of ten that is at least this much."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def log_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A logarithmic axis with some room around positive values."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.08, 1.08)
    return Scale(low / room, high * room, start, end, log=True)


class Drawing:
    """A picture that grows by shapes, in pixels of its own; it is as wide as its column."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, **style: object) -> None:
        self._add("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **style})

    def rect(
        self, x: float, y: float, width: float, height: float, said: str = "", **style: object
    ) -> None:
        """`said` appears on hovering."""
        where = {"x": x, "y": y, "width": width, "height": height, **style}
        self._add("rect", where, f"<title>{escape(said)}</title>" if said else "")

    def path(self, points: Sequence[tuple[float, float]], **style: object) -> None:
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._add("path", {"d": d, **style})

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        where = {"x": x, "y": y, "text-anchor": anchor}
        self._add("text", where | ({"class": kind} if kind else {}), escape(words))

    def dot(self, x: float, y: float, colour: str, said: str) -> None:
        """A disc; what it is appears on hovering."""
        where = {"cx": x, "cy": y, "r": 3.5, "fill": colour, "class": "halo"}
        self._add("circle", where, f"<title>{escape(said)}</title>")

    def cells(
        self, here: np.ndarray, x: float, y: float, across: float, down: float, **style: object
    ) -> None:
        """Those cells of a grid whose (column, row) is true, each `across` wide and `down` high."""
        place = f"translate({x:g} {y:g}) scale({across:.6g} {down:.6g})"
        shape = {"d": cell_path(here), "transform": place, "shape-rendering": "crispEdges"}
        self._add("path", {**shape, **style})

    def image(self, x: float, y: float, width: float, height: float, png: str) -> None:
        """A PNG in base64, its pixels as squares."""
        where = {"x": x, "y": y, "width": width, "height": height}
        style = {"preserveAspectRatio": "none", "style": "image-rendering: pixelated"}
        self._add("image", {**where, **style, "href": f"data:image/png;base64,{png}"})

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Coloured squares with their names, [(colour, name)], in lines that end at the edge."""
        left = x
        for colour, name in entries:
            if x > left and x + 14 + CHARACTER_PX * len(name) > self.width:
                x, y = left, y + LEGEND_PX
            self.rect(x, y - 9, 10.0, 10.0, fill=colour, **{"class": "edge"})
            self.text(x + 14, y, name, kind="soft")
            x += 30 + CHARACTER_PX * len(name)

    def axis_x(
        self, scale: Scale, y: float, top: float, title: str, name: Callable[[float], str]
    ) -> None:
        """Grid lines from `top` to `y`, ticks and a title below."""
        for tick in scale.ticks():
            self.line(scale(tick), top, scale(tick), y, **{"class": "grid"})
            self.text(scale(tick), y + 15, name(tick), "middle", "soft")
        self.line(scale.start, y, scale.end, y, **{"class": "axis"})
        self.text((scale.start + scale.end) / 2, y + 33, title, "middle")

    def axis_y(
        self, scale: Scale, x: float, right: float, title: str, name: Callable[[float], str]
    ) -> None:
        """Grid lines from `x` to `right`, ticks on the left and a title above."""
        for tick in scale.ticks():
            self.line(x, scale(tick), right, scale(tick), **{"class": "grid"})
            self.text(x - 6, scale(tick) + 4, name(tick), "end", "soft")
        self.text(4, scale.end - 10, title)

    def _add(self, tag: str, attributes: dict[str, object], inner: str = "") -> None:
        said = "".join(
            f' {key.replace("_", "-")}="{_number(value)}"' for key, value in attributes.items()
        )
        self._parts.append(f"<{tag}{said}>{inner}</{tag}>")

    def html(self, label: str, caption: str, below: str = "", phone: Drawing | None = None) -> str:
        """As a figure.

        Args:
            label: for people who hear the page.
            caption: what is seen, in words.
            below: HTML under the drawing.
            phone: the same on a narrow screen, where this one is as wide as the page.
        """
        heard = f'role="img" aria-label="{escape(label)}"'
        drawn = self._drawn(heard)
        if phone:
            seen = phone._drawn('aria-hidden="true"')
            drawn = f'<div class="broad desk">{drawn}</div><div class="phone">{seen}</div>'
        return f"<figure>{drawn}{below}<figcaption>{escape(caption)}</figcaption></figure>"

    def _drawn(self, attributes: str) -> str:
        box = f"0 0 {self.width:g} {self.height:g}"
        return f'<svg class="chart" viewBox="{box}" {attributes}>{self.inner}</svg>'

    @property
    def inner(self) -> str:
        """The shapes, without the picture around them."""
        return "".join(self._parts)


def legend_lines(room: float, names: Sequence[str]) -> int:
    """How many lines a legend takes in so many pixels.

    Example:
        >>> legend_lines(900, ["computed", "reused"]), legend_lines(90, ["computed", "reused"])
        (1, 2)
    """
    lines, x = 1, 0.0
    for name in names:
        if x and x + 14 + CHARACTER_PX * len(name) > room:
            lines, x = lines + 1, 0.0
        x += 30 + CHARACTER_PX * len(name)
    return lines


def picture(title: str, drawings: Sequence[tuple[str, Drawing]]) -> str:
    """A file of its own: drawings below each other, each under its heading."""
    width = max(drawing.width for _, drawing in drawings)
    sheet, y = Drawing(width, 0), TITLE_PX
    parts = []
    sheet.text(0, 18, title, kind="title")
    for heading, drawing in drawings:
        sheet.text(0, y + 22, heading, kind="heading")
        y += TITLE_PX
        parts.append(
            f'<svg y="{y:g}" width="{drawing.width:g}" height="{drawing.height:g}">'
            f"{drawing.inner}</svg>"
        )
        y += drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{width:g}" '
        f'height="{y + 8:g}" viewBox="-12 0 {width + 24:g} {y + 8:g}">'
        f"<title>{escape(title)}</title><style>{_painted(LIGHT)}"
        f"@media (prefers-color-scheme: dark) {{{_painted(DARK)}}}</style>"
        f'<rect class="sheet" x="-12" width="{width + 24:g}" height="{y + 8:g}"/>'
        f"{sheet.inner}{''.join(parts)}</svg>\n"
    )


def cell_path(here: np.ndarray) -> str:
    """Of (columns, rows) bool: neighbouring columns of a row as one rectangle each."""
    parts = []
    for row, cells in enumerate(here.T):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        parts += [f"M{a} {row}h{b - a}v1H{a}z" for a, b in edges.reshape(-1, 2)]
    return "".join(parts)


def _painted(colours: Mapping[str, str]) -> str:
    """The style with colours for names of colours, which programs besides browsers do not read."""
    style = STYLE + SHEET
    for name, colour in colours.items():
        style = style.replace(f"var(--{name})", colour)
    return style


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else escape(str(value))
