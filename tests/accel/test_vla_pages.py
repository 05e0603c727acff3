"""The lines that docs/how-to gives for SmolVLA and pi0, on small policies of the same structure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.places import PROJECT
from tests.helpers.vla_models import batch_of, small_vla

PAGES = {"smolvla": ("smolvla",), "pi0": ("pi0", "pi05")}


def blocks_of(page: str) -> list[str]:
    words = (PROJECT / f"docs/how-to/{page}.md").read_text()
    return re.findall(r"```python\n(.*?)```", words, re.DOTALL)


def run_page(page: str, given: dict[str, Any]) -> None:
    """Every block, one after the other, with one set of names."""
    for number, block in enumerate(blocks_of(page)):
        exec(compile(block, f"{page}.md, block {number}", "exec"), given)


def arguments(batch: dict[str, Any]) -> dict[str, Any]:
    image = batch["observation.images.top"]
    return {
        "images": [image],
        "img_masks": [torch.ones(len(image), dtype=torch.bool)],
        "lang_tokens": batch["observation.language.tokens"],
        "lang_masks": batch["observation.language.attention_mask"],
        "state": batch["observation.state"],
    }


@pytest.mark.parametrize(
    ("page", "kind"), [(page, kind) for page, kinds in PAGES.items() for kind in kinds]
)
def test_each_block_of_a_page_runs(
    page: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = small_vla(kind, n_layers=2)
    batch, before = batch_of(policy), set(vars(policy.model))
    given = {"policy": policy, "batch": batch, "batches": [batch_of(policy, 8)]}
    run_page(page, {**given, "folder": tmp_path, "arguments": arguments})
    told = capsys.readouterr().out
    assert len(blocks_of(page)) == {"smolvla": 4, "pi0": 2}[page]
    assert told.count("\n") == {"smolvla": 3, "pi0": 2}[page]
    assert ("1 2\n" in told) is (page == "smolvla")  # prefixes made and reused
    assert set(vars(policy.model)) == before
