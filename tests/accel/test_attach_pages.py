"""The lines that docs/how-to gives for other libraries, run on their real pipelines, small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.foreign_pipelines import PIPELINES
from tests.helpers.places import PROJECT

PAGES = {
    "hunyuan-video-1.5": ("HunyuanVideo15",),
    "flux": ("Flux", "Flux with ControlNet"),
    "wan": ("Wan",),
}


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in PAGES.items() for name in names]
)
def test_each_block_of_a_page_runs(page: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="these pipelines import it: skipstep[foreign]")
    made = PIPELINES[name]()
    words = (PROJECT / f"docs/how-to/{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", words, re.DOTALL)
    assert len(blocks) > 2
    given = {"pipe": made.pipe, "inputs": made.inputs, "folder": tmp_path}
    exec(compile(blocks[0], f"{page}.md", "exec"), given)
    cache = given["cache"]
    assert cache.summary()["hits"] > 0
    exec(compile("\n".join(blocks[1:]), f"{page}.md", "exec"), given)
    assert not cache.enabled
