"""Plans for the blocks of a model that is not ours."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import nn

from ..caches import CACHES
from ..calibration import Calibration
from ..calibration.statistics import Extent
from ..plans.across import reaches_back
from ..plans.plan import CachePlan, PlanError
from ..plans.sites import Site
from ..protocol import Accelerable
from .streams import Block

KINDS = ("delta", "output")


def measured(
    blocks: Sequence[Block], kind: str, model: str, arrays: Mapping[str, np.ndarray]
) -> Calibration:
    """What `Measuring` found, (rows, N) each, as the calibration that plans are made from."""
    rows, n_steps = next(iter(arrays.values())).shape
    extent = Extent(rows, n_steps, len(blocks), len(blocks), n_tokens=0, width=0)
    return Calibration(_sites(blocks, kind), model, extent, arrays, {}, tuple(arrays))


def _sites(blocks: Sequence[Block], kind: str) -> tuple[Site, ...]:
    return tuple(Site(block.name, "block", kind) for block in blocks)


def fitted(plan: CachePlan) -> bool:
    """Whether it holds for the weights alone that a calibration was measured on."""
    return plan.method.startswith("teacache") or (plan.decide is not None and plan.decide.fitted)


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
    calibration: Calibration | None = None,
) -> CachePlan:
    """A config of a cache that is offered for blocks, or a plan, on a stack of them.

    Args:
        config: or a plan for these blocks.
        blocks: of the model; each is a site.
        n_steps: calls of the model in a generation, of one guidance branch.
        model: its fingerprint.
        kind: delta, what a run of blocks adds to its input; or output, what it puts out.
        calibration: see `measured`; for teacache.

    Raises:
        TypeError: another config. PlanError: a plan for another model, one that computes blocks for
            nothing, or nothing measured where that is needed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    sites = _sites(blocks, kind)
    if isinstance(config, CachePlan):
        plan = config
    else:
        stack: Any = SimpleNamespace(
            sizes=SimpleNamespace(
                family="blocks", sites=sites, n_layer=len(blocks), branches=("block",)
            ),
            n_inference_steps=n_steps,
            fingerprint=lambda: model,
        )
        plan = _resolved(config, stack, calibration)
    if plan.sites != sites:
        raise PlanError(
            "the plan was made for other blocks, or another kind: their sites differ; attach with "
            "the blocks and the kind of the plan, or make a new one"
        )
    if plan.n_steps != n_steps:
        raise PlanError(f"the plan has {plan.n_steps} steps, the generation {n_steps}")
    if plan.policy != model:
        raise PlanError(
            "the plan was made for another model (fingerprints differ): make one of this model"
        )
    if plan.bias is not None:
        raise PlanError("a plan of a foreign model can have no bias")
    if reaches_back(plan):
        raise PlanError(
            "cache.across=true takes values of an episode's query before, and an attached model "
            "keeps none between generations: use across=False"
        )
    if kind == "output":
        _no_dead_blocks(plan)
    return plan


def _resolved(config: Any, stack: Accelerable, calibration: Calibration | None) -> CachePlan:
    offered = {name: method for name, method in CACHES.items() if method.blocks is not None}
    name = getattr(config, "name", None)
    if name not in offered or not isinstance(config, offered[name].config):
        raise TypeError(f"cache must be a config of {', '.join(offered)}, got {config!r}")
    method = offered[name]
    needs = method.needs if method.blocks is method.resolve else ()
    if needs and (calibration is None or calibration.lacks(needs)):
        raise PlanError(f"cache={name} needs what calibrate(run) measures: call it first")
    if needs and calibration is not None and calibration.policy != stack.fingerprint():
        raise PlanError(
            f"cache={name} was calibrated on other weights, the model has changed since: call "
            "calibrate(run) again"
        )
    assert method.blocks is not None
    return method.blocks(config, stack, calibration)


def _no_dead_blocks(plan: CachePlan) -> None:
    dead = np.argwhere(plan.mask[:, :-1] & ~plan.mask[:, 1:])
    if len(dead):
        step, block = dead[0]
        raise PlanError(
            f"{plan.sites[block].name} is computed in step {step} for nothing: the block after it "
            "puts out a stored value whatever its input is; use kind=delta, or cache it too"
        )
