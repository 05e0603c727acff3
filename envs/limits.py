"""How many worker processes this machine can hold."""

from __future__ import annotations

import os
from typing import Literal

from skipstep.memory import available_memory_mb as available_memory_mb


def resolve_n_envs(
    n_envs: int | Literal["auto"],
    n_episodes: int,
    memory_mb: int,
    max_envs: int = 16,
    policy_batch: int = 1,
) -> int:
    """Return how many environments to run at once.

    Args:
        n_envs: a number, or "auto": as many as there are cores, or rows in the policy's batch if
            that is more, as far as memory reaches.
        n_episodes: more environments than episodes are never made.
        memory_mb: what one worker needs.
        max_envs: an upper limit, for "auto" and for numbers.
        policy_batch: rows that a query computes, whether or not there is an episode for each.
    """
    if n_envs == "auto":
        n_cores = len(os.sched_getaffinity(0))
        wanted = max(n_cores, policy_batch)
        fitting = min(wanted, available_memory_mb() // memory_mb, max_envs)
    elif isinstance(n_envs, int) and 1 <= n_envs <= max_envs:
        fitting = n_envs
    else:
        raise ValueError(
            f"n_envs must be 'auto' or a number from 1 to max_envs={max_envs}, got {n_envs!r}"
        )
    return max(1, min(fitting, n_episodes))
