"""The policy as the reference implementation runs it.

torch.nn.TransformerDecoder, or the modules of a UNet, with diffusers' scheduler in a Python loop:
every token and every condition in every step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel import query_flops
from policies import DiffusionPolicy

from .setting import Arm, Setting, Unavailable
from .stock_unet import StockUnet


def stock_policy(policy: DiffusionPolicy) -> Any:
    """A live policy of stock modules that shares the weights of `policy`."""
    try:
        from tests.helpers.stock import SCHEDULERS, DiffusionTransformerLowdimPolicy
    except ImportError as error:
        raise Unavailable(f"{error}; pip install diffusers, in a checkout") from error
    if policy.sizes.family == "unet":
        return StockUnet(policy, SCHEDULERS)
    sampler = policy.config.sampler
    known = inspect.signature(SCHEDULERS[sampler.kind].__init__).parameters
    with torch.random.fork_rng(devices=[]):
        live = DiffusionTransformerLowdimPolicy(
            policy.sizes,
            policy.obs_dim,
            policy.action_dim,
            policy.n_action_steps,
            policy.pred_action_steps_only,
            sampler=sampler.kind,
            scheduler={k: v for k, v in asdict(sampler).items() if k in known},
            steps=sampler.steps,
        )
    missing, unexpected = live.model.load_state_dict(
        policy.model.state_dict(), strict=False, assign=True
    )
    assert not unexpected, unexpected
    assert set(missing) <= {"_dummy_variable"}, missing
    live.normalizer, live.first_action = policy.normalizer, policy.config.first_action
    return live


def act(live: Any, obs: Tensor, noise: torch.Generator) -> Tensor:
    """(B, n_obs_steps, obs_dim) -> (B, n_action_steps, action_dim), as the reference's policy."""
    trajectory = live.trajectory(obs, noise)
    actions: Tensor = live.normalizer.unnormalize("action", trajectory[..., : live.action_dim])
    return actions[:, live.first_action :][:, : live.n_action_steps].detach()


@contextmanager
def counted(live: Any) -> Iterator[np.ndarray]:
    """How often each layer is computed inside the context, (layers,) int."""
    layers = live.model.decoder.layers
    counts = np.zeros(len(layers), dtype=np.int64)

    def count(index: int) -> Any:
        def hook(module: Any, args: Any) -> None:
            counts[index] += 1

        return hook

    handles = [layer.linear1.register_forward_pre_hook(count(i)) for i, layer in enumerate(layers)]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def stock_arm(setting: Setting, live: Any, around: Any = lambda run: run, note: str = "") -> Arm:
    """An arm on stock modules; its FLOPs are those of the layers that it is seen to compute.

    Args:
        setting: the row.
        live: of `stock_policy`, with whatever is attached to it.
        around: of `libraries`, what has to be around a query.
        note: for the table.
    """
    run = around(lambda: act(live, setting.obs, setting.noise()))
    with counted(live) as counts:
        run()
    n_sites = len(setting.policy.sizes.branches)
    n_steps = live.num_inference_steps
    cells = np.tile(np.repeat(counts / n_steps, n_sites), (n_steps, 1))
    flops = query_flops(setting.policy, cells)
    computed = f"{counts.sum()} of {n_steps * len(counts)} layers computed"
    return Arm(run, flops, flops, "; ".join(filter(None, [note, computed])))


def stock(setting: Setting) -> Arm:
    return stock_arm(setting, stock_policy(setting.policy))


def stock_ddim(setting: Setting) -> Arm:
    return stock_arm(setting, stock_policy(setting.short))
