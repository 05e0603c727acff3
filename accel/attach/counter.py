"""Counting the calls of a model, for callers that do not say which step comes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Scale = float | Callable[[float], float]
Timesteps = Sequence[float] | Callable[[], Sequence[float]]


class StepCounter:
    """The model's own timestep must be that of the counted step, so the count cannot drift.

    A call with the timestep of the call before is the next guidance branch, one with the next
    step's is that step; so guidance may begin late and stop early.

    Args:
        model: whose calls are counted.
        timesteps: of the steps, as the scheduler has them, or what gives them when a generation
            begins.
        n_steps: how many they must be.
        timestep: the model's argument that holds it.
        branches: that call in turn.
        scale: a factor, or a function of a timestep, that gives what the model gets.

    Raises:
        ValueError: the model takes no such argument, or another number of timesteps.
    """

    def __init__(
        self,
        model: nn.Module,
        timesteps: Timesteps,
        n_steps: int,
        timestep: str,
        branches: Sequence[str],
        scale: Scale = 1.0,
    ) -> None:
        names = list(inspect.signature(model.forward).parameters)
        if timestep not in names:
            raise ValueError(f"timestep: {type(model).__name__} takes no {timestep!r}")
        self.name, self.place, self.branches = timestep, names.index(timestep), tuple(branches)
        self.timesteps, self.n_steps, self.scale = timesteps, n_steps, scale
        self.expected = [] if callable(timesteps) else self._read(timesteps)
        self.reset()

    def _read(self, timesteps: Sequence[float]) -> list[float]:
        if len(timesteps) != self.n_steps:
            raise ValueError(f"timesteps must be {self.n_steps}, one a step, got {len(timesteps)}")
        given = [float(t) for t in timesteps]
        return [self.scale(t) if callable(self.scale) else t * self.scale for t in given]

    def reset(self) -> None:
        """The next call is step 0."""
        self.step, self.calls = -1, 0  # calls of this step
        self._last: float | None = None

    def count(self, args: Any, kwargs: Mapping[str, Any]) -> tuple[int, str]:
        """The step and branch of a call, from its arguments; step 0 is of a new generation.

        Raises:
            RuntimeError: its timestep is of no step that can come now.
        """
        value = kwargs[self.name] if self.name in kwargs else args[self.place]
        now = timestep_of(value)[0]
        if now == self._last and self.calls < len(self.branches):
            self.calls += 1
        else:
            following = (self.step + 1) % self.n_steps
            if following == 0 and callable(self.timesteps):
                self.expected = self._read(self.timesteps())
            if not self._is(following, value):
                raise RuntimeError(self._words(following, value))
            self.step, self.calls, self._last = following, 1, now
        return self.step, self.branches[self.calls - 1]

    def _is(self, step: int, value: Any) -> bool:
        """Whether it is the step's timestep to the rounding of its type.

        A pipeline casts before or after it scales, so both count: an error of one epsilon.
        """
        now, kind = timestep_of(value)
        if not kind.is_floating_point:
            return abs(now - self.expected[step]) < 1
        room = max(torch.finfo(kind).eps, torch.finfo(torch.float32).eps)
        return abs(now - self.expected[step]) <= room * max(abs(now), abs(self.expected[step]))

    def _words(self, step: int, value: Any) -> str:
        now = timestep_of(value)[0]
        return (
            f"the model was called with timestep {now:g}, step {step} has "
            f"{self.expected[step]:g}: an earlier generation ended early (call begin() before a "
            "generation), another sampler runs (timesteps must be those that the pipeline sends), "
            "or it scales them (timestep_scale=0.001 where it sends t / 1000)"
        )


def timestep_of(value: Any) -> tuple[float, torch.dtype]:
    """A call's timestep and its type; the largest where tokens have timesteps of their own."""
    if isinstance(value, Tensor):
        return float(value.detach().max()), value.dtype
    return float(value), torch.float32
