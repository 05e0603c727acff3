"""What the numbers of a run depend on besides its settings."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

from ..places import PROJECT

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
    "robosuite",
    "gym-pusht",
    "pymunk",
    "metaworld",
    "opencv-python",
    "hydra-core",
    "wandb",
)


def versions() -> dict[str, str]:
    """Of Python, the packages that matter and, in a checkout, the commit."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if (PROJECT / ".git").exists():
        command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if commit:
            found["commit"] = commit
    return found
