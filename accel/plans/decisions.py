"""Deciding at run time, row by row, whether a denoising step is computed or its blocks reused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..families import family_of

if TYPE_CHECKING:
    from ..protocol import Transparent

MAX_DEGREE = 4
PROBES = ("norm", "residual")


@dataclass(frozen=True)
class Threshold:
    """When the sites from `first` on are computed; otherwise they add what they last added.

    A row of a batch decides by its own probe, so an episode does not depend on which ones share its
    batch. A change of the probe is mean |m - m'| / mean |m'|, rescaled by a polynomial (negative
    values are 0); the sites are computed unless the rescaled change is below `limit`, so also where
    it is not a number, and where it is beyond `most`.

    Attributes:
        probe: norm, the first normalised input with the step's time token; or residual, what the
            sites before `first` added in this step.
        first: site from which on a step is skipped.
        limit: more is faster and less accurate.
        rescale: coefficients, the highest power first.
        most: changes above it were not calibrated.
        accumulates: changes from one step to the next are summed until the sites are computed
            (TeaCache); else the change since they last were counts (FBCache).
        always: steps that are computed in any case, 0 among them.
    """

    probe: str
    first: int
    limit: float
    rescale: tuple[float, ...]
    most: float
    accumulates: bool
    always: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.probe not in PROBES:
            raise ValueError(f"decide.probe must be {' or '.join(PROBES)}, got {self.probe!r}")
        if 0 not in self.always:
            raise ValueError(f"decide.always must hold step 0, got {list(self.always)}")
        if not 1 <= len(self.rescale) <= MAX_DEGREE + 1:
            raise ValueError(
                f"decide.rescale must have 1 to {MAX_DEGREE + 1} coefficients, "
                f"got {len(self.rescale)}"
            )

    @property
    def fitted(self) -> bool:
        """Whether its polynomial follows from a calibration, so from a model's weights."""
        return self.probe == "norm"

    def rescaled(self, change: Tensor) -> Tensor:
        """The polynomial in float64, infinite beyond `most`; NaN stays."""
        change = change.double()
        value = torch.zeros_like(change)
        for coefficient in self.rescale:
            value = value * change + coefficient
        value = torch.where(value < 0, 0.0, value)
        return torch.where(change > self.most, math.inf, value)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `most` is null where it is infinite."""
        most = None if math.isinf(self.most) else self.most
        lists = {"rescale": list(self.rescale), "always": list(self.always)}
        return {**vars(self), **lists, "most": most}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Threshold:
        numbers = [values["limit"], *values["rescale"], *filter(None, [values["most"]])]
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise ValueError("decide.limit, rescale and most must be finite numbers")
        if not all(type(n) is int and n >= 0 for n in (values["first"], *values["always"])):
            raise ValueError("decide.first and always must be whole numbers, at least 0")
        if not isinstance(values["accumulates"], bool):
            raise ValueError("decide.accumulates must be true or false")
        most = math.inf if values["most"] is None else float(values["most"])
        lists = {key: tuple(values[key]) for key in ("rescale", "always")}
        return cls(**{**values, **lists, "most": most})

    def cells(self, trace: np.ndarray, n_sites: int) -> np.ndarray:
        """(N, n_sites) shares of rows that computed each cell.

        Args:
            trace: (rows, N), see `Decisions`.
            n_sites: of the plan.
        """
        found = np.ones((trace.shape[1], n_sites))
        found[:, self.first :] = trace.mean(axis=0)[:, None]
        return found

    def time(self, policy: Transparent) -> Tensor | None:
        """(N, width) what of the probe is known before the query, or None."""
        return time_tokens(policy) if self.probe == "norm" else None


class Decisions:
    """The decisions of one query: what its probe was, what adds up, and which rows compute.

    Args:
        rule: of the plan.
        time: (N, width) the time token of every step, or None; see `Threshold.time`.
    """

    def __init__(self, rule: Threshold, time: Tensor | None = None) -> None:
        self.rule, self.time = rule, time
        self.columns: list[Tensor] = []
        self.before: Tensor | None = None
        self.size: Tensor | None = None  # of `before`, where it is known
        self.total: Tensor | float = 0.0

    @property
    def trace(self) -> np.ndarray:
        """(B, steps so far) bool, true where the sites were computed."""
        return np.asarray(torch.stack(self.columns, dim=1).cpu().numpy())

    @property
    def nbytes(self) -> int:
        """What is kept between steps."""
        return 0 if self.before is None else self.before.nbytes

    def ask(
        self, step: int, probes: Mapping[str, Callable[[], Tensor]], anew: bool = False
    ) -> Tensor:
        """(B,) bool: rows that compute the sites from `rule.first` on.

        Args:
            step: the next one.
            probes: how an engine measures each of `PROBES`, (B, ...); the rule's is taken.
            anew: there is nothing to reuse, so all rows compute; also where the probe's shape is
                another one than before.
        """
        probe = probes[self.rule.probe]()
        now = probe.reshape(len(probe), -1)
        if (
            self.before is None
            or self.before.shape != now.shape
            or anew
            or step in self.rule.always
        ):
            go = torch.ones(len(now), dtype=torch.bool, device=now.device)
            self.total = 0.0
        else:
            go = self._wanted(step, now, self.before)
        self._keep(now, go)
        self.columns.append(go)
        self.latest = now
        return go

    def _wanted(self, step: int, now: Tensor, before: Tensor) -> Tensor:
        """(B,) bool: rows whose probe has changed too much."""
        rule = self.rule
        change, size = extent(now - before), self.size
        if size is None:
            size = self.size = extent(before)
        if self.time is not None:
            change = change + (self.time[step] - self.time[step - 1]).abs().sum()
            size = size + self.time[step - 1].abs().sum()
        total = rule.rescaled(change / size)
        if rule.accumulates:
            total = total + self.total
        go = ~(total < rule.limit)
        self.total = torch.where(go, 0.0, total)
        return go

    def _keep(self, now: Tensor, go: Tensor) -> None:
        """What the next step is compared with: this one, or the last one that was computed."""
        if self.before is None or self.rule.accumulates or bool(go.all()):
            self.before, self.size = now, None
        elif bool(go.any()):
            self.before, self.size = torch.where(go[:, None], now, self.before), None

    def all_computed(self) -> None:
        """After `ask`: what was to be reused does not fit, so every row computes after all."""
        self.columns[-1] = torch.ones_like(self.columns[-1])
        self.total, self.before, self.size = 0.0, self.latest, None


def extent(values: Tensor) -> Tensor:
    """(B, K) -> (B,) sum of magnitudes, float64; a change is |now - before| over |before|."""
    return values.abs().sum(1).double()


def probe_changes(inputs: Tensor, live: int, time: Tensor | None) -> np.ndarray:
    """(B, N) float64: change of the norm probe from the step before, 0 in step 0; as `ask` has it.

    Args:
        inputs: (B, N, tokens, width).
        live: leading tokens that count.
        time: (N, width) token of each step that counts besides, or None.
    """
    m = inputs[:, :, :live].flatten(2).double()
    if time is not None:
        m = torch.cat([m, time.double().expand(len(m), -1, -1)], dim=2)
    change = (m[:, 1:] - m[:, :-1]).abs().sum(dim=2) / m[:, :-1].abs().sum(dim=2)
    return np.asarray(torch.nn.functional.pad(change, (1, 0)).cpu().numpy())


def compiled_rule(rule: Threshold, policy: Transparent) -> dict[str, Any]:
    """The rule as native.c reads it: numbers, and tensors that stay where they are."""
    n_steps, time = policy.n_inference_steps, rule.time(policy)
    changes = torch.zeros(n_steps, 2, dtype=torch.float64)
    if time is not None:
        changes[1:, 0] = (time[1:] - time[:-1]).abs().sum(dim=1)
        changes[1:, 1] = time[:-1].abs().sum(dim=1)
    rescale = [0.0] * (MAX_DEGREE + 1 - len(rule.rescale)) + list(rule.rescale)
    return {
        "norm_probe": rule.probe == "norm",
        "accumulates": rule.accumulates,
        "limit": rule.limit,
        "most": rule.most,
        "rescale": torch.tensor(rescale, dtype=torch.float64),
        "time_change": changes,
        "always": torch.tensor([s in rule.always for s in range(n_steps)]).int(),
    }


def time_tokens(policy: Transparent) -> Tensor | None:
    """(N, width) what of the probe is known before the query, see `Family.time`."""
    return family_of(policy).time(policy)


@contextmanager
def normed(policy: Transparent) -> Iterator[list[Tensor]]:
    """Collects the first branch's normalised input, (B, tokens, n_emb), of every step inside."""
    first = family_of(policy).first
    assert first is not None
    taken = list[Tensor]()

    def take(module: Any, args: Any, out: Any) -> None:
        taken.append(out if isinstance(out, Tensor) else out[0])

    handle = first(policy).register_forward_hook(take)
    try:
        yield taken
    finally:
        handle.remove()
