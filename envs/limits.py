"""How many worker processes this machine can hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

V2 = ("", "memory.max", "memory.current", "inactive_file")
V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


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


def available_memory_mb(root: Path = Path("/")) -> int:
    """Return what the machine, and every control group this process is in, still has to give."""
    meminfo = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
    free = [int(meminfo["MemAvailable"].split()[0]) * 1024]
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except FileNotFoundError:
        memberships = []
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            free += _group_free(root / "sys/fs/cgroup", path, V2)
        elif "memory" in controllers.split(","):
            free += _group_free(root / "sys/fs/cgroup", path, V1)
    return min(free) // 1024**2


def _group_free(mount: Path, path: str, names: tuple[str, str, str, str]) -> list[int]:
    """Bytes left in the group and in each above it; a container may see only the topmost."""
    folder, limit_name, usage_name, cache_name = names
    top = mount / folder
    group = top / path.strip("/")
    free = []
    for place in [group, *group.parents][: len(group.parts) - len(top.parts) + 1]:
        try:
            limit = (place / limit_name).read_text().strip()
            usage = int((place / usage_name).read_text())
            stat = dict(s.split() for s in (place / "memory.stat").read_text().splitlines())
        except FileNotFoundError:
            continue
        if limit != "max":
            free.append(int(limit) - usage + int(stat[cache_name]))
    return free
