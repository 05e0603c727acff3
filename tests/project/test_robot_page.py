"""docs/how-to/robot.md: every block of code runs as it stands, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers.places import PROJECT

PAGE = PROJECT / "docs/how-to/robot.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
SAID = (
    r"\(8, 9\) \d+\.\d ms",
    r"(chunk after \d+\.\d ms\n){3}\{'last': .*, 'p50': .*, 'p95': .*, 'max': .*\}",
    r"answers took \d+ steps at most; \d+ steps had no action",
    r"torch.Size\(\[1, 8, 9\]\)\ntorch.Size\(\[1, 9\]\)",
)


@pytest.mark.parametrize(("code", "said"), list(zip(BLOCKS, SAID, strict=True)))
def test_the_code_of_the_page_runs(code: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(said, done.stdout.strip()), done.stdout
