"""Films of the robot: what an arm and the unaccelerated policy did on the same seed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .. import html as page
from ..store.reading import Run
from ..studies.comparisons import Arm
from .charts import named
from .markdown import plain_markdown

MAX_FILMED = 4  # discordant seeds of an arm whose films are shown
STYLE = """
.films { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  max-width: 40rem; margin: .5rem 0 1rem; }
.films video { width: 100%; max-width: 20rem; background: #000; display: block; }
"""


@dataclass(frozen=True)
class Film:
    """A film with what is seen in it; `link` is from the report's folder."""

    link: str
    caption: str


@dataclass(frozen=True)
class Seen:
    """Films of one seed side by side; why they are shown."""

    title: str
    films: list[Film]


def films(arms: Sequence[Arm], here: Path) -> list[Seen]:
    """Discordant seeds that both arms filmed; where there are none, one film all the same."""
    found = [seen for arm in arms for seen in _discordant(arm, here)]
    return found or [seen for seen in [_any(arms, here)] if seen]


def _discordant(arm: Arm, here: Path) -> list[Seen]:
    versus = arm.versus
    if not versus:
        return []
    found = []
    for seed in sorted(versus.lost + versus.won):
        pair = _pair(arm, seed, here)
        if len(pair) == 2:
            who = "lost" if seed in versus.lost else "won"
            found.append(Seen(f"{named(arm)}, {arm.stratum}: seed {seed}, {who}", pair))
    return found[:MAX_FILMED]


def _any(arms: Sequence[Arm], here: Path) -> Seen | None:
    """Of an accelerated arm beside the unaccelerated one where possible."""
    best: Seen | None = None
    for arm in arms:
        for seed in sorted(arm.run.ok):
            pair = _pair(arm, seed, here) if arm.run.video(seed) else []
            if pair and (best is None or len(pair) > len(best.films)):
                best = Seen(f"{named(arm)}, {arm.stratum}: seed {seed}", pair)
    return best


def _pair(arm: Arm, seed: int, here: Path) -> list[Film]:
    runs: list[tuple[Run, str]] = [(arm.run, arm.label)]
    runs += [(arm.versus.baseline, "unaccelerated")] if arm.versus else []
    return [film for run, who in runs for film in _film(run, seed, arm.stratum, who, here)]


def _film(run: Run, seed: int, stratum: str, who: str, here: Path) -> Iterator[Film]:
    path = run.video(seed)
    if path:
        link = quote(Path(os.path.relpath(path, here)).as_posix())
        yield Film(link, f"{stratum}, seed {seed}, {who}: {outcome(run.episodes[seed])}")


def outcome(record: Mapping[str, Any]) -> str:
    """As in: success after 280 steps; 4 subtasks: microwave, kettle, light switch, slide cabinet.

    Example:
        >>> outcome({"success": False, "n_steps": 8, "details": {"completed_tasks": ["kettle"]}})
        'failure after 8 steps; 1 subtask: kettle'
    """
    said = f"{'success' if record['success'] else 'failure'} after {record.get('n_steps')} steps"
    details = record.get("details")
    done = details.get("completed_tasks") if isinstance(details, Mapping) else None
    if not isinstance(done, list):
        return said
    names = f": {', '.join(map(str, done))}" if done else ""
    return f"{said}; {len(done)} subtask{'' if len(done) == 1 else 's'}{names}"


def html(found: Sequence[Seen]) -> str:
    """The first at once, the others behind a line."""
    first, rest = found[:1], found[1:]
    shown = "".join(map(_side_by_side, first))
    return shown + (
        page.details(f"Films of {len(rest)} more", "".join(map(_side_by_side, rest)))
        if rest
        else ""
    )


def _side_by_side(seen: Seen) -> str:
    figures = "".join(
        f'<figure><video controls muted playsinline preload="metadata" src="{escape(film.link)}">'
        f'</video><figcaption><a href="{escape(film.link)}">{escape(film.caption)}</a>'
        "</figcaption></figure>"
        for film in seen.films
    )
    return f'<p>{escape(seen.title)}</p><div class="films">{figures}</div>'


def lines(found: Sequence[Seen]) -> list[str]:
    """The same in Markdown."""
    said = []
    for seen in found:
        said.append(f"- {plain_markdown(seen.title)}")
        said += [f"  - [{plain_markdown(film.caption)}]({film.link})" for film in seen.films]
    return said
