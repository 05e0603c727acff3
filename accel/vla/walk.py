"""Ours on a live policy: each layer of its expert asks what its attention and its mlp add.

The libraries walk an expert's layers in two ways. SmolVLA and earlier pi0 call q_proj, k_proj,
v_proj, o_proj and mlp by hand; pi0 and openpi call self_attn and mlp as modules. Attention ends in
self_attn where that is called, else in o_proj; what leads up to it is not computed on a hit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..protocol import StepBranch
from .once import Once
from .order import Order
from .patches import Patches
from .structure import Vla

WALKERS = ("forward_attn_layer", "forward_cross_attn_layer")  # of SmolVLA's joint module
ARGUMENTS = ("model_layers", "inputs_embeds", "layer_idx")  # that they have
Compute = Callable[..., Any]


class Listener(Protocol):
    """What goes on around the sites of a query."""

    def begin(self, args: Any, kwargs: Any) -> StepBranch: ...

    def skips(self, step: int, site: int) -> bool: ...

    def denoises(self) -> None: ...

    def end(self) -> None: ...

    def failed(self) -> None: ...


class Walk:
    """The sites of a live policy's expert, two for each layer: attention, mlp.

    Args:
        vla: the policy.
        names: of the sites.
        listener: gives each query its branch.
    """

    def __init__(self, vla: Vla, names: tuple[str, ...], listener: Listener) -> None:
        self.vla, self.listener = vla, listener
        self.order = Order(names, vla.n_steps)
        self.on = False
        self.projections: list[Once] = []
        self._patches = Patches()
        self._asked = False
        self._inside = -1  # the layer whose self_attn is being computed
        self._skipped = -1  # the layer whose attention has stand-ins for numbers
        self._tails: dict[int, int] = {}
        self._walkers: dict[str, bool] = {}
        self._branch: StepBranch | None = None
        self._index = {id(layer.module): i for i, layer in enumerate(vla.layers)}

    def put(self) -> None:
        """On the policy.

        Raises:
            RuntimeError: it is on, or another tool has replaced a verb of the core.
        """
        core, joint = self.vla.core, self.vla.joint
        for owner, verb in ((core, "sample_actions"), (core, "denoise_step"), (joint, "forward")):
            if verb in vars(owner):
                raise RuntimeError(
                    f"{type(owner).__name__}.{verb} has been replaced, by torch.compile or another "
                    f"acceleration: load the policy with compile_model=False (openpi: del "
                    f"model.{verb}), or take the other off first"
                )
        self._patches.put(core, "sample_actions", self._sample)
        self._patches.put(core, "denoise_step", self._denoise)
        for name in WALKERS:
            walker: Any = getattr(joint, name, None)
            if _takes(walker, ARGUMENTS):
                self._patches.put(
                    joint, name, partial(self._walked, name, inspect.signature(walker))
                )
        for i, layer in enumerate(self.vla.layers):
            self._put_layer(i, layer.module)
        self.on = True

    def _put_layer(self, i: int, layer: Any) -> None:
        attention = layer.self_attn
        self._patches.put(attention, "forward", partial(self._attention, i))
        for name in ("q_proj", "k_proj", "v_proj"):
            module = getattr(attention, name)
            once = None if name == "q_proj" else Once()
            if once is not None:
                self.projections.append(once)
            self._patches.put(module, "forward", partial(self._projection, i, module, once))
        self._patches.put(attention.o_proj, "forward", partial(self._output, i))
        self._patches.put(layer.mlp, "forward", partial(self._mlp, i))

    def take(self) -> None:
        """Off again; the policy is as it was."""
        self.on = False
        self._patches.take()
        self.projections = []
        self._forget()

    def _forget(self) -> None:
        self._branch, self.order.inside, self._asked = None, False, False
        self._inside = self._skipped = -1
        for once in self.projections:
            once.clear()

    # --- a query

    def _sample(self, compute: Compute, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return compute(*args, **kwargs)
        self._asked = True
        self.order.begin_query()
        try:
            self._branch = self.listener.begin(args, kwargs)
            out = compute(*args, **kwargs)
            self.order.end_query()
            self.listener.end()
        except BaseException:
            self.listener.failed()
            raise
        finally:
            self._forget()
        return out

    def _denoise(self, compute: Compute, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return compute(*args, **kwargs)
        if not self._asked:
            raise RuntimeError(
                "denoise_step was called outside of sample_actions, so the step is not known: call "
                "sample_actions, or what calls it (predict_action_chunk, select_action)"
            )
        if self.order.step < 0:
            self.listener.denoises()
        self.order.begin_step()
        out = compute(*args, **kwargs)
        self.order.end_step()
        return out

    # --- a step

    def _hit(self, layer: int) -> bool:
        return self.order.inside and self.listener.skips(self.order.step, 2 * layer)

    def _ask(self, site: int, compute: Callable[[], Tensor]) -> Tensor:
        """What a site adds; a copy, since the models add to it in place."""
        self.order.arrive(site)
        assert self._branch is not None
        return self._branch(self.order.step, site, compute).clone()

    def _mlp(self, layer: int, compute: Compute, *args: Any, **kwargs: Any) -> Any:
        if not self.order.inside:
            return compute(*args, **kwargs)
        return self._ask(2 * layer + 1, lambda: compute(*args, **kwargs))

    def _attention(self, layer: int, compute: Compute, *args: Any, **kwargs: Any) -> Any:
        """Where it is called as a module; it returns what it adds, or that and more."""
        if not self.order.inside:
            return compute(*args, **kwargs)
        rest: list[Any] = []

        def whole() -> Tensor:
            with self._within(layer):
                out = compute(*args, **kwargs)
            if isinstance(out, Tensor):
                self._tails[layer] = -1
                return out
            rest.extend(out[1:])
            self._tails[layer] = len(rest)
            added: Tensor = out[0]
            return added

        value = self._ask(2 * layer, whole)
        tail = self._tails[layer]
        return value if tail < 0 else (value, *(rest or [None] * tail))

    @contextmanager
    def _within(self, layer: int) -> Iterator[None]:
        self._inside = layer
        try:
            yield
        finally:
            self._inside = -1

    def _output(self, layer: int, compute: Compute, *args: Any, **kwargs: Any) -> Any:
        if not self.order.inside or self._inside == layer:
            return compute(*args, **kwargs)

        def added() -> Tensor:
            if self._skipped == layer:
                raise RuntimeError(f"{self.vla.layers[layer].path}: attention was left out")
            out: Tensor = compute(*args, **kwargs)
            return out

        value = self._ask(2 * layer, added)
        self._skipped = -1
        return value

    def _projection(
        self, layer: int, module: Any, once: Once | None, compute: Compute, x: Tensor
    ) -> Tensor:
        if not self.order.inside:
            out: Tensor = compute(x)
            return out
        if self._inside != layer and self._hit(layer):
            self._skipped = layer
            return _stand_in(module, x.shape[:-1], module.out_features)
        out = compute(x) if once is None else once(compute, x)
        return out

    def _walked(
        self, name: str, signature: inspect.Signature, compute: Compute, *args: Any, **kwargs: Any
    ) -> Any:
        """SmolVLA's attention of one layer: a list of what enters o_proj, and the keys."""
        if not self.order.inside:
            return compute(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        module = given["model_layers"][1][given["layer_idx"]]
        layer = self._index.get(id(module), -1)
        keys = given.get("past_key_values")
        if layer >= 0 and self._walkers.get(name) and self._hit(layer):
            self._skipped = layer
            shape, output = given["inputs_embeds"][1].shape[:-1], module.self_attn.o_proj
            return [_stand_in(output, shape, output.in_features)], keys
        out = compute(*args, **kwargs)
        if layer >= 0:
            self._walkers[name] = _is_walked(out, keys)
        return out


def _takes(function: Any, names: tuple[str, ...]) -> bool:
    return callable(function) and set(names) <= set(inspect.signature(function).parameters)


def _is_walked(out: Any, keys: Any) -> bool:
    """Whether it is one tensor in a list, and the keys as they came."""
    if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[0], list):
        return False
    return len(out[0]) == 1 and isinstance(out[0][0], Tensor) and out[1] is keys


def _stand_in(module: Any, shape: torch.Size, width: int) -> Tensor:
    """Of the right shape and type, with one zero as memory: nothing is computed with it."""
    weight = module.weight
    zero = torch.zeros(1, dtype=weight.dtype, device=weight.device)
    return zero.expand(*shape, width)
