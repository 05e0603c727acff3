"""A query written out: encoding, every denoising step under its plan, and the actions' units.

Nothing in it depends on a value, so tracing it once is the whole of it: the plan says which sites a
step computes, the sampler is numbers, and only what is computed becomes part of the graph.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..accelerated_policy import AcceleratedPolicy
from ..caches import CACHES
from ..engines.deciding import session
from ..engines.sessions import bias_of
from ..families import family_of
from ..plans.plan import PlanError
from .layers import as_operators

MASKS = ("mask", "memory_mask")


class Query(nn.Module):
    """An accelerated policy as a function of tensors alone; it shares nothing with the policy.

    Args:
        fast: open, with a plan that is fixed before the run.

    Attributes:
        names: of the arrays of an observation, in the order of the arguments.
    """

    def __init__(self, fast: AcceleratedPolicy) -> None:
        super().__init__()
        self.plan = fast.plan
        self.policy: Any = copy.deepcopy(fast.runs).cpu().eval()
        self.names = tuple(self.policy.obs_spec)
        self.live = _cut(self.policy)
        as_operators(self.policy)
        self.eval()

    def forward(self, *arrays: Tensor) -> Tensor:
        """Observation and noise to actions.

        Args:
            arrays: those of the observation, (B, n_obs_steps, ...) in the units of the env, then
                the noise, (draws, B, T, input_dim), see `query_noise`.

        Returns:
            (B, n_action_steps, action_dim), in the units of the env.
        """
        *observed, noise = arrays
        policy, table = self.policy, self.policy.table
        cond = self._encoded(observed)
        drawn = iter(noise[:, :, : self.live].unbind(0))
        x, last = next(drawn), list[Tensor]()
        given = policy.config.network.obs_as_cond
        with session(policy, self.plan, bias_of(self.plan, policy.device)) as branch:
            for s, timestep in enumerate(table.timesteps.tolist()):
                x = self._inpainted(x, cond)
                time = torch.full((x.shape[0],), timestep)
                out = policy.model(x, time, cond if given else None, at_step(branch, s))
                x = table.step(s, x, out, next(drawn) if table.draws[s] else None, last)
        actions: Tensor = policy.normalizer.unnormalize("action", x[..., : policy.action_dim])
        first = policy.config.first_action
        return actions[:, first : first + policy.n_action_steps]

    def _encoded(self, observed: list[Tensor]) -> Tensor:
        if self.policy.encoder is None:
            normalised: Tensor = self.policy.normalizer.normalize("obs", observed[0])
            return normalised
        arrays = dict(zip(self.names, observed, strict=True))
        encoded: Tensor = self.policy.encoded(arrays)
        return encoded

    def _inpainted(self, x: Tensor, cond: Tensor) -> Tensor:
        """Without observation conditioning the observed part of the trajectory is overwritten."""
        if self.policy.config.network.obs_as_cond:
            return x
        seen, width = self.policy.n_obs_steps, self.policy.action_dim
        first = torch.cat([x[:, :seen, :width], cond], dim=2)
        return torch.cat([first, x[:, seen:]], dim=1)


def at_step(branch: Any, step: int) -> Any:
    """A step's own sites, as a network asks for them."""
    return lambda site, compute: branch(step, site, compute)


def check_fixed(name: str, decides: bool) -> None:
    """Refuse a cache that no graph can hold.

    Raises:
        PlanError: it decides at run time.
    """
    if decides:
        fixed = ", ".join(other for other, method in CACHES.items() if not method.decides)
        raise PlanError(
            f"cache={name} decides at run time which steps compute, and a graph is fixed before "
            f"the run: cache must be one of {fixed}"
        )


def _cut(policy: Any) -> int:
    """Cut a causal transformer's masks to what executed actions depend on; its length then."""
    length = min(policy.n_live, policy.config.length)
    if family_of(policy).stack == "layers" and length < policy.config.length:
        tokens = length + policy.config.network.encoder_only
        for name in MASKS:
            mask = getattr(policy.model, name)
            if mask is not None:
                setattr(policy.model, name, mask[:tokens, : tokens if name == "mask" else None])
        return int(length)
    return int(policy.config.length)
