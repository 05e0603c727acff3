"""Speed side by side with what a user would pick instead."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported, as in runners
