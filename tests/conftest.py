from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

torch.set_num_threads(
    1
)  # small networks; threads that wait for each other cost more than they bring

# tests that change HOME must not compile the fused engine's C code again
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))

# a shell that starts pytest with & has it ignore Ctrl-C, and children would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A run in this process configures logging; the next test must not hear of it."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler).__module__.startswith("logging"):  # pytest's own are not
            root.removeHandler(handler)
