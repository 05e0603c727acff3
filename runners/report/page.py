"""report.html and report.md: the same sections, with charts and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from .. import html as page
from .. import svg
from ..studies.cautions import busy, mixed_machines, unsteady
from ..studies.comparisons import Arm, over_strata
from ..studies.study import Study
from . import (
    charts as report_charts,
)
from . import (
    embodied as report_embodied,
)
from . import (
    films as report_films,
)
from . import (
    forest as report_forest,
)
from . import (
    maps as report_maps,
)
from . import (
    runs as report_runs,
)
from . import (
    scatter as report_scatter,
)
from . import (
    stages as report_stages,
)
from . import (
    tables as report_tables,
)
from .charts import named
from .colours import colours
from .headline import headline
from .markdown import fenced, markdown_table, plain_markdown
from .script import SCRIPT
from .script import STYLE as CONTROLS
from .tables import Table
from .top import Top

MISSING = "Missing, failed and incomplete"
MANY = 12  # commands, from which on they are behind a line
STYLE = (
    svg.STYLE
    + report_maps.STYLE
    + report_films.STYLE
    + CONTROLS
    + """
.charts { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 24rem), 1fr)); align-items: start; margin: .75rem 0; }
td { white-space: nowrap; }
tbody th { min-width: 11rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; margin: .4rem 0; }
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
    colour = colours(arms)
    strata = list(dict.fromkeys(arm.stratum for arm in arms))
    said = headline(arms, margin).verdict
    found = [
        _success(stratum, [a for a in arms if a.stratum == stratum], margin, colour, said)
        for stratum in strata
    ]
    if filmed := report_films.films(arms, here):
        lines = report_films.lines(filmed)
        found.append(Part("Films", html=report_films.html(filmed), lines=lines))
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
        found.append(_discordant(arms))
    if mapped := [arm for arm in arms if report_maps.computed_share(arm).size]:
        found.append(Part("Cache maps", html=_maps(mapped, colour)))
    lines = report_runs.commands(study)
    found.append(Part("Commands", html=_commands(lines), lines=fenced(lines, "sh")))
    if arms:
        found.append(Part("Versions", [report_runs.versions(arms)]))
    jobs = report_runs.jobs(study)
    if jobs.rows:
        found.append(Part(MISSING, [jobs]))
    return found


def _commands(lines: Sequence[str]) -> str:
    said = "".join(f'<pre class="command">{escape(line)}</pre>' for line in lines)
    return page.details(f"{len(lines)} commands", said) if len(lines) > MANY else said


def html(top: Top, sections: Sequence[Part]) -> str:
    """One file that opens offline; films stay where they are."""
    body = [
        page.section(part.title, part.html, *map(_html_table, part.tables)) for part in sections
    ]
    first, *rest = top.lines
    said = f'<p class="verdict">{escape(first)}</p>\n' + "".join(
        f'<p class="soft facts">{escape(line)}</p>\n' for line in rest
    )
    return page.page(top.title, top.intro, body, style=STYLE, top=said, script=SCRIPT)


def markdown(top: Top, sections: Sequence[Part]) -> str:
    """The tables and the lines."""
    first, *rest = map(plain_markdown, top.lines)
    lines = [f"# {plain_markdown(top.title)}", "", f"**{first}**", ""]
    for line in (*rest, plain_markdown(top.intro)):
        lines += [line, ""]
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


def _success(
    stratum: str, arms: Sequence[Arm], margin: float, colour: dict[int, str], above: str
) -> Part:
    charts = []
    if any(arm.versus for arm in arms):
        charts.append(report_forest.differences(arms, colour, margin))
    if any(arm.speed for arm in arms):
        charts.append(report_scatter.success_by_speed(arms, colour))
    if len({arm.delay for arm in arms}) > 1:
        charts.append(report_charts.success_by_delay(arms, colour))
    tables = [report_tables.success(arms, margin), report_tables.details(arms)]
    verdict = headline(arms, margin).verdict
    own = [verdict] if verdict != above and any(arm.versus for arm in arms) else []
    said = [f"{line}." for line in (*own, *mixed_machines(arms))]
    warning = "".join(f"<p>{escape(line)}</p>" for line in said)
    lines = [plain_markdown(line) for line in said]
    return Part(f"Success on {stratum}", tables, warning + _charts(charts), lines)


def _embodied(arms: Sequence[Arm], strata: Sequence[str]) -> list[Part]:
    shown = {s: report_embodied.tables([a for a in arms if a.stratum == s]) for s in strata}
    return [Part(f"Time, motion and energy on {s}", found) for s, found in shown.items() if found]


def _speed(arms: Sequence[Arm], colour: dict[int, str]) -> Part:
    tables = [report_tables.cost(arms), *filter(None, [report_stages.table(arms)])]
    charts = []
    if any(arm.speed and arm.bound for arm in arms):
        charts.append(report_scatter.bound_by_speed(arms, colour))
    if any(arm.latency for arm in arms):
        charts.append(report_charts.latencies(arms, colour))
    if not charts:
        return Part("FLOPs; no latency was measured", tables)
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


def _discordant(arms: Sequence[Arm]) -> Part:
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
    said = "Solved by one of the two only. film=[seed] on the same command films one."
    listed = "".join(blocks)
    listed = page.details(f"Of {len(blocks)} arms", listed) if len(blocks) > MANY else listed
    return Part(
        "Discordant seeds", html=f'<p class="soft">{said}</p>{listed}', lines=[said, "", *lines]
    )


def _listed(seeds: Sequence[int], most: int = 12) -> str:
    if not seeds:
        return "none"
    rest = f" and {len(seeds) - most} more" if len(seeds) > most else ""
    return ", ".join(str(seed) for seed in seeds[:most]) + rest
