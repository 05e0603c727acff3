"""What an inference acceleration really does to a diffusion policy: success, and measured latency.

`skipstep.accel` and `accel` are one module, and so are all others of the four packages: the short
names are those of a checkout, where they are also what the packages call each other.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .names import install

install()

FROM = {
    "accelerate": "accel",
    "accelerated": "accel",
    "WarmConfig": "accel",
    "load_policy": "policies",
    "from_reference": "policies",
    "make_task": "envs",
    "Client": "runners.serve.client",
}
"""What `from skipstep import ...` brings; a package is imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(FROM[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *FROM])
