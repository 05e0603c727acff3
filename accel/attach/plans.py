"""Plans for the blocks of a model that is not ours."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import nn

from ..caches import CACHES, FirstBlockConfig
from ..caches.thresholded import first_block_rule
from ..families import FAMILIES
from ..plans.plan import CachePlan, PlanError
from ..plans.rows import shared_plan
from ..plans.sites import Site
from ..protocol import Accelerable
from .streams import Block

KINDS = ("delta", "output")
USABLE = FAMILIES["blocks"].caches


@dataclass(frozen=True)
class Measured:
    """What `Attached.calibrate` found; stands for a `Calibration` where a plan is made.

    probe, response: (rows, N), see `Calibration`.
    """

    probe: np.ndarray
    response: np.ndarray

    @property
    def n_steps(self) -> int:
        return int(self.probe.shape[1])

    def check(self, policy: Accelerable) -> None:
        """It is the model's that it was measured on."""


def fingerprint(model: nn.Module) -> str:
    """Hash of the class, the shapes, and the first values of every parameter."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in model.named_parameters():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        head = value.detach().flatten()[:64].float().cpu().contiguous()
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()


def foreign_plan(
    config: Any,
    blocks: Sequence[Block],
    n_steps: int,
    model: str,
    kind: str,
    measured: Measured | None = None,
) -> CachePlan:
    """A config of one of `USABLE`, or a plan, on a stack of blocks.

    Args:
        config: or a plan for these blocks.
        blocks: of the model; each is a site.
        n_steps: calls of the model in a generation, of one guidance branch.
        model: its fingerprint.
        kind: delta, what a run of blocks adds to its input; or output, what it puts out.
        measured: for teacache.

    Raises:
        TypeError: another config. PlanError: a plan for another model, one that computes blocks for
            nothing, or nothing measured where that is needed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    sites = tuple(Site(block.name, "block", kind) for block in blocks)
    if isinstance(config, CachePlan):
        plan = config
    else:
        name = getattr(config, "name", None)
        if name not in USABLE or not isinstance(config, CACHES[name].config):
            raise TypeError(f"cache must be a config of {', '.join(USABLE)}, got {config!r}")
        stack: Any = SimpleNamespace(
            sizes=SimpleNamespace(
                family="blocks", sites=sites, n_layer=len(blocks), branches=("block",)
            ),
            n_inference_steps=n_steps,
            fingerprint=lambda: model,
        )
        if isinstance(config, FirstBlockConfig):
            plan = _first_block(config, stack)
        elif CACHES[name].calibrated and measured is None:
            raise PlanError(f"cache={name} needs what calibrate(run) measures: call it first")
        else:
            plan = CACHES[name].resolve(config, stack, measured)
    if plan.sites != sites:
        raise PlanError("the plan was made for other blocks, or another kind: their sites differ")
    if plan.n_steps != n_steps:
        raise PlanError(f"the plan has {plan.n_steps} steps, the generation {n_steps}")
    if plan.policy != model:
        raise PlanError("the plan was made for another model (fingerprints differ)")
    if plan.bias is not None or plan.bands is not None:
        raise PlanError("a plan of a foreign model can have no bias and no bands")
    if kind == "output":
        _no_dead_blocks(plan)
    return plan


def _first_block(config: FirstBlockConfig, stack: Accelerable) -> CachePlan:
    """Decided at run time, by a threshold alone; the plan expects that everything is computed."""
    if not config.dynamic:
        raise PlanError(
            "cache.dynamic must be true for a foreign model, whose blocks are not calibrated: run "
            "it, and freeze what it decided (accel.freeze)"
        )
    rule = first_block_rule(config, stack)
    words = f"first_block threshold={config.threshold} blocks={config.blocks}"
    return replace(shared_plan(stack, range(stack.n_inference_steps), words), decide=rule)


def _no_dead_blocks(plan: CachePlan) -> None:
    dead = np.argwhere(plan.mask[:, :-1] & ~plan.mask[:, 1:])
    if len(dead):
        step, block = dead[0]
        raise PlanError(
            f"{plan.sites[block].name} is computed in step {step} for nothing: the block after it "
            "puts out a stored value whatever its input is; use kind=delta, or cache it too"
        )
