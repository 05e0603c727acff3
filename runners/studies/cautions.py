"""What a reader of a study should know before comparing its arms, as warnings."""

from __future__ import annotations

from collections.abc import Sequence

from ..formatting import ms
from ..machine import machines_of
from .comparisons import Arm


def unsteady(arms: Sequence[Arm], most: float = 1.1) -> list[str]:
    """Where the latency of the same plain policy moved from run to run, as warnings."""
    medians: dict[str, list[float]] = {}
    for arm in arms:
        if arm.latency and arm.latency.plain_p50_ms:
            medians.setdefault(arm.stratum, []).append(arm.latency.plain_p50_ms)
    return [
        f"On {stratum} the plain policy took {ms(min(found))} to {ms(max(found))} ms in different "
        "runs: compare speed-ups, not latencies"
        for stratum, found in medians.items()
        if max(found) > most * min(found)
    ]


def busy(arms: Sequence[Arm]) -> list[str]:
    """What the runs themselves said against their latencies."""
    return [
        f"{arm.number} {arm.label}, {arm.stratum}: {arm.latency.warning.rstrip('.')}"
        for arm in arms
        if arm.latency and arm.latency.warning
    ]


def mixed_machines(arms: Sequence[Arm]) -> list[str]:
    """Arms whose episodes, or whose baseline's, ran on several machines, as warnings."""
    found = []
    for arm in arms:
        runs = [arm.run, *([arm.versus.baseline] if arm.versus else [])]
        machines = machines_of(episode for run in runs for episode in run.ok.values())
        if len(machines) > 1:
            found.append(
                f"{arm.number} {arm.label}, {arm.stratum}, was compared over machines "
                f"({'; '.join(machines)}): last bits, and with them a few seeds, may differ"
            )
    return found
