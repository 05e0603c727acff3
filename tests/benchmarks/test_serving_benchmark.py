"""The table of benchmarks/serving.py, from a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.places import PROJECT

RECORD = {
    "cpu": "one CPU",
    "cores": 2,
    "load": [1.5, 2.5],
    "checkpoint": "kitchen",
    "steps": 10,
    "batch": 4,
    "clients": 4,
    "seconds": 0.4,
    "ms": {"in this process": [1, 2, 3], "4 clients at once": [4, 4, 4, 10]},
}


def test_a_record_is_shown_without_a_measurement(tmp_path: Path) -> None:
    (tmp_path / "serving.json").write_text(json.dumps(RECORD))
    words = ["-m", "benchmarks.serving", "--show", str(tmp_path / "serving.json")]
    done = subprocess.run(
        [sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    first, _, *lines = done.stdout.strip().splitlines()
    assert first.endswith("one CPU, 2 cores, load 1.5 to 2.5.")
    assert lines[2:4] == [
        "| in this process | 3 | 2.0 | 3.0 |",
        "| 4 clients at once | 4 | 4.0 | 9.8 |",
    ]
    assert lines[-1] == "10.0 requests a second were answered."
