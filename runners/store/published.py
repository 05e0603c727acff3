"""Runs whose records are in the repository: each is kept once, and a study is a list of them.

    runs/<run>/            config.yaml, episodes.jsonl, result.json, plan.txt, time.json, videos/
    studies/<study>.yaml   {run: what of it belongs to the study}
    studies/<study>/       <run>.result.json (.config.yaml, .time.json) where the study measured the
                           run in a process of its own, and what the study has besides runs

A run grows when a later study plays more of its seeds. An earlier study goes on reading its own
result, and its own number of episodes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from skipstep.plain_files import PlainFileError, read_yaml
from skipstep.whole_files import replacing, write_whole

from ..errors import UserError
from .files import DamagedFileError, read_config, read_episodes, read_result
from .kinds import COUNT, TEXT, KindError, list_of, mapping_of, maybe, record
from .names import CONFIG, EPISODES, RESULT, TIME
from .reading import UNREADABLE, Run, is_evaluation, read_run
from .schemas import EVALUATED
from .schemas import RESULT as ANY_RESULT

RUNS, STUDIES = "runs", "studies"
OWN = (CONFIG, RESULT, TIME)  # of a run, what a study may have measured for itself
LIST = mapping_of(record({}, {"n_episodes": maybe(COUNT), "without": list_of(TEXT)}))
HEADER = """\
# The runs of this study, in ../{runs}/: how many of a run's episodes belong to it, and which fields
# of an episode were recorded later. Its own {own} of a run are in
# {study}/. Written by python -m tools.keep_runs.
"""


@dataclass(frozen=True)
class Entry:
    """What of a run belongs to a study: its first episodes, without fields recorded later."""

    n_episodes: int | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A run as a study has it; `own` is the study's folder."""

    folder: Path
    own: Path
    entry: Entry = Entry()

    @property
    def name(self) -> str:
        return self.folder.name

    def path(self, file: str) -> Path:
        """The study's own file where it has one; a time belongs to the result beside it."""
        own = self.own / f"{self.name}.{file}"
        measured = self.own / f"{self.name}.{RESULT}"
        return own if own.exists() or (file == TIME and measured.exists()) else self.folder / file

    @property
    def config(self) -> dict[str, Any]:
        path, n = self.path(CONFIG), self.entry.n_episodes
        read = read_config(path) or {}
        return {**read, **({} if n is None else {"n_episodes": n})}

    @property
    def episodes(self) -> dict[int, dict[str, Any]]:
        """As the study recorded them, and seeds beyond its own that were played later."""
        return self._recorded(read_episodes(self.folder))

    def _recorded(self, episodes: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        later = self.entry.without
        return {s: {k: v for k, v in e.items() if k not in later} for s, e in episodes.items()}

    def run(self) -> Run:
        """Read where it is: its folder is the run's."""
        kept = _read(self.folder, _state(self.folder))
        if kept.status == UNREADABLE:
            return kept
        try:
            kind = EVALUATED if is_evaluation(kept) else ANY_RESULT
            result = read_result(self.path(RESULT), kind) or {}
            episodes = self._recorded(kept.episodes)
            return replace(kept, config=self.config, result=result, episodes=episodes)
        except DamagedFileError as error:
            return replace(kept, result={}, episodes={}, status=UNREADABLE, error=str(error))

    def copy(self, target: Path, files: Sequence[str]) -> None:
        """Put these of its files into a folder, each whole, in this order."""
        for file in files:
            if file == EPISODES:
                write_episodes(target, self.episodes)
            elif (path := self.path(file)).exists():
                copy_whole(path, target / file)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file of the run does: (name, time of the change, size) of each."""
    if not folder.is_dir():
        return ()
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@lru_cache(maxsize=512)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Run:
    """A run as it is in this state: several studies list the same one."""
    return read_run(folder)


def write_episodes(folder: Path, episodes: Mapping[int, Mapping[str, Any]]) -> None:
    lines = (json.dumps(record) + "\n" for record in episodes.values())
    write_whole(folder / EPISODES, "".join(lines))


def copy_whole(source: Path, target: Path) -> None:
    """Copy by rename, so that the file is there whole or not at all."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def read_list(path: Path) -> dict[str, Entry]:
    """{run: what of it belongs to the study}.

    Raises:
        UserError: it is no such list.
    """
    try:
        read: Any = read_yaml(path) if path.exists() else {}
        LIST({} if read is None else read, "it")
    except (PlainFileError, KindError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return {
        name: Entry(found.get("n_episodes"), tuple(found.get("without", ())))
        for name, found in (read or {}).items()
    }


def write_list(path: Path, entries: Mapping[str, Entry]) -> None:
    """One line a run."""
    lines = [HEADER.format(runs=RUNS, own=" and ".join(OWN[:2]), study=path.stem)]
    for name, entry in sorted(entries.items()):
        said = [] if entry.n_episodes is None else [f"n_episodes: {entry.n_episodes}"]
        said += [f"without: [{', '.join(entry.without)}]"] if entry.without else []
        lines.append(f"{name}: {{{', '.join(said)}}}\n")
    write_whole(path, "".join(lines))


def published(listing: Path) -> list[Published]:
    """The runs of results/studies/<study>.yaml, by name.

    Raises:
        UserError: there is no such list, or it names a run that is not there.
    """
    if not listing.is_file():
        raise UserError(f"the study must be a list of runs, there is none at {listing}")
    runs = listing.parent.parent / RUNS
    found = sorted(read_list(listing).items())
    if missing := [name for name, _ in found if not (runs / name).is_dir()]:
        raise UserError(f"{listing} must list runs of {runs}, got {missing[0]!r}")
    return [Published(runs / name, listing.with_suffix(""), entry) for name, entry in found]


def published_run(place: Path, study: str, name: str) -> Published | None:
    """A study's run in results/, or in a folder of studies, <place>/<study>/<run>."""
    entries = read_list(place / STUDIES / f"{study}.yaml")
    if name in entries:
        return Published(place / RUNS / name, place / STUDIES / study, entries[name])
    folder = place / study / name
    if (place / STUDIES).is_dir() or not folder.is_dir():
        return None
    return Published(folder, folder.parent)
