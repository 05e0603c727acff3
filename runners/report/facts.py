"""When, on what and from which code a study's runs were made, as their records say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache

from ..machine import UNKNOWN, machines_of
from ..places import PROJECT
from ..studies.comparisons import Arm

HASH = re.compile(r"[0-9a-f]{4,40}")
MOST = 4  # commits that are listed


def facts(arms: Sequence[Arm]) -> list[str]:
    """Date, CPU and commit; what no run recorded is said to be so."""
    return [date_words(arms), f"CPU {'; '.join(_cpus(arms))}", _commits(arms)]


def date_words(arms: Sequence[Arm]) -> str:
    """A day, or the first and the last one."""
    days = sorted(set(filter(None, map(_day, arms))))
    if not days:
        return f"date {UNKNOWN}"
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _day(arm: Arm) -> str:
    """When the run finished; an older one is of the day of its code."""
    finished = str(arm.run.result.get("finished", ""))[:10]
    return finished or _day_of(_commit(arm))


def _commit(arm: Arm) -> str:
    return str(arm.run.result["versions"].get("commit", ""))


@cache
def _day_of(commit: str) -> str:
    if not HASH.fullmatch(commit) or not (PROJECT / ".git").exists():
        return ""
    command = ["git", "-C", str(PROJECT), "show", "-s", "--format=%cs", f"{commit}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpus(arms: Sequence[Arm]) -> list[str]:
    """Of episodes and latencies; what an episode adds to the CPU's name is not repeated."""
    found = machines_of(e for arm in arms for e in arm.run.ok.values())
    names = [machine.partition(",")[0] for machine in found if machine != UNKNOWN]
    names += [str((arm.run.result["latency"] or {}).get("cpu") or "") for arm in arms]
    return _once(names) or [UNKNOWN]


def _commits(arms: Sequence[Arm]) -> str:
    found = _once(map(_commit, arms))
    if not found:
        return f"commit {UNKNOWN}"
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return f"commit{'s' if found[1:] else ''} {', '.join(found[:MOST])}{more}"


def _once(words: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(filter(None, words)))
