"""How far an error inside the network moves the action, by denoising step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..action_errors import squared_action_error
from ..engines import ENGINES, FusedConfig, resolve_engine
from ..plans.plan import CachePlan
from ..plans.sites import sites_of
from ..protocol import Transparent
from .branch_outputs import generators_at

PLACES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # short runs at the end


def runs_of(n_steps: int) -> list[tuple[int, int]]:
    """Runs (a, b) that cover all steps but the last; steps a + 1 .. b - 1 can reuse step a."""
    starts: list[int] = []
    for start in (round(place * (n_steps - 1)) for place in PLACES):
        if start <= n_steps - 3 and (not starts or start >= starts[-1] + 2):
            starts.append(start)
    return list(zip(starts, [*starts[1:], n_steps - 1], strict=True)) if starts else []


def measure_sensitivity(
    policy: Transparent,
    cond: Tensor,
    noise: Sequence[torch.Generator],
    plain: Tensor,
    distances: np.ndarray,
    batch: int = 8,
    progress: bool = True,
) -> np.ndarray:
    """Squared action error per squared error of what leaves the layers, for errors in each step.

    One run of steps after the other reuses its first step, everything else is computed. Of the
    queries' squared errors the geometric mean of mean and median is taken: a few queries that end
    in another mode are the mean, and do not show in the median. Later errors never count less than
    earlier ones. Between runs the values are interpolated on a logarithmic scale.

    Args:
        policy: in eval mode.
        cond: (M, n_obs_steps, cond_dim), what `policy.encode` gave.
        noise: one generator per query, as it was for the plain actions.
        plain: (M, n_action_steps, action_dim), the plain policy's actions.
        distances: (N, N) mean squared distance of what the layers add in two steps.
        batch: queries at once.
        progress: show a bar where there is a terminal.

    Returns:
        (N,) float64; ones where the policy has too few steps, or no error moves its actions.
    """
    n_steps, sites = policy.n_inference_steps, sites_of(policy)
    runs, states = runs_of(n_steps), [generator.get_state() for generator in noise]
    target = policy.normalizer.normalize("action", plain)
    engine: Any = resolve_engine(FusedConfig(), policy)
    build = ENGINES[engine.name][1]
    found = []
    hidden = None if progress else True  # None: a bar where there is a terminal
    for a, b in tqdm(runs, desc="sensitivity", unit="run", disable=hidden):
        mask = np.ones((n_steps, len(sites)), dtype=bool)
        mask[a + 1 : b] = False
        plan = CachePlan(sites, mask, policy.fingerprint(), f"steps {a} to {b - 1} reuse {a}")
        squares: list[Tensor] = []
        fast = build(policy, plan, engine)
        with torch.inference_mode():
            for first in range(0, len(cond), batch):
                rows = slice(first, first + batch)
                actions = fast.denoise(cond[rows], generators_at(states[rows]))
                normalised = policy.normalizer.normalize("action", actions)
                squares.append(squared_action_error(normalised, target[rows]).cpu())
        each, stale = torch.cat(squares).numpy(), float(distances[a, a + 1 : b].sum())
        typical = float(np.sqrt(each.mean() * np.median(each)))
        found.append(typical / stale if stale > 0 else 0.0)
    values = np.maximum.accumulate(np.array(found)) if found else np.zeros(1)
    if not values[-1] > 0:
        return np.ones(n_steps)
    middle = [(a + b - 1) / 2 for a, b in runs]
    least = np.log(np.maximum(values, values[-1] * 1e-9))
    return np.asarray(np.exp(np.interp(np.arange(n_steps), middle, least)))
