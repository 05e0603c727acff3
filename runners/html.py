"""Self-contained HTML pages: one file that opens offline, on a phone and on paper."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape

LIGHT = {"ink": "#1c1e21", "soft": "#5c636b", "line": "#d5d9de", "paper": "#fff"}
DARK = {"ink": "#e4e6e9", "soft": "#a0a7af", "line": "#3c4249", "paper": "#16181b"}


LONG = 48  # letters of a cell that is broken into lines


def _named(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_named(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_named(DARK)} }} }}"
    """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p, figcaption { max-width: 46rem; }
figure { margin: 0; }
figcaption { margin-top: .4rem; }
figcaption, caption, .soft { color: var(--soft); font-size: .875rem; text-align: left; }
caption { caption-side: bottom; padding-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem 1rem .25rem 0; text-align: left;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 400; color: var(--soft); }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
td.long { min-width: 16rem; white-space: normal; overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; line-height: 1.4; font-weight: 600; margin: .25rem 0; }
.facts { margin: .25rem 0 .75rem; }
.wide:has(> table) { margin: .5rem 0 1rem; }
summary { cursor: pointer; padding: .5rem 0; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0;
  margin: .25rem 0; font-size: .875rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .4em;
  vertical-align: -.1em; border: 1px solid var(--soft); }
@media (max-width: 40rem) { th, td { padding-right: .6rem; } table { font-size: .8rem; } }
@media print { details > * { display: block; } }
"""
)


def table(
    header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], caption: str = ""
) -> str:
    """A table whose first column names the row; every text is escaped."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(value) for value in values)
        + "</tr>\n"
        for name, values in rows
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{said}<thead><tr>{head}</tr></thead>'
        f"<tbody>\n{lines}</tbody></table></div>"
    )


def _cell(value: str) -> str:
    kind = ' class="long"' if len(value) > LONG else ""
    return f"<td{kind}>{escape(value)}</td>"


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Coloured squares with their names, [(CSS colour, name)]."""
    items = (f'<li><i style="background:{c}"></i>{escape(name)}</li>' for c, name in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def section(title: str, *body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(body)}</section>"


def page(
    title: str, lead: str, body: Sequence[str], *, style: str = "", top: str = "", script: str = ""
) -> str:
    """A whole page, which its own policy keeps from loading anything but films beside it.

    Args:
        title: in the tab and at the top.
        lead: one paragraph under it.
        body: HTML, made by the functions above.
        style: CSS besides the page's own.
        top: HTML between the title and the lead.
        script: of the page's own, run at its end; the page must be whole without it.
    """
    said = f"<p>{escape(lead)}</p>\n" if lead else ""
    run = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n"
        f"</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{top}{said}"
        + "\n".join(body)
        + f"\n</main>\n{run}</body>\n</html>\n"
    )


def _policy(script: str) -> str:
    """Of what a page may load and run: no address, and no script but this one."""
    digest = b64encode(sha256(script.encode()).digest()).decode()
    runs = f"script-src 'sha256-{digest}'; " if script else ""
    return (
        f"default-src 'none'; {runs}style-src 'unsafe-inline'; img-src data:; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
