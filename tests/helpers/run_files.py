"""Files of a run as an evaluation writes them, for tests that need only some of their fields."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import OmegaConf

from runners.store.published import published
from tests.helpers.places import PROJECT

SOURCE = PROJECT / "results/studies/starter.yaml"


def result(**changes: Any) -> str:
    """The text of a result.json that was written by a run, with these fields instead."""
    run = published(SOURCE)[0]
    return json.dumps({**json.loads(run.path("result.json").read_text()), **changes})


def config(**changes: Any) -> Any:
    """Its config, with these fields instead."""
    run = published(SOURCE)[0]
    return OmegaConf.create({**OmegaConf.load(run.path("config.yaml")), **changes})
