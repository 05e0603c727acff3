"""The library call: a policy, made cheaper for as long as a context lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .accelerated_policy import AcceleratedPolicy
from .calibration.calibration import Calibration
from .chosen import quantized, resolve
from .engines import ENGINES, resolve_engine
from .protocol import Accelerable
from .quant import Quantized, Statistics
from .quant.hashes import fingerprint
from .warm import WarmStarted
from .warm_config import WarmConfig, check_warm


@contextmanager
def accelerated(
    policy: Accelerable,
    cache: Any = None,
    quant: Any = None,
    engine: Any = "fused",
    calibration: Calibration | None = None,
    statistics: Statistics | None = None,
    kernels: Mapping[str, str] | None = None,
    sampler: Any = None,
    steps: int | None = None,
    warm: WarmConfig | None = None,
) -> Iterator[AcceleratedPolicy | WarmStarted]:
    """Run a policy with a cache and a quantisation; `policy` itself stays plain all the while.

    Args:
        policy: a `DiffusionPolicy` in eval mode.
        cache: a config instance of `CACHES`, a `CachePlan` made for this policy, or None.
        quant: a config instance of `QUANTIZERS`, a `Quantized` made from this policy, or None.
        engine: a name in `ENGINES`, or a config instance of them; fused with its defaults is
            reference for a UNet.
        calibration: of this policy and its sampler, for methods that need one (bac, hash_ab).
        statistics: of this policy and its sampler, for a quantisation.
        kernels: {layer: kernel} of quantised layers, as `stats` has them; None: see `kernels_of`.
        sampler: another one over the policy's diffusion process: a name (ddpm, ddim, dpmpp), or a
            whole `SamplerConfig`, as `policies.choose_sampler` makes one with any other settings;
            None: the policy's own.
        steps: network calls of a query under that name (5 of ddpm are "trailing": evenly spaced
            from the noisiest timestep on); None: the policy's.
        warm: queries with a memory begin near the last one's chunk, see `WarmConfig`; without a
            cache.

    Raises:
        TypeError: an unknown config, or steps beside a `SamplerConfig`. ValueError: an unknown
            engine, a plan, a calibration or statistics for another policy, or none where they are
            needed.

    Example:
        >>> import torch
        >>> from accel import UniformConfig
        >>> from policies import load_policy
        >>> policy = load_policy("checkpoints/kitchen")
        >>> obs, noise = torch.zeros(1, policy.n_obs_steps, policy.obs_dim), torch.Generator()
        >>> with accelerated(policy, cache=UniformConfig(steps=20)) as fast:
        ...     actions = fast.act(obs, noise.manual_seed(0))
        >>> tuple(actions.shape), sum(step[0] for step in fast.stats()["computed"])
        ((1, 8, 9), 20)
    """
    if isinstance(policy, AcceleratedPolicy):
        raise TypeError("the policy is accelerated already: pass the plain one")
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        engine = ENGINES[engine][0]()
    if policy.training:
        raise RuntimeError(
            "the policy is in training mode (dropout is on): call policy.eval() first"
        )
    if sampler is not None or steps is not None:
        policy = policy.with_sampler("checkpoint" if sampler is None else sampler, steps)
    if warm is not None and warm.active:
        check_warm(policy, warm, cache)
        copy = quantized(policy, quant, statistics)
        with _warmed(policy, copy, engine, kernels, warm) as begun:
            yield begun
        return
    plan = resolve(policy, cache, calibration)
    copy = quantized(policy, quant, statistics)
    runs: Any = policy if copy is None else copy.model
    engine = resolve_engine(engine, runs)
    fast = AcceleratedPolicy(policy, plan, engine, copy, kernels)
    if copy is not None and kernels is None:
        fast.warn_slower()
    try:
        yield fast
    finally:
        fast.closed = True


@contextmanager
def _warmed(
    policy: Accelerable,
    copy: Quantized | None,
    engine: Any,
    kernels: Mapping[str, str] | None,
    warm: WarmConfig,
) -> Iterator[WarmStarted]:
    """Both kinds of queries, accelerated; each predicts as far as the horizon reaches."""
    runs: Any = policy if copy is None else copy.model
    far, far_runs = (p.with_n_action_steps(policy.longest_chunk) for p in (policy, runs))
    begun = [(far, far_runs), (far.from_step(warm.start), far_runs.from_step(warm.start))]
    copies = [
        None if copy is None else replace(copy, model=model, fingerprint=fingerprint(plain))
        for plain, model in begun
    ]
    queries = [
        accelerated(plain, quant=quant, engine=engine, kernels=kernels)
        for (plain, _), quant in zip(begun, copies, strict=True)
    ]
    with queries[0] as full, queries[1] as tail:
        yield WarmStarted(policy, full, tail, warm)
