"""What computes a quantised layer when its module is called, in a model of any library."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from ..kernels.native import portions, together
from .choice import exact
from .kernels import KERNELS, refusal
from .linear import QuantisedLinear
from .native_linear import NativeLinear

log = logging.getLogger(__name__)

BACKENDS = ("auto", "native", "torch")
CHUNK = 256  # rows of a call of C: their codes stay in cache while all columns pass
LEAST = 16  # rows for which another thread pays


class Native:
    """Computes a layer through C: packed when it is first called, and again after any change of it.

    A row's numbers do not depend on the other rows, so rows are parted among threads.
    """

    def __init__(self) -> None:
        self.packed: NativeLinear | None = None
        self.key: tuple[Any, ...] = ()

    @_disable_dynamo  # as torch.compiler.disable, which imports torch._dynamo at once: seconds
    def __call__(self, layer: QuantisedLinear, x: Tensor) -> Tensor:
        """(T, K) float32 -> (T, N)."""
        if x.device.type != "cpu" or layer.codes.device.type != "cpu":
            return layer.plain(x)
        key = _state_of(layer)
        if self.packed is None or key != self.key:
            self.packed, self.key = NativeLinear(layer), key
        rows, threads = len(x), torch.get_num_threads()
        workers = max(1, min(threads, rows // LEAST))
        parts = portions(rows, max(workers, -(-rows // CHUNK)))
        if len(parts) == 1:
            return self.packed(x)
        out = torch.empty(rows, layer.out_features)
        packed, x = self.packed, x.contiguous()

        def compute(part: slice) -> None:
            out[part] = packed(x[part])

        together([lambda part=part: compute(part) for part in parts], workers)  # type: ignore[misc]
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Native:
        return Native()

    def __reduce__(self) -> tuple[type[Native], tuple[()]]:
        return Native, ()


def _state_of(layer: QuantisedLinear) -> tuple[Any, ...]:
    """What changes with any buffer that is replaced or written to."""
    return tuple(
        (t.data_ptr(), 0 if t.is_inference() else t._version)
        for t in layer._buffers.values()
        if t is not None
    )


def quantised_layers(model: nn.Module) -> dict[str, QuantisedLinear]:
    """{name: layer}, a layer that has several places under its first name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantisedLinear)}


def kernel_of(layer: QuantisedLinear) -> str:
    """What computes it when its module is called: native or torch."""
    return "torch" if layer.executor is None else "native"


def execute(model: nn.Module, backend: str = "auto") -> dict[str, str]:
    """Choose what computes the quantised layers of a model, in place.

    Args:
        model: with quantised layers.
        backend: torch (the reference), native (C, on a CPU), or auto: native for each layer that it
            can run and of which it gives the numbers on a check, else torch.

    Returns:
        {layer: kernel}.

    Raises:
        ValueError: another backend, or native where it cannot run, by layer.
    """
    check_backend(backend)
    chosen = {}
    for name, layer in quantised_layers(model).items():
        reason = "" if backend == "torch" else refusal("native", layer)
        if not reason and backend != "torch" and not exact("native", layer, LEAST, KERNELS):
            reason = "it computes something else than torch there"
        if reason and backend == "native":
            raise ValueError(f"backend native cannot run layer {name}: {reason}")
        native = backend != "torch" and not reason
        layer.executor = Native() if native else None
        chosen[name] = kernel_of(layer)
    return chosen


def check_backend(backend: str) -> None:
    """Refuse another name."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


class Watch:
    """Says after the first call of a quantised model if none of its quantised layers ran in it.

    A copy of a model may go on calling the original's blocks, through a function that holds them.
    """

    def __call__(self, model: nn.Module, args: Any, output: Any) -> None:
        for key, hook in list(model._forward_hooks.items()):
            if isinstance(hook, Watch):
                del model._forward_hooks[key]
        layers = quantised_layers(model)
        if layers and not any(layer.ran for layer in layers.values()):
            log.warning(
                "none of the %d quantised layers ran in this call of the model, %s and others: the "
                "model reaches its blocks in another way than through its modules (a function that "
                "holds them?), and its output is the one of full precision",
                *(len(layers), next(iter(layers))),
            )


def watch(model: nn.Module) -> None:
    """Let a model say so, see `Watch`."""
    model.register_forward_hook(Watch())
