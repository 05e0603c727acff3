from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

torch.set_num_threads(
    1
)  # small networks; threads that wait for each other cost more than they bring

# tests that change HOME must not compile the fused engine's C code again
os.environ.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))

# a shell that starts pytest with & has it ignore Ctrl-C, and children would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
