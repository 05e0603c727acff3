"""`--help`: examples, the choices of each group, and settings with what they do.

`python run.py --help` shows all groups, `python run.py runner=train cache=uniform --help` the
settings of these choices. All of it comes from the comments of conf/.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .yaml_comments import Setting, about, settings_in

ASKED = ("--help", "-h")
GROUPS = ("task", "cache", "quant", "sampler", "warm", "engine", "runner", "experiment", "logger")
EXAMPLES = """\
What an inference acceleration does to a diffusion policy: success with intervals, paired with the
unaccelerated policy on the same seeds and noise, beside latency that is measured.

  {run} cache=hash_ab task=kitchen                       one run, and how it compares
  {run} task=kitchen sampler=ddpm sampler.steps=10       fewer denoising steps
  {run} -m cache=none,uniform,bac task=lift,kitchen      a study of six runs
  {run} task=can task.checkpoint=outputs/last.ckpt       your own policy
  {run} cache=uniform runner=train --help                the settings of these choices
"""
INDENT, GAP = 2, 2


def wants_help(words: Sequence[str]) -> bool:
    return any(word in ASKED for word in words)


def help_text(
    words: Sequence[str], conf: Path, commands: Mapping[str, str], run: str, width: int = 0
) -> str:
    """What `--help` prints.

    Args:
        words: of the command line; choices among them have their settings shown.
        conf: the folder of the groups.
        commands: {subcommand: what it does}.
        run: how the program was called.
        width: of the terminal; 0: as it is, at most 120.
    """
    width = width or min(shutil.get_terminal_size((100, 24)).columns, 120)
    chosen = [w.split("=", 1) for w in words if "=" in w and w.split("=", 1)[0] in GROUPS]
    if chosen:
        return "\n".join(_choices(chosen, conf, width))
    return "\n".join(_overview(conf, commands, run, width))


def _overview(conf: Path, commands: Mapping[str, str], run: str, width: int) -> Iterator[str]:
    yield EXAMPLES.format(run=run)
    if commands:
        yield "Commands: the first word, for which --help says more"
        yield from _table(commands.items(), width)
        yield ""
    for group in GROUPS:
        yield f"{group}="
        files = sorted((conf / group).glob("*.yaml"))
        yield from _table(((file.stem, about(file)) for file in files), width)
        yield ""
    yield "Settings, and what they are by default"
    yield from _settings(settings_in(conf / "config.yaml"), width)
    yield ""
    yield "--cfg job prints what would run; --hydra-help has Hydra's own options, among them"
    yield '--shell-completion: eval "$(python run.py -sc install=bash)" completes names by tab.'


def _choices(chosen: Iterable[Sequence[str]], conf: Path, width: int) -> Iterator[str]:
    for group, name in chosen:
        path = conf / group / f"{name}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in (conf / group).glob("*.yaml")))
            yield f"{group}={name}: no such choice of ours; there are {names}"
            continue
        yield f"{group}={name}: {about(path) or 'no settings'}"
        found = [s for s in settings_in(path, group) if s.key != f"{group}.name"]
        yield from _settings(found, width)
        yield ""


def _settings(settings: Iterable[Setting], width: int) -> Iterator[str]:
    rows = [(f"{s.key}={s.value}" if s.value else s.key, s.comment) for s in settings]
    yield from _table(rows, width)


def _table(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Names at the left, what they are beside them; below them where a name is long."""
    rows = list(rows)
    most = width // 3
    column = INDENT + GAP + max((len(name) for name, _ in rows if len(name) <= most), default=0)
    for name, words in rows:
        lines = textwrap.wrap(words, max(width - column, 20)) or [""]
        head = f"{'':{INDENT}}{name}"
        if len(head) + GAP > column and words:
            yield head
            head = ""
        yield f"{head:{column}}{lines[0]}".rstrip()
        yield from (f"{'':{column}}{line}" for line in lines[1:])
