"""python -m tools.chaos CAMPAIGN --seeds a:b: one campaign, its table, and its rows on disk."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from skipstep.whole_files import write_whole

from .records import RESULTS, keep, read, seeds, table

PAGE = RESULTS.parents[1] / "docs/results/chaos.md"
BEGIN, END = "<!-- generated: python -m tools.chaos table -->\n", "<!-- end -->"
CAMPAIGNS = ("files", "kills", "sweep", "disk", "two", "server", "soak")


def tables() -> str:
    """Of all campaigns that are recorded, in Markdown."""
    found = {name: read(RESULTS / f"{name}.json") for name in (*CAMPAIGNS, "sanitize")}
    return "\n".join(f"**{n}**\n\n" + "\n".join(table(r)) + "\n" for n, r in found.items() if r)


def _write_page() -> Path:
    """Put the tables into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    write_whole(PAGE, f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}")
    return PAGE


def main(argv: Sequence[str]) -> int:
    """0: nothing was found; 1: something was; 2: a mistake of the user."""
    parser = argparse.ArgumentParser("python -m tools.chaos", description=__doc__)
    parser.add_argument("campaign", choices=(*CAMPAIGNS, "table"))
    parser.add_argument("--seeds", type=seeds, default=(0, 20), help="from a to before b")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no trial after that")
    parser.add_argument("--kinds", nargs="*", help="of `files` and `soak`: these alone")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="add the rows to results/chaos/; of `table`: write the page",
    )
    given = parser.parse_args(argv)
    if given.campaign == "table":
        print(_write_page() if given.keep else tables())
        return 0
    run: Callable[..., list] = import_module(f"tools.chaos.{given.campaign}").run
    more = {"kinds": tuple(given.kinds)} if given.kinds else {}
    rows = run(*given.seeds, time.monotonic() + given.seconds, **more)
    print("\n".join(table(rows)))
    findings = [f"{row.kind}: {said}" for row in rows for said in row.findings]
    print("\n".join(findings), file=sys.stderr)
    if given.keep:
        try:
            print(keep(given.campaign, rows))
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
