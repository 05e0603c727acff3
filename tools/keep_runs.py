"""python -m tools.keep_runs FOLDER --study NAME: put finished runs into results/.

FOLDER holds run folders: multirun/<study>, or another checkout's. A run that results/ has already
gets the episodes that are new; where the same seed ended otherwise it is refused by name and left
as it is. What another study measured of the same run stays that study's. The same command again
changes nothing.

Another CPU rounds otherwise, so that a few episodes of the same run end otherwise there. With
--replace a run that has all seeds of the kept one takes its place, and how many differ is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runners.store.folder import read_episodes
from runners.store.names import PLAN_DIGEST, RESULT, TIME
from runners.store.published import (
    OWN,
    RUNS,
    STUDIES,
    Entry,
    copy_whole,
    read_list,
    write_episodes,
    write_list,
)
from runners.store.reading import Run, is_evaluation, is_run, read_run

RESULTS = Path(__file__).resolve().parent.parent / "results"
HOW = {"seconds", "machine", "video", "attempts"}  # an episode was played, not how it ended
Records = dict[int, dict[str, Any]]


class RefusedError(Exception):
    """The run is not the one that is kept under its name."""


def joined(kept: Mapping[int, dict[str, Any]], new: Mapping[int, dict[str, Any]]) -> Records:
    """The episodes of both; of the same seed the record that says more, and a film of either.

    Raises:
        RefusedError: a seed ended otherwise.
    """
    found = dict(kept)
    for seed, record in new.items():
        there = kept.get(seed, record)
        if there["status"] != record["status"]:  # an error is no ending
            found[seed] = record if record["status"] == "ok" else there
            continue
        if record["status"] == "ok":
            check_ending(seed, there, record)
        best = record if len(record) > len(there) else there
        film = there.get("video") or record.get("video")
        found[seed] = {**best, "video": film} if film else best
    return found


def replaced(kept: Mapping[int, dict[str, Any]], new: Mapping[int, dict[str, Any]]) -> Records:
    """The new episodes in the place of the kept ones, with films of those that ended alike.

    Raises:
        RefusedError: a kept seed is missing, or has no ending.
    """
    missing = sorted(seed for seed in kept if new.get(seed, {}).get("status") != "ok")
    if missing:
        raise RefusedError(f"seed {missing[0]}, which is kept, has no ending here")
    found = {seed: dict(record) for seed, record in new.items()}
    for seed, record in kept.items():
        if record.get("video") and record["n_steps"] == new[seed]["n_steps"]:
            found[seed]["video"] = record["video"]
    return found


def differing(kept: Mapping[int, dict[str, Any]], new: Mapping[int, dict[str, Any]]) -> str:
    """Of how many seeds both have the length or the success of an episode differs."""
    n = {
        field: sum(record.get(field) != new[seed].get(field) for seed, record in kept.items())
        for field in ("n_steps", "success")
    }
    return f"of {len(kept)} seeds {n['n_steps']} differ in length, {n['success']} in success"


def check_ending(seed: int, kept: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse an episode that differs in anything that both records say of its end."""
    for field in sorted(kept.keys() & new.keys() - HOW):
        if kept[field] != new[field]:
            raise RefusedError(
                f"{field} of seed {seed} is {new[field]!r}, "
                f"and {kept[field]!r} in the run that is kept"
            )


def check_same(run: Run, kept: Path) -> None:
    """Refuse a run of another fingerprint or under another plan."""
    ours, theirs = (found.config.get("fingerprint") for found in (run, read_run(kept)))
    if ours != theirs:
        raise RefusedError(f"its fingerprint is {ours}, and {theirs} of the run that is kept")
    paths = (run.folder / PLAN_DIGEST, kept / PLAN_DIGEST)
    if all(path.exists() for path in paths) and not same_file(*paths):
        raise RefusedError("it ran under another plan than the run that is kept")


def same_file(one: Path, other: Path) -> bool:
    if not (one.exists() and other.exists()):
        return one.exists() == other.exists()
    return one.read_bytes() == other.read_bytes()


def fields_of(records: Mapping[int, Mapping[str, Any]]) -> set[str]:
    return {field for record in records.values() for field in record}


def without(entry: Entry, later: set[str]) -> Entry:
    return replace(entry, without=tuple(sorted({*entry.without, *later})))


