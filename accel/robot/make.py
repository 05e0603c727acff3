"""`accelerate`: names instead of configurations, and a calibration from observations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from skipstep.guessing import guess
from skipstep.npz_files import open_npz
from skipstep.observation_arrays import obs_in
from skipstep.observations import n_rows, take

from ..api import accelerated
from ..caches import CACHES
from ..calibration.calibration import MIN_QUERIES, Calibration
from ..calibration.measure import calibrate
from ..plans.plan import CachePlan
from ..protocol import Accelerable
from ..quant import QUANTIZERS, Quantized, Statistics, collect
from ..warm_config import WARM
from .inputs import read
from .live import Hold, LivePolicy, holding
from .policy import RobotPolicy

log = logging.getLogger(__name__)

BATCH = 8  # queries that are watched at once
SHIPPED = "calibration"  # beside a checkpoint: what its policy saw, for this


def accelerate(
    policy: Accelerable,
    cache: Any = None,
    quant: Any = None,
    engine: Any = "fused",
    *,
    sampler: Any = None,
    steps: int | None = None,
    observations: Any = None,
    calibration: Calibration | str | Path | None = None,
    statistics: Statistics | str | Path | None = None,
    seed: int | None = None,
    warm: Any = None,
    realtime: bool = False,
    hold: Hold | None = None,
) -> RobotPolicy:
    """A policy, made cheaper, for a robot's program; close it, or use it as a context.

    What it does is what `accelerated` does, under names: `accelerate(policy, "hash_ab")`. Methods
    that look at queries first (bac, hash_ab, every quantisation) need some: a calibration or
    statistics, or observations from which they are made here, which takes a while. Checkpoints of
    this project bring observations, and those are taken where nothing is given.

    Args:
        policy: from `load_policy`, in eval mode; it stays plain.
        cache: a name (`hash_ab`), a config instance, or a plan that was made before.
        quant: a name (`duquant`), a config instance, or a policy that was quantised before.
        engine: a name or a config instance.
        sampler: the name of another sampler; None: the checkpoint's.
        steps: its network calls a query. Ten trailing DDPM steps are a good first try:
            `sampler="ddpm", steps=10`.
        observations: (M, n_obs_steps, obs_dim) that the robot saw, M at least 8 and from several
            episodes, or a mapping of such arrays; numpy or torch.
        calibration: for a cache; or its file, as runner=calibrate writes it.
        statistics: for a quantisation; or their file.
        seed: of the noise of queries; None: another one each time.
        warm: "chunk" or a `WarmConfig`: queries begin near the last one's chunk, or are joined to
            it, until `reset`.
        realtime: the robot goes on while the policy thinks: a `LivePolicy`, with `step`, `begin`
            and `poll`.
        hold: with `realtime`: the last action (B, action_dim) -> what is done where a chunk has
            ended; None: the same action again, of policies whose actions are absolute.

    Raises:
        ValueError: an unknown name, or a method that needs observations and has none; says the way
            out. Else as `accelerated`.

    Example:
        >>> import numpy as np
        >>> from policies import load_policy
        >>> policy = load_policy("checkpoints/kitchen")
        >>> with accelerate(policy, sampler="ddpm", steps=5, seed=0) as fast:
        ...     actions = fast.act(np.zeros((2, fast.n_obs_steps, fast.obs_dim)))
        >>> actions.shape
        (2, 8, 9)
    """
    cache = _config(CACHES, cache, "cache")
    quant = _config(QUANTIZERS, quant, "quant")
    warm = WARM[warm]() if warm in WARM else warm
    if isinstance(warm, str):
        raise ValueError(f"warm must be one of {', '.join(WARM)}, got {warm!r}")
    if hold is not None and not realtime:
        raise ValueError("hold= needs realtime=True: without, a chunk never ends before the next")
    if sampler is not None or steps is not None:
        policy = policy.with_sampler("checkpoint" if sampler is None else sampler, steps)
    if isinstance(calibration, str | Path):
        calibration = Calibration.load(calibration)
    if isinstance(statistics, str | Path):
        statistics = Statistics.load(statistics)
    if calibration is None and _calibrated(cache):
        seen = _observations(policy, observations, f"cache={cache.name}", "a calibration")
        needs = CACHES[cache.name].needs
        plain: Any = policy
        calibration = calibrate(plain, seen, _noise(n_rows(seen)), statistics=needs)
    if statistics is None and _is_quantiser(quant):
        seen = _observations(policy, observations, f"quant={quant.name}", "statistics")
        statistics = _watched(policy, seen)
    with ExitStack() as stack:
        runs: Any = policy
        if realtime:  # as far as the horizon reaches, for answers that come late
            runs = runs.with_n_action_steps(runs.longest_chunk)
        fast: Any = stack.enter_context(
            accelerated(runs, cache, quant, engine, calibration, statistics, warm=warm)
        )
        if not realtime:
            return RobotPolicy(fast, seed, stack.pop_all())
        held, n = holding(policy, hold), policy.n_action_steps
        return LivePolicy(fast, seed, stack.pop_all(), n, held)


def _config(table: Mapping[str, Any], given: Any, setting: str) -> Any:
    """A name -> its configuration with defaults; anything else as it is."""
    if not isinstance(given, str):
        return given
    if given not in table:
        near = guess(given, table)
        raise ValueError(f"{setting} must be one of {', '.join(table)}, got {given!r}{near}")
    return table[given][0]()


def _calibrated(cache: Any) -> bool:
    known = cache is not None and not isinstance(cache, CachePlan)
    return known and getattr(CACHES.get(getattr(cache, "name", "")), "calibrated", False)


def _is_quantiser(quant: Any) -> bool:
    name = getattr(quant, "name", "none")
    return quant is not None and not isinstance(quant, Quantized) and name != "none"


def _observations(policy: Any, given: Any, method: str, what: str) -> Any:
    """Queries as `encode` takes them: what was given, or what the checkpoint's folder has."""
    if given is None:
        given = _shipped(policy)
    if given is None:
        raise ValueError(
            f"{method} needs {what}: pass observations=(M, {policy.n_obs_steps}, ...) that the "
            "robot saw, or what python run.py runner=calibrate task.checkpoint=... makes"
        )
    aliases = getattr(getattr(policy, "config", None), "aliases", {})
    batch = read(given, policy.obs_spec, aliases, policy.n_obs_steps)
    if batch.n_rows < MIN_QUERIES:
        raise ValueError(
            f"observations must be of at least {MIN_QUERIES} queries, got {batch.n_rows}"
        )
    return batch.observation(policy.obs_spec)


def _shipped(policy: Any) -> Any:
    """The observations beside a checkpoint; None where there are none."""
    origin = getattr(policy, "origin", None)
    files = sorted(Path(origin, SHIPPED).glob("*.npz")) if origin else []
    if not files:
        return None
    log.info("observations from %s", files[0])
    with open_npz(files[0]) as file:
        return obs_in(file)


def _noise(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def _watched(policy: Any, seen: Any) -> Statistics:
    noise, n = _noise(n_rows(seen)), n_rows(seen)
    parts = [slice(i, i + BATCH) for i in range(0, n, BATCH)]
    batches = [(take(seen, part), noise[part]) for part in parts]
    return collect(policy, batches, len(batches), run=lambda _, batch: policy.act(*batch))
