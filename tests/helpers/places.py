"""Where this project and the files of its tests are."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT / "tests" / "data"
FIXTURES = DATA / "reference_checkpoints"
