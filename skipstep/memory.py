"""How much memory this process may still take, and refusing what needs more."""

from __future__ import annotations

from pathlib import Path

V2 = ("", "memory.max", "memory.current", "inactive_file")
V1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
ALWAYS = 2**26  # bytes that are not worth a question


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


def check_memory(n_bytes: int, what: str) -> None:
    """Refuse to read what would not fit, before anything is allocated.

    Args:
        n_bytes: that it takes.
        what: it is, for the message.

    Raises:
        MemoryError: this process may not take as much; one line.
    """
    if n_bytes > ALWAYS and n_bytes > available_memory_mb() * 1024**2:
        raise MemoryError(
            f"{what} needs {n_bytes / 1024**3:.1f} GiB of memory, of which there are "
            f"{available_memory_mb() / 1024:.1f}"
        )
