"""Warm starts: a query begins near the last one's chunk instead of in pure noise.

Consecutive chunks see nearly the same world. What the last one says of the steps to come, shifted
by what was executed, is noised to the level of a step of the sampler's list, and denoising goes on
from there: of N network calls those before that step are saved. (Streaming Diffusion Policy, Hoeg
et al. 2024, arXiv 2406.04806, and Falcon, Chen et al. 2025, arXiv 2503.00339, keep chunks at
several levels of noise; here one level is chosen, and a full query falls in where a scene jumped.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipstep.starts import RowNoise, Started

from .joining import weights
from .protocol import Accelerable, Memories, Noise, Observation
from .warm_config import WarmConfig

KEY = "chunk"  # in an episode's memory
EXECUTED = "executed"  # there too: actions since the last query; without, `n_action_steps`
COMMITTED = "committed"  # there too: actions of the last chunk still to be executed; without, none


@dataclass(frozen=True)
class Chunk:
    """What an episode's memory keeps of its last query.

    Attributes:
        actions: (n, action_dim) normalised, from the first executed one to the horizon's end.
        seen: (cond_dim,) the newest observation, normalised.
    """

    actions: Tensor
    seen: Tensor


class WarmStarted:
    """Acts like an accelerated policy; with a memory, its queries begin where the last one ended.

    Args:
        policy: whose queries they are.
        full, tail: it, and it from the config's step on, accelerated, both with the longest chunk.
        config: see `WarmConfig`.
    """

    keeps_memory = True

    def __init__(self, policy: Accelerable, full: Any, tail: Any, config: WarmConfig) -> None:
        self.policy, self.full, self.tail, self.config = policy, full, tail, config
        self.n_obs_steps, self.n_action_steps = policy.n_obs_steps, policy.n_action_steps
        self.obs_dim, self.action_dim = policy.obs_dim, policy.action_dim
        self.plan, self.engine, self.quantised = full.plan, full.engine, full.quantised
        self.rows = {"full": 0, "warm": 0}
        level = float(policy.alpha_bar[config.start])
        self.signal, self.sigma = level**0.5, (1 - level) ** 0.5

    @property
    def n_queries(self) -> int:
        """Rows that were asked."""
        return sum(self.rows.values())

    @property
    def obs_spec(self) -> Any:
        """The policy's."""
        return self.policy.obs_spec

    def act(self, obs: Observation, noise: Noise, memory: Memories = None) -> Tensor:
        """Observations -> (B, n_action_steps, action_dim); arguments as the policy's.

        memory: one dict a row, kept by whoever runs the episode and emptied at its reset; None: a
            full query. A row's noise is then a generator of its own. Who executes another number
            of actions than `n_action_steps` between two queries says so in it: `EXECUTED`.
        """
        self.policy.check(obs, noise)
        return self.denoise(self.encode(obs, memory), noise, memory)

    def encode(self, obs: Observation, memory: Memories = None) -> Tensor:
        """Observations -> (B, n_obs_steps, cond_dim); arguments as the policy's."""
        cond: Tensor = self.full.encode(obs, memory)
        return cond

    def denoise(self, cond: Tensor, noise: Noise, memory: Memories = None) -> Tensor:
        """What `encode` gave -> (B, n_action_steps, action_dim); see `act`."""
        if memory is None or isinstance(noise, torch.Generator):
            self.rows["full"] += len(cond)
            actions: Tensor = self.full.denoise(cond, noise)
            return actions[:, : self.n_action_steps]
        last = [self._last(kept, cond[row, -1]) for row, kept in enumerate(memory)]
        is_warm = torch.tensor([chunk is not None for chunk in last])
        self.rows["warm"] += int(is_warm.sum())
        self.rows["full"] += len(is_warm) - int(is_warm.sum())
        started = [self._begun(*row) for row in zip(noise, last, memory, strict=True)]
        if is_warm.all():
            actions = self.tail.denoise(cond, started)
        elif not is_warm.any():
            actions = self.full.denoise(cond, noise)
        else:  # every row both ways, so that a batch has the same size whatever its rows are
            spare = [_copied(row) for row in noise]
            cold = self.full.denoise(cond, _either(is_warm, spare, noise))
            warm = self.tail.denoise(cond, _either(is_warm, started, [_copied(r) for r in noise]))
            actions = torch.where(is_warm[:, None, None], warm, cold)
        self._keep(memory, cond, actions)
        return actions[:, : self.n_action_steps]

    def _last(self, kept: dict[str, Any], seen: Tensor) -> Chunk | None:
        """The last chunk, where this query may begin near it."""
        chunk: Chunk | None = kept.get(KEY) if self.config.active else None
        if chunk is None or self.config.jump is None:
            return chunk
        change = float((seen - chunk.seen).square().mean().sqrt())
        return chunk if change <= self.config.jump else None

    def _begun(self, noise: RowNoise, chunk: Chunk | None, kept: dict[str, Any]) -> RowNoise:
        if chunk is None or isinstance(noise, Started):
            return noise
        sizes, n = self.policy.sizes, len(chunk.actions)
        length = self.policy.n_tokens - int(sizes.encoder_only)
        first = self.policy.first_action
        shift = int(kept.get(EXECUTED, self.n_action_steps))
        place = torch.arange(length) - first + shift
        guess = torch.zeros(length, sizes.input_dim)
        guess[:, : self.action_dim] = chunk.actions[place.clamp(0, n - 1)]
        known = place < n if self.config.fill == "noise" else torch.ones(length, dtype=torch.bool)
        weight = weights(self.config.join, place, n, shift, int(kept.get(COMMITTED, 0)))
        known = known if self.config.start else torch.zeros_like(known)
        return Started(noise, guess, known, self.signal, self.sigma, weight)

    def _keep(self, memory: Sequence[dict[str, Any]], cond: Tensor, actions: Tensor) -> None:
        normalised = self.policy.normalizer.normalize("action", actions)
        for row, kept in enumerate(memory):
            kept[KEY] = Chunk(normalised[row], cond[row, -1].clone())

    def uncounted(self) -> WarmStarted:
        """The same engines, whose queries `stats` of this one does not count."""
        return WarmStarted(self.policy, self.full, self.tail, self.config)

    def stats(self) -> dict[str, Any]:
        """As `AcceleratedPolicy.stats`, over the rows of all queries.

        Returns:
            what that has, where `computed`, `hits` and `flops` are means over full and warm rows,
            and "warm": {"from", "rows", "warm_rows", "calls": network calls of a row's query}.
        """
        full, tail, start = self.full.stats(), self.tail.stats(), self.config.start
        n, n_warm = self.n_queries, self.rows["warm"]
        computed = self.rows["full"] * _share(full)
        computed[start:] += n_warm * _share(tail)
        shares = {"full": self.rows["full"] / max(n, 1), "warm": n_warm / max(n, 1)}
        costs = full["flops"], tail["flops"]
        known = all(cost is not None for cost in costs)
        steps = len(computed)
        return {
            **full,
            "n_queries": n,
            "computed": computed.tolist(),
            "hits": (n - computed).tolist(),
            "flops": round(_mean(shares, costs)) if known else None,
            "cache_bytes": max(full["cache_bytes"], tail["cache_bytes"]),
            "warm": {
                "from": start,
                "rows": n,
                "warm_rows": n_warm,
                "calls": steps - shares["warm"] * start,
            },
        }


def _mean(shares: dict[str, float], costs: tuple[int, int]) -> float:
    """FLOPs of a query, of full and warm ones as there were."""
    return shares["full"] * costs[0] + shares["warm"] * costs[1]


def _share(stats: dict[str, Any]) -> np.ndarray:
    """(steps, sites) of cells that are computed in a query."""
    computed: np.ndarray = np.asarray(stats["computed"], dtype=np.float64)
    return computed / max(int(stats["n_queries"]), 1)


def _copied(noise: RowNoise) -> RowNoise:
    """A generator in the same state, which is of no consequence to the first one."""
    if isinstance(noise, Started):
        return noise
    copy = torch.Generator()
    copy.set_state(noise.get_state())
    return copy


def _either(
    which: Tensor, where: Sequence[RowNoise], elsewhere: Sequence[RowNoise]
) -> list[RowNoise]:
    return [a if w else b for w, a, b in zip(which.tolist(), where, elsewhere, strict=True)]
