"""python -m runners.report multirun/<study>, or results/studies/<study>.yaml: a study's page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from skipstep.whole_files import write_whole

from ..arguments import Parser
from ..errors import UserError
from ..studies.comparisons import Arm, ReportConfig, findings
from ..studies.study import LIST, Study, read_study
from .columns import as_csv, rows_of, write_parquet
from .facts import date_words
from .headline import headline
from .index import Card, studies_here, write_index
from .page import html, markdown, parts
from .top import top

SITE = Path("site")
FOLDER, PAGE, TEXT, ROWS, COLUMNS = "report", "report.html", "report.md", "arms.csv", "arms.parquet"


def write_report(path: Path, config: ReportConfig, into: Path | None = None) -> list[Path]:
    """Write a study's report from what its runs left.

    Args:
        path: of the study, a folder with runs or a list of them.
        config: of the verdicts.
        into: the report's folder; <study>/report/ where it is not named.

    Returns:
        The files.

    Raises:
        UserError: there is no study.
    """
    study = read_study(path)
    return _write(study, findings(study, config), config, into or study.folder / FOLDER)


def write_site(config: ReportConfig, site: Path, studies: Sequence[Path] | None = None) -> Path:
    """Write the report of every study that is here, and a page with a link to each.

    A study that cannot be read is on that page with the reason, and the others have their reports.

    Args:
        config: of the verdicts.
        site: the folder of index.html, and of <study>/report.html.
        studies: their folders and lists; published ones and those of multirun/ by default.

    Returns:
        The page.

    Raises:
        UserError: there is no study.
    """
    cards = []
    for path in studies_here() if studies is None else studies:
        name = path.stem if path.suffix == LIST else path.name
        try:
            study = read_study(path)
            arms = findings(study, config)
        except UserError as error:
            cards.append(Card(name, None, f"not readable: {error}", "", ""))
            continue
        here = site / name
        if any(card.page and card.page.parent == here for card in cards):
            here = site / f"{name}-multirun"
        _write(study, arms, config, here)
        said = f"{len(arms)} arms, {sum(arm.n for arm in arms)} episodes"
        verdict = headline(arms, config.margin).verdict
        cards.append(Card(here.name, here / PAGE, verdict, date_words(arms), said))
    return write_index(cards, site)


def _write(study: Study, arms: Sequence[Arm], config: ReportConfig, here: Path) -> list[Path]:
    here.mkdir(parents=True, exist_ok=True)
    first = top(study, arms, config.margin)
    sections = parts(study, arms, config.margin, here)
    write_whole(here / PAGE, html(first, sections))
    write_whole(here / TEXT, markdown(first, sections))
    rows = rows_of(arms)
    write_whole(here / ROWS, as_csv(rows))
    files = [here / name for name in (PAGE, TEXT, ROWS)]
    if find_spec("pyarrow"):
        write_parquet(here / COLUMNS, rows)
        files.append(here / COLUMNS)
    return files


def run(argv: Sequence[str]) -> int:
    """0: written; 2: a mistake of the user."""
    parser = Parser(
        "skipstep report", description="Tables and one page of a study, or of all that are here."
    )
    parser.add_argument(
        "study", type=Path, nargs="?", help="multirun/<study>, or results/studies/<study>.yaml"
    )
    parser.add_argument(
        "--all", action="store_true", help="a page for every study, and one that links them"
    )
    parser.add_argument(
        "--into",
        type=Path,
        help="folder that is written; <study>/report by default, and site with --all",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=ReportConfig.margin,
        help="a loss of success rate that is small enough (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=ReportConfig.seed, help="of the bootstrap (default %(default)s)"
    )
    try:
        args = parser.parse_args(argv)
        if args.all == bool(args.study):
            raise UserError("report needs a study, or --all: skipstep report multirun/main")
        config = _config(args.margin, args.seed)
        if args.all:
            files = [write_site(config, args.into or SITE)]
        else:
            files = write_report(args.study, config, args.into)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(file) for file in files))
    return 0


def _config(margin: float, seed: int) -> ReportConfig:
    try:
        return ReportConfig(margin, seed)
    except ValueError as error:
        raise UserError(error) from error
