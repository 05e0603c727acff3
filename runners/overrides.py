"""The commands that make a run and its baseline, as a user would type them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

METHOD = ("cache", "quant", "sampler", "warm", "realtime")
UNACCELERATED = (
    "cache=none",
    "quant=none",
    "sampler=checkpoint",
    "warm=none",
    "realtime.enabled=false",
)


def key_of(word: str) -> str:
    """What an override sets: "cache.steps" of "+cache.steps=3"."""
    return word.lstrip("+~").partition("=")[0]


def without_method(words: Iterable[str]) -> list[str]:
    """Overrides without those that say how the policy is made cheaper."""
    return [word for word in words if key_of(word).partition(".")[0] not in METHOD]


def job_words() -> list[str]:
    """What was typed for this job, of a sweep for this job alone, and for all of its shards."""
    words = sys.argv[1:]
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        words = list(HydraConfig.get().overrides.task)
    return [word for word in words if key_of(word) != "shard"]


def command() -> str:
    """The line that makes this run."""
    return shlex.join(["python", "run.py", *job_words()])


def baseline_command() -> str:
    """The line that makes the unaccelerated run beside this one."""
    return shlex.join(["python", "run.py", "cache=none", *without_method(job_words())])
