"""A stack of one-branch blocks on numbers, small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from accel import CachePlan
from accel.engines.sessions import Session


class ToyStack:
    """Block l adds slope[l] * h; step s starts with inputs[s].

    The stack stands for a policy where a plan is resolved.
    """

    def __init__(self, slopes: Sequence[float], inputs: Sequence[float]) -> None:
        self.slopes, self.inputs = slopes, inputs
        self.sizes: Any = SimpleNamespace(
            family="transformer",
            n_layer=len(slopes),
            branches=("ff",),
            encoder_only=False,
            n_emb=1,
        )
        self.n_inference_steps = len(inputs)
        self.n_live = 1

    def fingerprint(self) -> str:
        return "toy"

    def outputs(self, plan: CachePlan) -> list[float]:
        """What the stack puts out in each step under a plan."""
        session, found = Session(plan), []
        for step, x in enumerate(self.inputs):
            h = torch.tensor([[float(x)]])
            for block, slope in enumerate(self.slopes):
                h = h + session(step, block, lambda h=h, slope=slope: slope * h)
            found.append(float(h))
        return found
