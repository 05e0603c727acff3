"""What a worker process of Ray does before its first run; conf/hydra/launcher/ray.yaml names it."""

from __future__ import annotations

import os

FOLDER = "SKIPSTEP_FOLDER"


def enter() -> None:
    """Go to the folder that the sweep was started in: paths of its settings are relative to it.

    A cluster that runs already has workers elsewhere.

    Raises:
        OSError: this machine does not have that folder; Ray shows it as the worker's.
    """
    os.chdir(os.environ[FOLDER])
