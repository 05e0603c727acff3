"""Whether a graph does what the accelerated policy does, asked of the runtime that will run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipstep.observations import is_image

from ..accelerated_policy import AcceleratedPolicy
from .formats import Format
from .noise import query_noise

QUERIES = 4
EXACT = 1e-4
"""Most that an action may differ, normalised."""
CODES = 2e-2
"""The same where inputs are rounded to codes: one that lies on the edge between two codes may fall
to either side, so one product in some thousand differs by a whole code."""


@dataclass(frozen=True)
class Checked:
    """What a graph differs by.

    Attributes:
        runtime: that ran it, and its version.
        error: the largest difference of an action from ours, normalised.
        limit: what it may be.
        queries: that were asked.
    """

    runtime: str
    error: float
    limit: float
    queries: int


def observations(policy: Any, batch: int, seed: int) -> dict[str, Tensor]:
    """{array of the observation: (B, n_obs_steps, ...)} at random, in the range of the training."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, spec in policy.obs_spec.items():
        drawn = torch.rand((batch, policy.n_obs_steps, *spec.shape), generator=generator)
        if is_image(name):
            found[name] = (drawn * 255).to(torch.uint8)
        else:
            field = "obs" if policy.encoder is None else name
            found[name] = policy.normalizer.unnormalize(field, drawn * 2 - 1)
    return found


def check(fast: AcceleratedPolicy, path: Path, format: Format, batch: int) -> Checked | None:
    """Ask a graph and the policy the same; None where the runtime is not installed.

    Raises:
        ValueError: it does something else.
    """
    if find_spec(format.runtime) is None:
        return None
    run, policy = format.load(path), fast.policy
    single, worst = policy.obs_spec.single, 0.0
    for query in range(QUERIES):
        obs = observations(policy, batch, query)
        seeds = [query * batch + row for row in range(batch)]
        inputs = given(obs, query_noise(policy, seeds), single)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds]
        ours = fast.act(next(iter(obs.values())) if single else obs, noise)
        theirs = torch.from_numpy(run({k: v.numpy() for k, v in inputs.items()}))
        worst = max(worst, difference(policy, ours, theirs))
    version = str(import_module(format.runtime).__version__)
    found = Checked(f"{format.runtime} {version}", worst, limit_of(fast), QUERIES)
    if not found.error <= found.limit:
        raise ValueError(
            f"the graph differs from the policy by {worst:.2g} (normalised actions, at most "
            f"{found.limit:g}) under {found.runtime}: it was not written"
        )
    return found


def given(obs: Mapping[str, Tensor], noise: Tensor, single: bool) -> dict[str, Tensor]:
    """The inputs of a graph by name; the only array of an observation is `observation`."""
    arrays = {"observation": next(iter(obs.values()))} if single else dict(obs)
    return {**arrays, "noise": noise}


def difference(policy: Any, ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two chunks of actions, normalised; NaN where one is."""
    a, b = (policy.normalizer.normalize("action", actions.cpu()) for actions in (ours, theirs))
    return float(np.abs((a - b).detach().numpy()).max())


def limit_of(fast: AcceleratedPolicy) -> float:
    """What a graph may differ by."""
    return EXACT if fast.quantised is None else CODES
