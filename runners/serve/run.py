"""runner=serve: the accelerated policy of a job behind a websocket."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from ..acceleration.quantization import accelerate, acceleration_of
from ..errors import UserError
from ..formatting import underlined
from ..jobs.job import Job
from ..jobs.prepare import prepare_job
from ..jobs.runner import Runner
from .batching import Batcher
from .server import Served, Server, cannot_listen, serve


@dataclass
class ServeConfig:
    """Where it listens, and for whom; conf/runner/serve.yaml says more."""

    name: str = "serve"
    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    window_ms: float = 2.0
    keys: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(
                f"serve.port must be from 0 (one that is free) to 65535, got {self.port}"
            )
        if not 0 <= self.window_ms < 1000:
            raise ValueError(f"serve.window_ms must be from 0 to 1000, got {self.window_ms}")
        if self.key is not None and not self.key:
            raise ValueError("serve.key must not be empty")
        if self.key is None and not is_loopback(self.host):
            raise ValueError(
                f"serve.host={self.host} is reached from other machines: it needs serve.key=..., "
                "which clients send, or serve.host=127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def prepare_serve(cfg: DictConfig, config: ServeConfig) -> Job:
    """Check what will be served, and that the port is free; nothing is written.

    Raises:
        UserError, or one of MISTAKES: one line with the setting, the value and what is allowed.
    """
    if cfg.realtime.get("enabled"):
        raise UserError("realtime must be false with runner=serve: a robot's time is its own")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((config.host, config.port))
        except OSError as error:
            raise cannot_listen(config.host, config.port, error) from error
    return prepare_job(
        cfg, config, identity_of_runner={"runner": config.name}, prefix=f"{config.name}_"
    )


def metadata_of(job: Job) -> dict[str, Any]:
    """What a client is told as it connects."""
    policy = job.policy
    return {
        "server": "skipstep",
        "task": job.task.name,
        "checkpoint": job.checkpoint,
        "cache": job.cache.name,
        "quant": job.quant.name,
        "sampler": policy.sampler_settings,
        "observation": {name: list(spec.shape) for name, spec in policy.obs_spec.items()},
        "n_obs_steps": policy.n_obs_steps,
        "n_action_steps": policy.n_action_steps,
        "action_dim": policy.action_dim,
        "control_hz": job.task.control_hz,
        "noise_seed": job.settings.noise_seed,
    }


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; what was answered, and how fast."""
    torch.set_num_threads(job.settings.threads)
    config: ServeConfig = job.runner

    def ready(port: int) -> None:
        print(f"serving {job.task.name} on ws://{config.host}:{port}", flush=True)

    with accelerate(job, acceleration_of(job)) as fast:
        settings = job.settings

        async def main() -> Server:
            window_s = config.window_ms / 1e3
            batcher = Batcher(fast, settings.policy_batch, window_s, settings.noise_seed)
            served = Served(batcher, metadata_of(job), config.key, config.keys or {})
            return await serve(served, config.host, config.port, ready)

        try:
            server = asyncio.run(main())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    times = np.array(server.latencies_ms)
    p50, p99 = np.percentile(times, (50, 99)) if len(times) else (float("nan"),) * 2
    return {
        "clients": next(server.clients),
        "requests": len(times),
        "errors": server.n_errors,
        "batches": server.served.batcher.n_batches,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def render(result: Mapping[str, Any], folder: Path) -> str:
    """A few lines of text."""
    words = [
        f"clients    {result['clients']}",
        f"requests   {result['requests']} in {result['batches']} batches, "
        f"{result['errors']} refused or failed",
    ]
    if result["requests"]:
        words.append(f"answers    p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms")
    return "\n".join(underlined("served", words).splitlines())


SERVE = Runner(ServeConfig, prepare_serve, run, render)
