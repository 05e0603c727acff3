"""An accelerated policy in a robot's program: what it is shown, what it answers, how long it took.

`act` is asked once a chunk, `select_action` at every step (as LeRobot's), and `predict_action` with
a dictionary (as diffusion_policy's).
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..accelerated_policy import AcceleratedPolicy
from ..protocol import Noise
from ..warm import WarmStarted
from .inputs import Batch, read
from .queues import Queues

KEPT = 1000  # latencies


class Predicted(dict[str, Tensor]):
    """What `predict_action` returns; says why the rest of the reference's answer is missing."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(
            f"{name} is not computed: an accelerated policy computes what is executed, which is "
            '["action"]; the plain policy\'s predict_action has the rest'
        )


class RobotPolicy:
    """What `accelerate` makes; a context manager too, at whose end it is closed.

    Args:
        fast: an accelerated policy.
        seed: of the noise of queries that are given none; None: another one each time.
        open_until_closed: what ends with `close`.
    """

    def __init__(
        self,
        fast: AcceleratedPolicy | WarmStarted,
        seed: int | None,
        open_until_closed: ExitStack,
    ) -> None:
        self.fast, self._open = fast, open_until_closed
        self.n_obs_steps, self.n_action_steps = fast.n_obs_steps, fast.n_action_steps
        self.obs_dim, self.action_dim, self.obs_spec = fast.obs_dim, fast.action_dim, fast.obs_spec
        self.seed = secrets.randbits(63) if seed is None else seed
        self.n_queries = 0
        config = getattr(fast.policy, "config", None)
        self._aliases: Mapping[str, str] = getattr(config, "aliases", {})
        self._queues = Queues(self.n_obs_steps)
        self._memory: list[dict[str, Any]] = []
        self._latencies: deque[float] = deque(maxlen=KEPT)

    def act(self, obs: Any, seed: int | None = None, noise: Noise | None = None) -> Any:
        """The actions that are to be executed next.

        Args:
            obs: the last `n_obs_steps` observations, oldest first, in the units of the world: an
                array (n_obs_steps, obs_dim), of numpy or torch and of any real type, or a mapping
                of named arrays (n_obs_steps, ...), or either with an axis of rows before.
            seed: of the noise: row i has that of `torch.Generator().manual_seed(seed + i)`. None:
                the policy's own, which goes on from query to query.
            noise: generators in the place of a seed, as `DiffusionPolicy.act` takes them.

        Returns:
            (n_action_steps, action_dim), or (B, n_action_steps, action_dim) of rows; numpy where
            the observations were.

        Raises:
            ValueError: what does not fit, by name, or is not finite, by name and index. TypeError:
                what is no array. RuntimeError: the policy is closed.

        Example:
            >>> from policies import load_policy
            >>> from accel.robot import accelerate
            >>> policy = load_policy("checkpoints/kitchen")
            >>> with accelerate(policy, sampler="ddpm", steps=5) as fast:
            ...     actions = fast.act(np.zeros((fast.n_obs_steps, fast.obs_dim)), seed=0)
            >>> type(actions).__name__, actions.shape
            ('ndarray', (8, 9))
        """
        batch = read(obs, self.obs_spec, self._aliases, self.n_obs_steps)
        return batch.returned(self._query(batch, self._noise(batch.n_rows, seed, noise)))

    def predict_action(self, obs_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """As the policies of diffusion_policy: {"obs": (B, n_obs_steps, obs_dim)} -> {"action"}.

        Observations of several arrays stand under "obs" or in its place. More than `n_obs_steps`
        steps may be given, of which the first count, as there. The noise comes from torch's default
        generator, so `torch.manual_seed` decides it.

        Returns:
            {"action": (B, n_action_steps, action_dim)}, a tensor.
        """
        obs = obs_dict.get("obs", obs_dict)
        obs = (
            {name: self._first(name, array) for name, array in obs.items()}
            if isinstance(obs, Mapping)
            else self._first("state", obs)
        )
        batch = read(obs, self.obs_spec, self._aliases, self.n_obs_steps)
        actions = self._query(batch, torch.default_generator)
        return Predicted(action=actions[0] if batch.one_row else actions)

    def select_action(self, batch: Mapping[str, Any] | Any) -> Any:
        """The action of this step, as LeRobot's policies: call it at every step, reset() between.

        Args:
            batch: the newest observation, arrays (B, ...) or (...) by LeRobot's names
                (`observation.state`), the checkpoint's or ours; or one array. What the policy does
                not see (`task`, `action`) is left out.

        Returns:
            (B, action_dim) or (action_dim,), in the units of the world; numpy where the
            observations were.
        """
        seen = read(batch, self.obs_spec, self._aliases, None, others=True)
        self._queues.see(seen)
        if not self._queues.actions:
            history = Batch(self._queues.history(), seen.one_row, seen.numpy)
            actions = self._query(history, self._noise(history.n_rows, None, None))
            self._queues.actions.extend(actions.unbind(1))
        return seen.returned(self._queues.actions.popleft())

    def reset(self) -> None:
        """A new episode begins: what was seen and is still to be done is forgotten.

        Call it also before `act` goes on with another episode where the policy was accelerated
        with `warm`, whose queries begin near the last one's chunk.
        """
        self._queues.reset()
        self._memory.clear()

    @property
    def latency_ms(self) -> dict[str, float]:
        """Of the last thousand queries, encoding included: last, p50, p95, max; {} before one."""
        if not self._latencies:
            return {}
        times = np.array(self._latencies)
        p50, p95 = np.percentile(times, (50, 95)).tolist()
        return {"last": self._latencies[-1], "p50": p50, "p95": p95, "max": max(self._latencies)}

    def stats(self) -> dict[str, Any]:
        """What ran so far, see `AcceleratedPolicy.stats`."""
        return self.fast.stats()

    def close(self) -> None:
        """Give back what the engine holds; asking it again is an error."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _first(self, name: str, array: Any) -> Any:
        """The first `n_obs_steps` steps of what has an axis of rows and one of steps."""
        spec = self.obs_spec.arrays.get(self._aliases.get(name, name))
        if spec is None or getattr(array, "ndim", 0) != len(spec.shape) + 2:
            return array
        return array[:, : self.n_obs_steps]

    def _noise(self, n_rows: int, seed: int | None, noise: Noise | None) -> Noise:
        if noise is not None:
            if seed is not None:
                raise ValueError("seed and noise are two ways to say the same: give one of them")
            return noise
        if seed is None:
            drawn = [(self.seed, self.n_queries, row) for row in range(n_rows)]
            words = [np.random.SeedSequence(d).generate_state(1, np.uint64)[0] for d in drawn]
            seeds = [int(word) >> 1 for word in words]
        else:
            seeds = [seed + row for row in range(n_rows)]
        return [torch.Generator().manual_seed(s) for s in seeds]

    def _kept(self, n_rows: int) -> list[list[dict[str, Any]]]:
        """The memory of each row, where the policy has one."""
        if not getattr(self.fast, "keeps_memory", False):
            return []
        if self._memory and len(self._memory) != n_rows:
            raise ValueError(
                f"observations must have {len(self._memory)} rows as those before them, got "
                f"{n_rows}: call reset() where a new episode begins"
            )
        self._memory = self._memory or [{} for _ in range(n_rows)]
        return [self._memory]

    def _query(self, batch: Batch, noise: Noise) -> Tensor:
        start = time.perf_counter()
        actions = self.fast.act(batch.observation(self.obs_spec), noise, *self._kept(batch.n_rows))
        if actions.is_cuda:
            torch.cuda.synchronize(actions.device)
        self._latencies.append((time.perf_counter() - start) * 1e3)
        self.n_queries += 1
        return actions
