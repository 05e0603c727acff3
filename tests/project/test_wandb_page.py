"""The workspace of docs/how-to/wandb.md can be built, and names numbers that runs have."""

from __future__ import annotations

import re

import pytest

from tests.helpers.places import PROJECT

PAGE = (PROJECT / "docs/how-to/wandb.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_workspace_is_built() -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    found: dict[str, object] = {}
    exec(CODE, found)
    workspace = found["workspace"]
    assert [section.name for section in workspace.sections] == [  # type: ignore[attr-defined]
        *("Success and speed", "While it runs", "Plans and films")
    ]


def test_it_draws_what_runs_log() -> None:
    from runners.wandb_values import latency_values

    latency = {"times_as_fast": 2.0, "accelerated": {"p50_ms": 1.0}}
    known = {*latency_values(latency), "success_rate", "episode", "test/success_rate", "plan"}
    asked = set(re.findall(r'"((?:latency|test)/\w+|success_rate|episode|plan)"', CODE))
    assert asked - {"test/sim_video_100000"} <= known
    assert len(asked) > 4
