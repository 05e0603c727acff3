"""A real Chromium that looks at a page: sizes in it, and a picture of it."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def chromium() -> str | None:
    """A browser to look with: $CHROMIUM, or one on the path."""
    named = os.environ.get("CHROMIUM", "")
    names = (named, "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


with_browser = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on the path or in $CHROMIUM"
)

FACTS = """({
  wide: d.documentElement.scrollWidth - d.documentElement.clientWidth,
  charts: d.querySelectorAll('svg').length,
  height: d.documentElement.scrollHeight,
})"""
OVERLAPS = """[...d.querySelectorAll('svg.chart')].flatMap(chart => {
  const names = [...chart.querySelectorAll('text')].filter(t => t.textContent);
  const boxes = names.map(t => t.getBoundingClientRect());
  return names.flatMap((a, i) => names.slice(i + 1).filter((b, k) => {
    const p = boxes[i], q = boxes[i + 1 + k], by = 2;
    return p.left + by < q.right && q.left + by < p.right &&
      p.top + by < q.bottom && q.top + by < p.bottom;
  }).map(b => a.textContent + ' | ' + b.textContent));
})"""
"""Texts of a chart that lie over each other by more than 2 pixels."""


def ask(page: Path, width: int, folder: Path, expression: str, dark: bool = False) -> Any:
    """What an expression over the page's document `d` is, in a frame of this width.

    A browser's own window is never so narrow as a phone.
    """
    told = _browse(page, width, 3000, folder, expression, ["--dump-dom"], dark)
    return json.loads(html.unescape(told.partition("<title>")[2].partition("</title>")[0]))


def shoot(page: Path, width: int, height: int, folder: Path, dark: bool = False) -> Path:
    """A picture of its first pixels; with $SCREENSHOTS, a folder, it is kept there too."""
    shot = folder / f"{page.stem}-{width}{'-dark' if dark else ''}.png"
    _browse(page, width, height, folder, "0", [f"--screenshot={shot}"], dark)
    image = pytest.importorskip("PIL.Image")
    with image.open(shot) as picture:
        picture.convert("RGB").crop((0, 0, width, picture.height)).save(shot)
    if kept := os.environ.get("SCREENSHOTS"):
        shutil.copy(shot, kept)
    return shot


def look(page: Path, width: int, folder: Path) -> tuple[int, int, Path]:
    """Pixels by which a page is too wide, its charts, and a picture of the whole of it."""
    found = ask(page, width, folder, FACTS)
    return found["wide"], found["charts"], shoot(page, width, found["height"], folder)


def n_colours(shot: Path) -> int:
    image = pytest.importorskip("PIL.Image")
    with image.open(shot) as picture:
        return len(picture.getcolors(1 << 22))


def _browse(
    page: Path, width: int, height: int, folder: Path, asked: str, more: list[str], dark: bool
) -> str:
    browser = chromium()
    assert browser is not None
    folder.mkdir(exist_ok=True)
    frame = folder / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.as_uri()}" style="border:0;height:{height}px;'
        f'width:{width}px"></iframe><script>onload=()=>{{const d=frames[0].document;'
        f"document.title=JSON.stringify({asked})}}</script>"
    )
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += ["--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--window-size={max(width, 500)},{height}"]
    options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command = [browser, *options, *more, frame.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
