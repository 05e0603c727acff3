"""python -m tools.docs_check: are the tables of README.md and docs/ what their studies say?

And are their lines short enough to read and to compare?

A generated table stands between two comments, of which the first is the command that prints it:

    <!-- generated: python -m tools.docs_check --table study results/studies/reference.yaml -->

    | ... |

    <!-- end -->

Without an option every such command is given again and what it prints is compared; a difference is
an error. `--write` puts the new tables in their places. A line of more than 120 characters is an
error too, which `--write` does not mend: where a line is broken is the author's. Tables, generated
blocks and addresses may be longer. No torch, no simulator.
"""

from __future__ import annotations

import argparse
import io
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from difflib import unified_diff
from pathlib import Path

from runners.errors import UserError
from runners.formatting import NOTHING, changes, p_value, rates, share, speed, yes_no
from runners.report import tables as report_tables
from runners.report.page import markdown_table
from runners.report.tables import Table
from runners.statistics import MARGIN
from runners.studies.comparisons import Arm, ReportConfig, findings
from runners.studies.study import read_study

from . import study_tables

PROJECT = Path(__file__).resolve().parent.parent
COMMAND = "python -m tools.docs_check"
BLOCK = re.compile(r"(<!-- generated: ([^\n]*?) -->)(.*?)(<!-- end -->)", re.DOTALL)
LONGEST = 120
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/**/*.md")
ADDRESS = re.compile(r"https?://\S+")
OURS = re.compile(r"(tools|benchmarks|runners)\.")


def study(arms: Sequence[Arm]) -> Table:
    """Every arm on one line: what it costs, what it reaches, and both verdicts."""
    header = ["arm", "task", "FLOPs", "success", "episodes", "difference", "wins / losses"]
    header += ["p, Holm", "loss detected (Holm)", f"non-inferior at {100 * MARGIN:g} points"]
    header += ["times as fast", "as this engine without"]
    rows = []
    for arm in arms:
        judged, latency = [NOTHING] * 5, arm.latency
        if versus := arm.versus:
            paired = versus.success
            judged = [
                changes(paired.difference, paired.difference_interval),
                f"{paired.wins} / {paired.losses}",
                p_value(versus.p_holm),
                yes_no(versus.loss_detected),
                yes_no(versus.noninferiority.shown),
            ]
        cells = [
            arm.stratum,
            share(arm.flops.share),
            rates(arm.rate, arm.interval),
            f"{arm.n_success} of {arm.n}",
            *judged,
            speed(latency.ratio, latency.ratio_interval) if latency else NOTHING,
            speed(latency.engine_ratio) if latency else NOTHING,
        ]
        rows.append((arm.label, cells))
    return Table(header, rows)


TABLES: dict[str, Callable[[Sequence[Arm]], Table]] = {
    "study": study,
    "success": lambda arms: report_tables.success(arms, MARGIN),
    "cost": report_tables.cost,
    "quantised": study_tables.quantised,
    "scores": study_tables.scores,
    "delays": study_tables.delays,
    "joins": study_tables.joins,
}


class Parser(argparse.ArgumentParser):
    """A mistake is one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(message)


def parser() -> Parser:
    words = Parser(prog=COMMAND, description="Generated tables of the documentation.")
    words.add_argument("--write", action="store_true", help="put the tables in their places")
    words.add_argument("--table", choices=list(TABLES), help="print this table of a study")
    words.add_argument("study", nargs="?", type=Path, help="its folder or list, with --table")
    words.add_argument("--task", help="only the arms of this task, with --table")
    return words


def table(name: str, source: Path, task: str | None) -> str:
    """A table of a study as Markdown; what is not there is a UserError."""
    found = findings(read_study(source), ReportConfig())
    arms = [arm for arm in found if task in (None, arm.stratum)]
    if not arms:
        raise UserError(f"--task must be a task of the study {source}, got {task!r}")
    return "\n".join(markdown_table(TABLES[name](arms))) + "\n"


def made(command: str, root: Path) -> str:
    """What the command of a block prints in the project's folder.

    It runs in this process, as `python -m` would: two blocks of one study then import, and compute
    what `power` keeps, once.
    """
    words = shlex.split(command)
    if words[:2] != ["python", "-m"] or not OURS.match(" ".join(words[2:])):
        raise UserError(f"a generated table is made by python -m and a module here, got {command}")
    said, wrong, before = io.StringIO(), io.StringIO(), sys.argv
    code: object = 0
    try:
        sys.argv = words[2:]
        # runpy warns of a module that is loaded already: this one
        quiet = warnings.catch_warnings(action="ignore")
        with chdir(root), redirect_stdout(said), redirect_stderr(wrong), quiet:
            runpy.run_module(words[2], run_name="__main__")
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
    if code:
        raise UserError(f"{command}: {wrong.getvalue().strip()}")
    return said.getvalue().strip()


def check(root: Path, write: bool) -> list[str]:
    """Lines about the tables that differ from their studies; `write` makes them the same."""
    differing: list[str] = []
    for page in (root / "README.md", *sorted(root.glob("docs/**/*.md"))):
        text = page.read_text() if page.exists() else ""
        new = BLOCK.sub(lambda b: f"{b[1]}\n\n{made(b[2], root)}\n\n{b[4]}", text)
        if new != text:
            lines = list(unified_diff(text.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]
            name = str(page.relative_to(root))
            differing += [f"{name}: {line}" for line in lines if line[:2] != "@@"]
            if write:
                page.write_text(new)
    return differing


def long_lines(root: Path) -> list[str]:
    """Where the pages have lines that are too long, and how long they are."""
    found = []
    for page in sorted({path for pattern in PAGES for path in root.glob(pattern)}):
        text = BLOCK.sub(lambda b: "\n" * b[0].count("\n"), page.read_text())
        for number, line in enumerate(text.splitlines(), 1):
            if not line.lstrip().startswith("|") and len(ADDRESS.sub("", line)) > LONGEST:
                where = f"{page.relative_to(root)}:{number}"
                found.append(f"{where}: a line has at most {LONGEST} characters, got {len(line)}")
    return found


def main(argv: Sequence[str], root: Path = PROJECT) -> int:
    """0: the same, or written; 1: a table differs, or a line is too long; 2: a mistake."""
    try:
        options = parser().parse_args(argv)
        if options.table:
            if options.study is None:
                raise UserError("--table needs a study")
            print(table(options.table, options.study, options.task), end="")
            return 0
        differing, too_long = check(root, options.write), long_lines(root)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in too_long:
        print(line, file=sys.stderr)
    if differing and not options.write:
        print("\n".join(differing), file=sys.stderr)
        print(f"the lines with + are what the studies say: {COMMAND} --write", file=sys.stderr)
        return 1
    return int(bool(too_long))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
