"""Counting the calls of a model, for callers that do not say which step comes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class StepCounter:
    """The model's own timestep must be that of the counted step, so the count cannot drift.

    Args:
        model: whose calls are counted.
        timesteps: of the steps.
        timestep: the model's argument that holds it.
        branches: that call in turn.

    Raises:
        ValueError: the model takes no such argument.
    """

    def __init__(
        self, model: nn.Module, timesteps: Sequence[float], timestep: str, branches: Sequence[str]
    ) -> None:
        names = list(inspect.signature(model.forward).parameters)
        if timestep not in names:
            raise ValueError(f"timestep: {type(model).__name__} takes no {timestep!r}")
        self.timesteps, self.name, self.place = timesteps, timestep, names.index(timestep)
        self.branches, self.calls = tuple(branches), 0

    def watch(
        self, model: nn.Module, begin: Callable[[], None], step: Callable[[int, str], None]
    ) -> Any:
        """Call `begin` and `step` before the model's calls; returns the hook's handle."""

        def count(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            if self.calls == len(self.timesteps) * len(self.branches):
                begin()
            number, branch = divmod(self.calls, len(self.branches))
            self._check(number, kwargs[self.name] if self.name in kwargs else args[self.place])
            self.calls += 1
            step(number, self.branches[branch])

        return model.register_forward_pre_hook(count, with_kwargs=True)

    def _check(self, step: int, value: Any) -> None:
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
        if now != float(self.timesteps[step]):
            raise RuntimeError(
                f"the model was called with timestep {now:g}, step {step} has "
                f"{float(self.timesteps[step]):g}: an earlier generation ended early or another "
                "sampler runs; call begin() before a generation"
            )
