"""Measuring: episodes, latency, metrics, what is written where.

torch's OpenMP workers spin while they wait, and on a machine that others use they take the time of
the work that they wait for. They read how to wait when torch is imported, which nothing does before
this file.
"""

from __future__ import annotations

import os

import skipstep  # noqa: F401  (the other names of these modules)

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
