"""python -m tools.chaos CAMPAIGN --seeds a:b: one campaign, its table, and its rows on disk."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from .records import RESULTS, keep, read, table

CAMPAIGNS = ("files", "kills", "disk", "two", "server", "soak")


def seeds(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"must be a:b with a below b, got {text!r}")
    return int(first), int(last)


def main(argv: Sequence[str]) -> int:
    """0: nothing was found; 1: something was; 2: a mistake of the user."""
    parser = argparse.ArgumentParser("python -m tools.chaos", description=__doc__)
    parser.add_argument("campaign", choices=(*CAMPAIGNS, "table"))
    parser.add_argument("--seeds", type=seeds, default=(0, 20), help="from a to before b")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no trial after that")
    parser.add_argument("--kinds", nargs="*", help="of `files`: these alone")
    parser.add_argument("--keep", action="store_true", help="add the rows to results/chaos/")
    given = parser.parse_args(argv)
    if given.campaign == "table":
        for name in CAMPAIGNS:
            if rows := read(RESULTS / f"{name}.json"):
                print(f"**{name}**", "", *table(rows), "", sep="\n")
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
