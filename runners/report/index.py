"""site/index.html: every study that is here with its verdict, its date and a link to its page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from skipstep.whole_files import write_whole

from .. import html as page
from ..errors import UserError
from ..places import PROJECT
from ..store.published import STUDIES
from ..store.reading import is_run

INDEX = "index.html"
STYLE = """
.studies { list-style: none; padding: 0; display: grid; gap: 1rem; margin: 1rem 0; }
.studies li { border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem; }
.studies a { font-weight: 600; }
.studies p { margin: .25rem 0 0; }
"""


@dataclass(frozen=True)
class Card:
    """A study on the index; `page` is its report, absent where it could not be made."""

    name: str
    page: Path | None
    verdict: str
    facts: str
    arms: str


def studies_here(results: Path = PROJECT / "results", own: Path = Path("multirun")) -> list[Path]:
    """Published studies, then those of this folder's multirun, each by name."""
    listed = sorted((results / STUDIES).glob("*.yaml"))
    folders = [path for path in own.iterdir() if path.is_dir()] if own.is_dir() else []
    with_runs = [path for path in folders if any(map(is_run, path.iterdir()))]
    return [*listed, *sorted(with_runs)]


def write_index(cards: Sequence[Card], site: Path) -> Path:
    """Write the page, with relative links.

    Raises:
        UserError: there is no study.
    """
    if not cards:
        raise UserError(
            "there is no study here: none in results/studies, none in multirun; "
            "run one first, for example python run.py -m cache=none,uniform study=first"
        )
    items = "\n".join(f"<li>{_card(card, site)}</li>" for card in cards)
    lead = (
        "Success of accelerated diffusion policies, paired with the unaccelerated ones on the same "
        "seeds and noise. Intervals are of 95 %."
    )
    site.mkdir(parents=True, exist_ok=True)
    text = page.page("Studies", lead, [f'<ul class="studies">\n{items}\n</ul>'], style=STYLE)
    write_whole(site / INDEX, text)
    return site / INDEX


def _card(card: Card, site: Path) -> str:
    name = escape(card.name)
    if card.page:
        link = quote(Path(os.path.relpath(card.page, site)).as_posix())
        name = f'<a href="{escape(link)}">{name}</a>'
    said = f"<p>{escape(card.verdict)}</p>"
    facts = " · ".join(filter(None, (card.facts, card.arms)))
    return name + said + (f'<p class="soft">{escape(facts)}</p>' if facts else "")
