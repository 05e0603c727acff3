"""One training: networks, optimizer and data; a step depends on the seed and its number alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from policies import DatasetError, DiffusionPolicy, SamplerConfig, Windows
from policies.initial_weights import encoder_weights
from policies.training import (
    EMA,
    Batch,
    diffusion_loss,
    flow_loss,
    flow_times,
    learning_rate,
    optimizer_of,
    recipe_of,
    trajectory_shape,
)
from skipstep.observations import Arrays, each

from ..episodes.loop import evaluate
from ..jobs.dataset import BrokenImageError
from .prepare import TrainJob, precision
from .settings import Training

log = logging.getLogger(__name__)

MAX_VALID = 1024  # windows
INIT, ORDER, NOISE, DROPOUT, VALID, ENCODER = range(6)  # each has its own stream of the seed


def _timesteps(config: Training, n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, config.num_train_timesteps, (n,), generator=generator)


def _times(config: Training, n: int, generator: torch.Generator) -> torch.Tensor:
    flow = config.flow
    shape = (flow.alpha, flow.beta) if flow.times == "beta" else None
    return flow_times(n, generator, shape, flow.most)


OBJECTIVES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "diffusion": (diffusion_loss, _timesteps),
    "flow": (flow_loss, _times),
}
"""What is learnt: objective -> the loss, and what draws the times of a batch."""


class Trainer:
    """Networks, optimizer and data of one training."""

    def __init__(self, job: TrainJob) -> None:
        self.job, self.config = job, job.runner
        self.device = torch.device(job.settings.device)
        policy = DiffusionPolicy(job.policy_config)
        if job.initial:
            policy.load_state_dict(job.initial.state_dict())  # its normaliser too
        else:
            self._start_fresh(policy)
        self.policy = policy.to(self.device).train()
        self.ema = EMA(self.policy, self.config.ema)
        self.optimizer = optimizer_of(self.policy, self.config.lr, self.config.weight_decay)
        self.autocast = precision(self.config, job.settings.device) == "bf16"
        self.amplitude = job.task.noise_amplitude
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def _start_fresh(self, policy: DiffusionPolicy) -> None:
        """Random weights, and a normaliser that fits the training side of the data."""
        recipe_of(policy).initial_weights(policy.model, self.generator(INIT))
        if policy.encoder is not None:
            encoder_weights(policy.encoder, self.generator(ENCODER))
        policy.normalizer.load_state_dict(self.job.normalizer.state_dict())

    def seed(self, *key: int) -> int:
        return int(np.random.SeedSequence((self.config.seed, *key)).generate_state(1, np.uint64)[0])

    def generator(self, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(*key))

    def numbers(self, step: int) -> np.ndarray:
        """The windows of a step: each epoch is a new permutation; the rest of one is left out."""
        n, size = len(self.job.train), self.config.batch_size
        if n <= size:  # the data is smaller than a batch: draw with repetition
            return np.random.default_rng((self.config.seed, ORDER, step)).integers(0, n, size)
        epoch, place = divmod(step, n // size)
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.config.seed, ORDER, epoch))
            self._order = (epoch, rng.permutation(n))
        return self._order[1][place * size : (place + 1) * size]

    def loss(
        self, policy: DiffusionPolicy, windows: Windows, numbers: np.ndarray, *key: int
    ) -> torch.Tensor:
        """Loss on some windows, with the noise that `key` stands for."""
        generator = self.generator(*key)
        noise = None
        if self.config.obs_noise and self.amplitude is not None:
            shape = (len(numbers), windows.horizon, len(self.amplitude))
            uniform = torch.rand(shape, generator=generator).numpy() * 2 - 1
            noise = np.float32(self.config.obs_noise) * self.amplitude * uniform
        obs, action = self._taken(windows, numbers, noise)
        trajectory = torch.randn(trajectory_shape(policy, len(numbers)), generator=generator)
        loss, draw = OBJECTIVES[self.config.objective]
        timesteps = draw(self.config, len(numbers), generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return loss(
                policy,
                Batch(obs, action),
                trajectory.to(self.device),
                timesteps.to(self.device),
            )

    def _taken(self, windows: Windows, numbers: np.ndarray, noise: Any) -> tuple[Arrays, Any]:
        """Windows on the device; images stay bytes until they are there."""
        try:
            obs, action = windows.take(numbers, noise)
        except DatasetError as error:
            raise BrokenImageError(str(error)) from error
        return each(self._there, obs), self._there(action)

    def _there(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array).to(self.device)
        return tensor if array.dtype == np.uint8 else tensor.float()

    def update(self, step: int) -> torch.Tensor:
        """One step; returns its loss."""
        rate = learning_rate(step, self.config.n_steps, self.config.lr, self.config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout has no generator of its own
            torch.manual_seed(self.seed(DROPOUT, step))
            loss = self.loss(self.policy, self.job.train, self.numbers(step), NOISE, step)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.ema.update(self.policy.model, step, self.policy.encoder)
        return loss.detach()

    @torch.no_grad()
    def validate(self) -> float:
        """Loss of the averaged weights on at most MAX_VALID windows, the same every time."""
        windows, size = self.job.valid, self.config.batch_size
        rng = np.random.default_rng((self.config.seed, VALID))
        chosen = rng.permutation(len(windows))[:MAX_VALID]
        total = 0.0
        for n in range(0, len(chosen), size):
            part = chosen[n : n + size]
            total += len(part) * float(self.loss(self.ema.policy, windows, part, VALID, n))
        return total / len(chosen)

    def rollout(self) -> dict[str, float]:
        """A short evaluation of the averaged weights."""
        config = self.config
        sampler: SamplerConfig = self.policy.config.sampler
        most, kind = (config.flow.steps, "euler") if sampler.is_flow else (None, "ddim")
        steps = min(config.rollout_steps, most or sampler.num_train_timesteps)
        quick = self.ema.policy.with_sampler(sampler.with_steps(kind, steps))
        seeds = range(config.rollout_seed, config.rollout_seed + config.rollout_episodes)
        settings = self.job.settings
        results = evaluate(
            quick,
            self.job.task,
            seeds,
            self.job.n_envs,
            settings.noise_seed,
            policy_batch=settings.policy_batch,
            room_for=lambda query: 0,
        )
        ok = [r for r in results if r.status == "ok"]
        if not ok:
            log.warning("every rollout failed")
            return {}
        return {
            "success_rate": float(np.mean([r.success for r in ok])),
            "mean_score": float(np.mean([r.score for r in ok])),
        }
