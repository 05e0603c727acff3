"""What is timed: a policy, its observations, its noise; and an arm, a way of running a query."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accel import CachePlan, UniformConfig, resolve
from policies import DiffusionPolicy, PolicyConfig, load_policy

KITCHEN = Path(__file__).resolve().parent.parent / "checkpoints/kitchen"
SHIPPED_WIDTH = 256
HEAD_WIDTH = 64


class Unavailable(Exception):
    """An arm cannot run here; the message is the reason."""


@dataclass
class Arm:
    """One way of running the query.

    Attributes:
        query: runs it once, () -> (B, n_action_steps, action_dim) in the units of the env.
        flops: of one row, every token and every step's conditions counted (`accel.query_flops`).
        live_flops: of one row, what this arm really computes.
        note: what a reader must know to compare it.
    """

    query: Callable[[], Tensor]
    flops: int
    live_flops: int
    note: str = ""


@dataclass
class Setting:
    """One row of the benchmark.

    Attributes:
        policy: in eval mode.
        obs: (B, n_obs_steps, obs_dim) in the units of the env.
        steps: S, the steps that a cache computes, and those of the shorter sampler.
        stack: closed when the row ends.
    """

    policy: DiffusionPolicy
    obs: Tensor
    steps: int
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def plan(self) -> CachePlan:
        return resolve(self.policy, UniformConfig(steps=self.steps, spacing="quadratic"))

    @property
    def short(self) -> DiffusionPolicy:
        """The same weights, sampled by DDIM in S steps."""
        return self.policy.with_sampler(self.policy.config.sampler.with_steps("ddim", self.steps))

    def noise(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def full(self) -> np.ndarray:
        return np.ones_like(self.plan.mask)


def policy_of_width(width: int, n_layer: int = 8) -> DiffusionPolicy:
    """The shipped Kitchen policy (width 256, 8 layers), or its sizes with random weights.

    Heads are 64 wide, as in the paper's configuration for Kitchen (width 768, 12 heads).
    """
    shipped = load_policy(KITCHEN)
    if width == SHIPPED_WIDTH and n_layer == shipped.sizes.n_layer:
        return shipped
    config: PolicyConfig = shipped.config
    network = replace(config.network, n_emb=width, n_head=width // HEAD_WIDTH, n_layer=n_layer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = DiffusionPolicy(replace(config, network=network))
    policy.normalizer = shipped.normalizer
    return policy.eval()


def observations(policy: DiffusionPolicy, batch: int) -> Tensor:
    """(batch, n_obs_steps, obs_dim), uniform over the normalised range, in the env's units."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, policy.n_obs_steps, policy.obs_dim)
    with torch.no_grad():
        normalised = torch.rand(shape, generator=generator) * 2 - 1
        return policy.normalizer.unnormalize("obs", normalised).detach()
