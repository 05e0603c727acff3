"""What a query of a job costs, as its result.json has it, whatever version measured it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from accel import encode_flops, flops_share, plain_flops, share_of

from ..store.folder import RunStore
from ..studies.cost import read_latency

if TYPE_CHECKING:
    from ..jobs.job import Job


def flops_of(job: Job, stats: Mapping[str, Any]) -> dict[str, Any]:
    """`flops` of result.json, see `cost.Flops`.

    Where nothing was asked there are no shares, and nothing at all where the FLOPs of the policy's
    family are not known; `encode` is there where images are encoded.
    """
    assert job.plain is not None
    plain, n, encode = plain_flops(job.plain), stats["n_queries"], encode_flops(job.plain)
    encoding = {} if encode is None else {"encode": encode}
    if plain is None:
        return {**dict.fromkeys(("query", "plain", "share", "executed_share")), **encoding}
    computed = np.asarray(stats["computed"]) / max(n, 1)
    return {
        "query": stats["flops"],
        "plain": plain,
        "share": flops_share(job.policy, computed, job.plain) if n else None,
        "executed_share": share_of(stats["flops"], job.policy, job.plain) if n else None,
        **encoding,
    }


def with_times(job: Job, latency: Mapping[str, Any]) -> dict[str, Any]:
    """A latency with its times as fast."""
    assert job.plain is not None
    own = job.policy.config.sampler == job.plain.config.sampler
    return read_latency(latency, own, np.random.default_rng(0))


def as_defined_now(job: Job, store: RunStore, done: dict[str, Any]) -> dict[str, Any]:
    """The result of an older version with FLOPs and speed as they are defined now, and written."""
    flops, latency = done["flops"], done["latency"]
    if "executed_share" not in flops:
        flops = flops_of(job, done["stats"])
    anew = {**done, "flops": flops, "latency": latency and with_times(job, latency)}
    if anew != done:
        store.write_result(anew)
    return anew
