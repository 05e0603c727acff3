"""run.py with a small calibrated method, as a program: `cache=none cache.name=toy`.

With STOP_BEFORE=calibrate in the environment it waits, queries made, for somebody to kill it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@dataclass
class ToyConfig:
    """Half of the sites, the most volatile, on all steps, the others on `steps` of them."""

    name: str = "toy"
    steps: int = 5


def resolve_toy(config: ToyConfig, policy: Any, calibration: Any) -> Any:
    from accel import CachePlan, sites_of

    calibration.check(policy)
    sites = sites_of(policy)
    mask = np.zeros((policy.n_inference_steps, len(sites)), dtype=bool)
    mask[np.linspace(0, len(mask) - 1, config.steps).astype(int)] = True
    mask[:, calibration.volatility >= np.median(calibration.volatility)] = True
    return CachePlan(sites, mask, policy.fingerprint(), f"toy {config.steps}")


def register(caches: dict[str, Any]) -> None:
    from accel.caches import Method

    caches["toy"] = Method(ToyConfig, resolve_toy, ("volatility",))


def wait(*args: Any, **kwargs: Any) -> None:
    time.sleep(600)


def main() -> None:
    from accel import CACHES
    from runners import cli
    from runners.acceleration import calibration as calibrations

    register(CACHES)
    if os.environ.get("STOP_BEFORE") == "calibrate":
        calibrations.calibrate = wait  # type: ignore[assignment]
    sys.exit(cli.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
