"""What a caching method is to everything that runs one, and the check of what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ..calibration.across import STATISTIC
from ..calibration.calibration import Calibration
from ..plans.able import check_branches
from ..plans.plan import CachePlan, PlanError
from ..protocol import Accelerable


class Method(NamedTuple):
    """A caching method.

    config: dataclass with complete defaults and a `name`.
    resolve: (config, policy, calibration or None) -> plan.
    needs: names in `STATISTICS`, what `resolve` reads of the calibration.
    identity: (config, policy) -> what of the config changes an action, besides the calibration.
    blocks: as `resolve`, for the blocks of a model that is no policy (see `attach`); another
        function where it needs no calibration there, None where the method is not offered.
    decides: whether its plans decide at run time which steps compute.
    """

    config: type
    resolve: Callable[..., CachePlan]
    needs: tuple[str, ...] = ()
    identity: Callable[[Any, Accelerable], dict[str, Any]] = lambda config, policy: asdict(config)
    blocks: Callable[..., CachePlan] | None = None
    decides: bool = False

    @property
    def calibrated(self) -> bool:
        return bool(self.needs)

    def needs_of(self, config: Any) -> tuple[str, ...]:
        """`needs`, and what this config needs besides."""
        reaches_back = bool(self.needs) and getattr(config, "across", False)
        return (*self.needs, STATISTIC) if reaches_back else self.needs

    def plan(
        self, config: Any, policy: Accelerable, calibration: Calibration | None = None
    ) -> CachePlan:
        """The plan of a config.

        Raises:
            PlanError: no calibration of this policy that holds what is needed, or as `resolve`.
        """
        if self.needs:
            check_calibration(calibration, policy, config.name, self.needs_of(config))
        return self.resolve(config, policy, calibration)


def check_calibration(
    calibration: Calibration | None, policy: Accelerable, method: str, needs: Sequence[str]
) -> None:
    """Refuse what a method cannot be made from.

    Raises:
        PlanError: there is no calibration, it is foreign or lacks a statistic, or the policy is a
            UNet.
    """
    check_branches(policy, f"cache={method}")
    if calibration is None:
        raise PlanError(
            f"cache={method} needs a calibration of this checkpoint and sampler: make one with "
            "`python run.py runner=calibrate` or accel.calibrate(policy, ...) and pass it as "
            "`calibration`"
        )
    calibration.check(policy)
    missing = calibration.lacks(needs)
    if STATISTIC in missing:
        raise PlanError(
            f"cache={method} with cache.across=true needs a calibration with consecutive queries, "
            "which this one is without: `python benchmarks/across.py --into FOLDER` or "
            "accel.with_across makes one"
        )
    if missing:
        raise PlanError(
            f"cache={method} needs {', '.join(missing)}, which this calibration does not hold: "
            f"`python run.py runner=calibrate cache={method}` measures it, or accel.complete"
        )
