"""report.html and report.md: the same sections, with charts and without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

from .. import html as page
from .. import svg
from ..studies.comparisons import Arm, Versus, busy, mixed_machines, over_strata, unsteady
from ..studies.study import Study
from . import (
    charts as report_charts,
)
from . import (
    embodied as report_embodied,
)
from . import (
    maps as report_maps,
)
from . import (
    runs as report_runs,
)
from . import (
    stages as report_stages,
)
from . import (
    tables as report_tables,
)
from .charts import named
from .markdown import fenced, markdown_table, plain_markdown
from .tables import Table

MAX_FILMED = 4  # discordant seeds of an arm whose films are shown
STYLE = (
    svg.STYLE
    + report_maps.STYLE
    + """
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 24rem), 1fr)); align-items: start; margin: .75rem 0; }
.films { display: grid; gap: .5rem; grid-template-columns: 1fr 1fr; max-width: 40rem;
  margin: .5rem 0 1rem; }
.films video { width: 100%; background: #000; }
td, thead th { white-space: nowrap; }
tbody th { min-width: 9rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; margin: .5rem 0; }
"""
)


@dataclass(frozen=True)
class Part:
    """A section; `html` comes before its tables, `lines` are said in Markdown only."""

    title: str
    tables: list[Table] = field(default_factory=list)
    html: str = ""
    lines: list[str] = field(default_factory=list)


def parts(study: Study, arms: Sequence[Arm], margin: float, here: Path) -> list[Part]:
    """The sections of a report that lies in `here`."""
    colour = report_charts.colours(arms)
    strata = list(dict.fromkeys(arm.stratum for arm in arms))
    found = [
        _success(stratum, [a for a in arms if a.stratum == stratum], margin, colour)
        for stratum in strata
    ]
    if methods := over_strata(arms):
        found.append(Part("Over tasks and checkpoints", [report_tables.methods(methods)]))
    found += _embodied(arms, strata)
    if arms:
        found.append(_speed(arms, colour))
    quantised = report_tables.quantisations(arms)
    if quantised.rows:
        found.append(Part("Quantisation", [quantised]))
    seeds = report_tables.seeds_needed(arms, margin)
    if seeds.rows:
        found.append(Part("How much these seeds can show", [seeds]))
    if any(arm.versus for arm in arms):
        found.append(_discordant(arms, here))
    if mapped := [arm for arm in arms if report_maps.computed_share(arm).size]:
        found.append(Part("Cache maps", html=_maps(mapped, colour)))
    jobs = report_runs.jobs(study)
    if jobs.rows:
        found.insert(0, Part("Missing, failed and incomplete", [jobs]))
    lines = report_runs.commands(study)
    said = f"<pre>{escape(chr(10).join(lines))}</pre>"
    found.append(Part("Commands", html=said, lines=fenced(lines, "sh")))
    if arms:
        found.append(Part("Versions", [report_runs.versions(arms)]))
    return found


def lead(study: Study, arms: Sequence[Arm], margin: float) -> str:
    """What is in the report, in two sentences."""
    versus = [arm.versus for arm in arms if arm.versus]
    shown, lost = (
        sum(v.noninferiority.shown for v in versus),
        sum(v.loss_detected for v in versus),
    )
    judged = (
        f" Of {len(versus)} comparisons {shown} are non-inferior at {100 * margin:g} points, and a "
        f"loss is detected in {lost} (Holm)."
        if versus
        else ""
    )
    n_bad = len(study.runs) - len(arms)
    bad = f"; {n_bad} more did not finish" if n_bad else ""
    return (
        f"Finished runs: {len(arms)}, with {sum(arm.n for arm in arms)} episodes{bad}.{judged} "
        "Arms are paired with the unaccelerated policy on the same seeds and the same noise."
    )


def html(title: str, intro: str, sections: Sequence[Part]) -> str:
    """One file that opens offline; films stay where they are."""
    body = [
        page.section(part.title, part.html, *map(_html_table, part.tables)) for part in sections
    ]
    return page.page(title, intro, body, style=STYLE)


def markdown(title: str, intro: str, sections: Sequence[Part]) -> str:
    """The tables and the lines."""
    lines = [f"# {plain_markdown(title)}", "", plain_markdown(intro), ""]
    for part in sections:
        if not part.tables and not part.lines:
            continue
        lines += [f"## {plain_markdown(part.title)}", ""]
        for table in part.tables:
            lines += markdown_table(table)
            lines += ["", plain_markdown(table.caption), ""] if table.caption else [""]
        lines += [*part.lines, ""] if part.lines else []
    return "\n".join(lines)


def _html_table(table: Table) -> str:
    """The caption is outside of what scrolls sideways on a phone."""
    return page.table(table.header, table.rows) + f'<p class="soft">{escape(table.caption)}</p>'


def _success(stratum: str, arms: Sequence[Arm], margin: float, colour: dict[int, str]) -> Part:
    charts = []
    if any(arm.versus for arm in arms):
        charts.append(report_charts.differences(arms, colour, margin))
    if any(arm.times_as_fast for arm in arms):
        charts.append(report_charts.success_by_speed(arms, colour))
    if len({arm.delay for arm in arms}) > 1:
        charts.append(report_charts.success_by_delay(arms, colour))
    tables = [report_tables.success(arms, margin), report_tables.details(arms)]
    said = [f"{line}." for line in mixed_machines(arms)]
    warning = "".join(f"<p>{escape(line)}</p>" for line in said)
    lines = [plain_markdown(line) for line in said]
    return Part(f"Success on {stratum}", tables, warning + _charts(charts), lines)


def _embodied(arms: Sequence[Arm], strata: Sequence[str]) -> list[Part]:
    shown = {s: report_embodied.tables([a for a in arms if a.stratum == s]) for s in strata}
    return [Part(f"Time, motion and energy on {s}", found) for s, found in shown.items() if found]


def _speed(arms: Sequence[Arm], colour: dict[int, str]) -> Part:
    tables = [report_tables.cost(arms), *filter(None, [report_stages.table(arms)])]
    if not any(arm.latency for arm in arms):
        return Part("FLOPs; no latency was measured", tables)
    charts = [report_charts.latencies(arms, colour)]
    if any(arm.times_as_fast and arm.bound for arm in arms):
        charts.insert(0, report_charts.bound_by_speed(arms, colour))
    said = [f"{line}." for line in (*unsteady(arms), *busy(arms))]
    warning = "".join(f"<p>{escape(line)}</p>" for line in said)
    lines = [plain_markdown(line) for line in said]
    return Part("Latency and FLOPs", tables, warning + _charts(charts), lines)


def _charts(charts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _maps(arms: Sequence[Arm], colour: dict[int, str]) -> str:
    said = (
        "Steps to the right, the noisiest first; residual branches downwards, in the order in "
        "which the network runs them. Coloured: computed, paler where in some of the queries only."
    )
    return f'<p class="soft">{said}</p>' + report_maps.maps(arms, colour)


def _discordant(arms: Sequence[Arm], here: Path) -> Part:
    blocks, lines = [], []
    for arm in arms:
        if not arm.versus or not arm.versus.won + arm.versus.lost:
            continue
        seeds = (
            f"{named(arm)}, {arm.stratum}: lost {_listed(arm.versus.lost)}; "
            f"won {_listed(arm.versus.won)}"
        )
        lines.append(f"- {plain_markdown(seeds)}")
        blocks.append(f"<p>{escape(seeds)}</p>")
        pairs = []
        for seed, pair in _films(arm, arm.versus, here):
            links = (f"[seed {seed}, {plain_markdown(who)}]({quote(link)})" for who, link in pair)
            lines.append("  - " + ", ".join(links))
            pairs.append(_side_by_side(seed, pair))
        if pairs:
            blocks.append(page.details(f"Films of {len(pairs)} of them", "".join(pairs)))
    said = "Solved by one of the two only. film=[seed] on the same command films one."
    html = f'<p class="soft">{said}</p>{"".join(blocks)}'
    return Part("Discordant seeds", html=html, lines=[said, "", *lines])


def _films(arm: Arm, versus: Versus, here: Path) -> list[tuple[int, list[tuple[str, str]]]]:
    found: list[tuple[int, list[tuple[str, str]]]] = []
    for seed in sorted(versus.lost + versus.won):
        ours, theirs = arm.run.video(seed), versus.baseline.video(seed)
        if ours and theirs and len(found) < MAX_FILMED:
            names = (arm.label, "unaccelerated")
            links = [Path(os.path.relpath(p, here)).as_posix() for p in (ours, theirs)]
            found.append((seed, list(zip(names, links, strict=True))))
    return found


def _side_by_side(seed: int, pair: Sequence[tuple[str, str]]) -> str:
    films = "".join(
        f'<figure><video controls muted playsinline preload="none" src="{escape(link)}"></video>'
        f'<figcaption>seed {seed}, <a href="{escape(link)}">{escape(who)}</a></figcaption></figure>'
        for who, link in pair
    )
    return f'<div class="films">{films}</div>'


def _listed(seeds: Sequence[int], most: int = 12) -> str:
    if not seeds:
        return "none"
    rest = f" and {len(seeds) - most} more" if len(seeds) > most else ""
    return ", ".join(str(seed) for seed in seeds[:most]) + rest
