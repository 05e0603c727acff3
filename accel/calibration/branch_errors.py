"""How far an accelerated policy's branches are from the plain policy's, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from skipstep.observations import n_rows, take

from ..action_errors import action_error
from ..engines.deciding import session
from ..engines.sessions import bias_of
from ..plans.able import check_branches
from ..plans.plan import CachePlan
from ..plans.sites import Site
from .branch_outputs import Moments, generators_at, observe

if TYPE_CHECKING:
    from ..protocol import Observation, Transparent


@dataclass(frozen=True, eq=False)
class BranchErrors:
    """An accelerated policy against the plain one on the same queries and noise.

    Attributes:
        sites: in the order in which the network runs them.
        error: (N, n_sites) mean over queries of |added - r| / |r|, r what the plain network has in
            that cell; live tokens only. It holds what earlier hits did to the trajectory as well.
        hits: (N, n_sites) bool, where the accelerated policy computed nothing.
        action_error: (M,) RMS over the executed actions, normalised; see `action_error`.
    """

    sites: tuple[Site, ...]
    error: np.ndarray
    hits: np.ndarray
    action_error: np.ndarray


def relative_error(found: Tensor, plain: Tensor) -> Tensor:
    """|found - plain| / |plain| over the last axis; against nothing, 0 if equal, else 1."""
    difference, size = (found - plain).norm(dim=-1), plain.norm(dim=-1)
    against_nothing = (difference > 0).to(difference.dtype)
    return torch.where(size > 0, difference / size.clamp(min=1e-30), against_nothing)


def branch_errors(
    policy: Transparent,
    plan: CachePlan,
    observations: Observation,
    noise: Sequence[torch.Generator],
    batch: int = 8,
    progress: bool = True,
    quantised: Transparent | None = None,
) -> BranchErrors:
    """Run both policies on every query.

    Args:
        policy: in eval mode.
        plan: made for it.
        observations: (M, n_obs_steps, obs_dim), or a mapping of arrays with M rows.
        noise: one CPU generator per query.
        batch: queries at once; both policies' features are held for that many.
        progress: show a bar where there is a terminal.
        quantised: a copy of `policy` that runs under the plan in its place.

    Raises:
        PlanError: the plan was made for another policy, or the policy is a UNet.
        FloatingPointError: an output is not finite; names the site and the step.
    """
    check_branches(policy, "branch_errors")
    plan.check(policy)
    errors, bias = Moments(), bias_of(plan, policy.device)
    actions: list[np.ndarray] = []
    computed = np.zeros(plan.mask.shape)
    hidden = None if progress else True  # None: a bar where there is a terminal
    n, quick = n_rows(observations), quantised or policy
    with tqdm(total=n, desc="branches", unit="query", disable=hidden) as bar:
        for first in range(0, n, batch):
            rows = slice(first, first + batch)
            obs = take(observations, rows)
            again = generators_at([g.get_state() for g in noise[rows]])
            with torch.inference_mode():
                plain_actions, plain = observe(policy, policy.encode(obs), noise[rows])
                with session(quick, plan, bias) as branch:
                    fast_actions, fast = observe(quick, quick.encode(obs), again, branch)
                computed += branch.computed
                for ours, theirs in zip(fast, plain, strict=True):
                    error = relative_error(ours.flatten(2), theirs.flatten(2))
                    errors.add(error.T.double().cpu().numpy())
                normalised = [
                    policy.normalizer.normalize("action", a.to(policy.device))
                    for a in (fast_actions, plain_actions)
                ]
            actions.append(action_error(*normalised).cpu().numpy())
            bar.update(len(plain))
    return BranchErrors(plan.sites, errors.mean, computed == 0, np.concatenate(actions))