def others_of(results: Path, study: str, name: str) -> Iterator[tuple[Path, dict[str, Entry]]]:
    """(path, entries) of the other studies that list a run."""
    for path in sorted((results / STUDIES).glob("*.yaml")):
        entries = read_list(path)
        if name in entries and path.stem != study:
            yield path, entries


def keep_own(source: Path, own: Path, kept: Path) -> None:
    """Let a study's folder have what differs from the kept run, and only that."""
    differ = {name for name in OWN if not same_file(source / name, kept / name)}
    if RESULT in differ:
        differ.add(TIME)  # a time belongs to the result beside it
    for name in OWN:
        target = own / f"{kept.name}.{name}"
        if name in differ and (source / name).exists():
            own.mkdir(exist_ok=True)
            copy_whole(source / name, target)
        else:
            target.unlink(missing_ok=True)


def take_over(source: Path, kept: Path, readers: Sequence[Path]) -> None:
    """Make a run's files the kept ones; studies that read those get them for themselves."""
    for own in readers:
        for name in OWN:
            target = own / f"{kept.name}.{name}"
            if (kept / name).exists() and not target.exists():
                own.mkdir(exist_ok=True)
                copy_whole(kept / name, target)
    kept.mkdir(parents=True, exist_ok=True)
    for name in OWN:
        if (source / name).exists():
            copy_whole(source / name, kept / name)
        else:
            (kept / name).unlink(missing_ok=True)


def keep(run: Run, study: str, results: Path = RESULTS, replaces: bool = False) -> None:
    """Put a finished run into results/, as one of this study.

    Where `replaces`, its episodes take the place of the kept ones, see `replaced`.

    Raises:
        RefusedError: another run is kept under its name.
    """
    kept, path = results / RUNS / run.name, results / STUDIES / f"{study}.yaml"
    entries, n = read_list(path), int(run.config["n_episodes"])
    if (entries.get(run.name, Entry()).n_episodes or 0) > n:
        return
    n_kept, there = 0, read_episodes(kept)
    if kept.exists():
        n_kept = int(read_run(kept).config["n_episodes"])
        check_same(run, kept)
    records = (replaced if replaces else joined)(there, run.episodes)
    if replaces and there:
        print(f"replaced: {run.name}: {differing(there, records)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    readers = []
    for other, listed in others_of(results, study, run.name):
        own = other.with_suffix("")
        readers += [own] if not (own / f"{run.name}.{RESULT}").exists() else []
        later = fields_of(records) - fields_of(there)
        write_list(other, {**listed, run.name: without(listed[run.name], later)})
    if n > n_kept or (n == n_kept and not readers):
        take_over(run.folder, kept, readers)
    keep_own(run.folder, path.with_suffix(""), kept)
    if (run.folder / PLAN_DIGEST).exists():
        copy_whole(run.folder / PLAN_DIGEST, kept / PLAN_DIGEST)
    if records != there:
        write_episodes(kept, records)
    later = fields_of(records) - fields_of(run.episodes)
    write_list(path, {**entries, run.name: without(Entry(n), later)})


def main(argv: Sequence[str], results: Path = RESULTS) -> int:
    """0: all that finished are kept; 1: some were refused; 2: a mistake."""
    words = argparse.ArgumentParser("python -m tools.keep_runs", None, __doc__)
    words.add_argument("folder", type=Path, help="with run folders, such as multirun/<study>")
    words.add_argument("--study", required=True, help="whose runs they are")
    words.add_argument("--replace", nargs="*", default=(), help="names of runs that take the place")
    options = words.parse_args(argv)
    folders = [path for path in sorted(options.folder.glob("*")) if is_run(path)]
    if not folders:
        print(f"error: there must be runs in {options.folder}, there are none", file=sys.stderr)
        return 2
    refused = 0
    for run in map(read_run, folders):
        if not (is_evaluation(run) and run.whole):
            print(f"left out: {run.name} is no finished evaluation")
            continue
        try:
            keep(run, options.study, results, run.name in options.replace)
        except RefusedError as error:
            print(f"refused: {run.name}: {error}", file=sys.stderr)
            refused += 1
        else:
            print(f"kept: {run.name}, {run.config['n_episodes']} episodes")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
