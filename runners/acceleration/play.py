"""The episodes of a run: played, recorded one by one, and filmed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skipstep.whole_files import write_whole

from ..episodes.clock import Clock
from ..episodes.episode import EpisodeResult
from ..episodes.loop import evaluate
from ..jobs.job import Job
from ..loggers import NullLogger
from ..machine import arithmetic, warn_of_others
from ..progress import Progress
from ..store.folder import RunStore, dump, film_of
from ..store.names import TIME
from ..studies.arms import arm_words

OUTCOME = ("status", "success", "score", "n_steps")


def save_time(store: RunStore, clock: Clock) -> None:
    """Keep the seconds so far, for the process that goes on after this one."""
    write_whole(store.folder / TIME, dump(clock.seconds()))


def play_missing(
    job: Job,
    store: RunStore,
    logger: NullLogger,
    fast: Any,
    clock: Clock,
    seeds: Sequence[int],
    missing: Sequence[int],
) -> None:
    """Run what is missing; earlier episodes are logged again: the newest W&B file is complete."""
    successes = n_ok = 0
    filmed = {*job.seeds[: job.settings.videos], *(job.settings.film or ())}
    progress = Progress(job.name, len(seeds))

    def count(record: Mapping[str, Any]) -> None:
        nonlocal successes, n_ok
        n_ok += record["status"] == "ok"
        successes += record["success"] is True
        rate, n_errors = successes / max(n_ok, 1), progress.n_done + 1 - n_ok
        progress.episode(f"success {rate:.2f}" + (f", errors {n_errors}" if n_errors else ""))
        logger.episode(record, rate)

    with progress:
        for seed in seeds:
            if seed not in missing:
                count(store.episodes[seed])
        if not missing:
            return
        warn_of_others((store.episodes[s] for s in seeds if s not in missing), "earlier episodes")
        for episode in _played(job, store, fast, missing, filmed, clock, progress.step):
            record = _record(episode, store)
            store.append(record)
            save_time(store, clock)
            store.add_observations(episode.observations)
            count(record)


def _played(
    job: Job,
    store: RunStore,
    fast: Any,
    seeds: Sequence[int],
    filmed: Collection[int],
    clock: Clock | None = None,
    stepped: Callable[[int], None] = lambda n_steps: None,
) -> Iterator[EpisodeResult]:
    return evaluate(
        fast,
        job.task,
        seeds,
        job.n_envs,
        job.settings.noise_seed,
        policy_batch=job.settings.policy_batch,
        video_of=lambda seed: store.folder / "videos" / f"{seed}.mp4" if seed in filmed else None,
        who=arm_words(job.config),
        clock=clock,
        delays=job.delays,
        room_for=store.room_for,
        stepped=stepped,
    )


def _record(episode: EpisodeResult, store: RunStore) -> dict[str, Any]:
    record = {**episode.record(), "machine": arithmetic()}
    if episode.video:
        record["video"] = str(Path(episode.video).relative_to(store.folder.absolute()))
    return record


def unfilmed(job: Job, store: RunStore) -> list[int]:
    """Seeds of `film` that ran to their end without a film that is still there."""
    ok = {s: e for s, e in store.episodes.items() if e["status"] == "ok"}
    return [s for s in job.settings.film or () if s in ok and not film_of(store.folder, ok[s])]


def film(job: Job, store: RunStore, fast: Any, seeds: Sequence[int]) -> None:
    """Play finished episodes again, to film them.

    Raises:
        RuntimeError: one of them ended otherwise; its record and the others' stay as they were.
    """
    if not seeds:
        return
    with Progress("films", len(seeds)) as progress:
        for episode in _played(job, store, fast, seeds, seeds, stepped=progress.step):
            _add_film(store, episode)
            progress.episode("")


def _add_film(store: RunStore, episode: EpisodeResult) -> None:
    record, before = _record(episode, store), store.episodes[episode.seed]
    if any(record[key] != before[key] for key in OUTCOME):
        raise RuntimeError(
            f"seed {episode.seed} ended otherwise when it was filmed: "
            f"{[record[key] for key in OUTCOME]} instead of {[before[key] for key in OUTCOME]}"
        )
    store.append({**before, "video": record["video"]})
