"""The blocks of a model that is not ours: where they are, what flows through them, their plans."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .caches import CACHES
from .plan import CachePlan, PlanError
from .sites import Site

Values = tuple[Tensor | None, ...]
KINDS = ("delta", "output")


@dataclass
class Block:
    """One block, and how its streams are passed.

    Attributes:
        name: path in the model.
        module: the block.
        places: {stream: position among the arguments}, where it may be passed by position.
        form: what it returns: 0 a tensor, n a tuple of n; None until it has run.
    """

    name: str
    module: nn.Module
    places: dict[str, int]
    form: int | None = None

    def inputs(self, streams: Sequence[str], args: Any, kwargs: Any) -> Values:
        """The streams that a call got; None for one that it did not."""
        found = []
        for stream in streams:
            if stream in kwargs:
                found.append(kwargs[stream])
            else:
                place = self.places[stream]
                found.append(args[place] if place < len(args) else None)
        return tuple(found)


def find_blocks(model: nn.Module, paths: Sequence[str], streams: Sequence[str]) -> list[Block]:
    """The blocks of some nn.ModuleLists, in the order of the paths.

    Raises:
        ValueError: a path that names no filled nn.ModuleList, or blocks without such an argument.
    """
    if isinstance(paths, str) or not paths:
        raise ValueError(f"blocks must be a list of paths, got {paths!r}")
    found: list[Block] = []
    for path in paths:
        try:
            stack = model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"blocks: {type(model).__name__} has no {path!r}") from error
        if not isinstance(stack, nn.ModuleList) or not len(stack):
            raise ValueError(
                f"blocks: {path!r} must be an nn.ModuleList with blocks in it, "
                f"got {type(stack).__name__}"
            )
        for index, module in enumerate(stack):
            parameters = list(inspect.signature(type(module).forward).parameters)[1:]
            missing = [stream for stream in streams if stream not in parameters]
            if missing:
                raise ValueError(
                    f"streams: {path}.{index} takes {', '.join(parameters)}, not {missing[0]!r}"
                )
            places = {stream: parameters.index(stream) for stream in streams}
            found.append(Block(f"{path}.{index}", module, places))
    return found


def fingerprint(model: nn.Module) -> str:
    """Hash of the class, the shapes, and the first values of every parameter."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in model.named_parameters():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        head = value.detach().flatten()[:64].float().cpu().contiguous()
        digest.update(head.numpy().tobytes())
    return digest.hexdigest()


def foreign_plan(
    config: Any, blocks: Sequence[Block], n_steps: int, model: str, kind: str
) -> CachePlan:
    """A config of `CACHES` that needs no calibration, or a plan, on a stack of blocks.

    Args:
        config: none, uniform, interval, deepcache or taylor; or a plan for these blocks.
        blocks: of the model; each is a site.
        n_steps: calls of the model in a generation, of one guidance branch.
        model: its fingerprint.
        kind: delta, what a run of blocks adds to its input; or output, what it puts out.

    Raises:
        TypeError: another config. PlanError: a plan for another model, or one that computes blocks
            for nothing.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    sites = tuple(Site(block.name, "block", kind) for block in blocks)
    if isinstance(config, CachePlan):
        plan = config
    else:
        name = getattr(config, "name", None)
        usable = [n for n, method in CACHES.items() if not method.calibrated and n != "plan"]
        if name not in usable or not isinstance(config, CACHES[name].config):
            raise TypeError(f"cache must be a config of {', '.join(usable)}, got {config!r}")
        stack: Any = SimpleNamespace(
            sizes=SimpleNamespace(
                family="blocks", sites=sites, n_layer=len(blocks), branches=("block",)
            ),
            n_inference_steps=n_steps,
            fingerprint=lambda: model,
        )
        plan = CACHES[name].resolve(config, stack)
    if plan.sites != sites:
        raise PlanError("the plan was made for other blocks, or another kind: their sites differ")
    if plan.n_steps != n_steps:
        raise PlanError(f"the plan has {plan.n_steps} steps, the generation {n_steps}")
    if plan.policy != model:
        raise PlanError("the plan was made for another model (fingerprints differ)")
    if plan.bias is not None or plan.decide is not None:
        raise PlanError("a plan of a foreign model can have no bias and no decisions")
    if kind == "output":
        _no_dead_blocks(plan)
    return plan


def _no_dead_blocks(plan: CachePlan) -> None:
    dead = np.argwhere(plan.mask[:, :-1] & ~plan.mask[:, 1:])
    if len(dead):
        step, block = dead[0]
        raise PlanError(
            f"{plan.sites[block].name} is computed in step {step} for nothing: the block after it "
            "puts out a stored value whatever its input is; use kind=delta, or cache it too"
        )


def less(values: Values, others: Values) -> Values:
    """Stream by stream; None where either is."""
    found = []
    for value, other in zip(values, others, strict=True):
        if value is not None and other is not None and value.shape != other.shape:
            raise RuntimeError(
                f"a run of blocks changes a stream from {tuple(other.shape)} to "
                f"{tuple(value.shape)}: it has no delta; let it end where the shape changes"
            )
        found.append(None if value is None or other is None else value - other)
    return tuple(found)


def combined(start: Values | None, terms: Sequence[tuple[Values, float]]) -> Values:
    """Start + sum of coefficient * values, new tensors; a stream that was None stays None."""
    found: list[Tensor | None] = []
    for index in range(len(terms[0][0])):
        total = None if start is None else start[index]
        missing = terms[0][0][index] is None
        for values, coefficient in () if missing else terms:
            value = values[index]
            assert value is not None
            if total is None:
                total = value.clone() if coefficient == 1 else coefficient * value
            else:
                total = torch.add(total, value, alpha=coefficient)
        found.append(None if missing else total)
    return tuple(found)
