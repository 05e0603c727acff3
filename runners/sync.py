"""python -m runners.sync multirun/<study>: send what ran offline to W&B, and the report with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .arguments import Parser
from .errors import UserError
from .loggers import has_key
from .report.build import FOLDER, PAGE
from .store.reading import FINISHED, is_run, read_run

NO_KEY = "sending needs a key: run `wandb login`, or set WANDB_API_KEY"


def sync_file(path: Path) -> bool:
    """`wandb sync`; whether it worked. It marks what it has sent."""
    return not subprocess.run([sys.executable, "-m", "wandb", "sync", str(path)]).returncode


def send_report(folder: Path, logger: Mapping[str, Any]) -> bool:
    """<study>/report as an artifact of a run of its own, found again the next time."""
    import wandb

    study = folder.resolve().name
    try:
        run = wandb.init(
            project=logger.get("project"),
            entity=logger.get("entity"),
            id=f"{study}-report",
            name=f"{study} report",
            group=study,
            job_type="report",
            dir=folder,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.UsageError as error:  # W&B said that it had a key, and has none
        raise UserError(NO_KEY) from error
    with run:
        artifact = wandb.Artifact(f"{study}-report", type="report")
        artifact.add_dir(str(folder / FOLDER))
        run.log_artifact(artifact)
    return True


def sync_study(
    folder: Path,
    send: Callable[[Path], bool] = sync_file,
    report: Callable[[Path, Mapping[str, Any]], bool] = send_report,
) -> tuple[dict[str, str], bool]:
    """Send the newest W&B file of every finished run; it holds all of the run's episodes.

    Returns:
        {run: "sent", "sent already", or why not}, and whether nothing failed.

    Raises:
        UserError: there is no study, or no key.
    """
    if not folder.is_dir():
        raise UserError(f"the study must be a folder with runs, there is none at {folder}")
    if not has_key():
        raise UserError(NO_KEY)
    said: dict[str, str] = {}
    whole = True
    logger: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if not is_run(path):
            continue
        run, files = read_run(path), sorted(path.glob("wandb/offline-run-*/*.wandb"))
        if run.status != FINISHED or not files:
            said[path.name] = f"left out: {run.status if files else 'no offline files'}"
        elif files[-1].with_suffix(".wandb.synced").exists():
            said[path.name] = "sent already"
        else:
            sent = send(files[-1].parent)
            said[path.name], whole = "sent" if sent else "failed", whole and sent
        logger = run.config.get("logger") or logger
    if (folder / FOLDER / PAGE).exists():
        sent = report(folder, logger)
        said[FOLDER], whole = "sent" if sent else "failed", whole and sent
    return said, whole


def run(argv: Sequence[str]) -> int:
    """0: sent; 1: something could not be sent; 2: a mistake of the user."""
    parser = Parser("python -m runners.sync", description="Send an offline study to W&B.")
    parser.add_argument("study", type=Path, help="its folder, multirun/<study>")
    try:
        said, whole = sync_study(parser.parse_args(argv).study)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{name}: {what}" for name, what in said.items()))
    return int(not whole)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
