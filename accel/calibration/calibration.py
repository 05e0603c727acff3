"""What the branches of one policy do over the steps of a query: the ground of calibrated caches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plans.plan import PlanError
from ..plans.sites import Site, sites_of
from .statistics import STANDARD, Extent

if TYPE_CHECKING:
    from ..protocol import Accelerable

MIN_QUERIES = 8


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics of branch outputs over calibration queries; live tokens only.

    A feature is one branch output of one query at one step, flattened over (tokens, width). Arrays
    are attributes too: `calibration.gram` is `calibration.arrays["gram"]`.

    Attributes:
        sites: in the order in which the network runs them.
        policy: fingerprint of the policy (weights and sampler) that was observed.
        extent: how many queries were averaged, and the sizes of what follows.
        arrays: everything measured, by name; a name is that of a statistic, or that, a dot and
            more. Those of `STANDARD`:
            similarity.METRIC: (n_sites, N, N) float64, means over queries of the features of steps
            i and j compared: cos is the cosine (1 for two zero features, 0 for one), mse and l1
            are means over elements, l2 is the norm of the difference.
            spread.METRIC: the same, standard deviations over queries (of the population: divided by
            their number).
            volatility: (n_sites,) float64, mean of |r_i - r_j| over queries, pairs i < j and
            elements.
            gram: (n_sites, N, N) float64, mean over queries of <r_i, r_j>.
            mean: (n_sites, N, live tokens, width) float32, mean feature over queries.
            stream: (L, N, L, N) float64, mean over queries of <d_l,i, d_m,j>, where d_l,i is what
            the branches of layer l add in step i, less its mean over steps.
            sensitivity: (N,) float64, squared action error (mean over executed actions, normalised)
            per squared error of the sum over layers, if it is made in step i.
            probe, response: (n_queries, N) float64, changes from the step before, 0 in step 0: of
            the first normalised input together with the time token, and of what all branches add.
            A change is mean |m - m'| / mean |m'|.
            depth_change: (L, N, N) float64, [l, i, j] the mean over queries of the change, from
            step i to step j, of what layers 0 to l add.
        source: where the queries came from, for people and for the file.
        first: statistics that were measured together; what was added later is in no `digest` of
            them.
    """

    sites: tuple[Site, ...]
    policy: str
    extent: Extent
    arrays: Mapping[str, np.ndarray]
    source: dict[str, Any]
    first: tuple[str, ...] = STANDARD

    def __getattr__(self, name: str) -> np.ndarray:
        if name in vars(self).get("arrays", ()):
            return self.arrays[name]
        raise AttributeError(f"the calibration holds no {name!r}")

    @property
    def n_queries(self) -> int:
        return self.extent.n_queries

    @property
    def n_steps(self) -> int:
        return self.extent.n_steps

    @property
    def similarity(self) -> dict[str, np.ndarray]:
        """{metric: (n_sites, N, N)}."""
        return self._group("similarity")

    @property
    def spread(self) -> dict[str, np.ndarray]:
        """{metric: (n_sites, N, N)}."""
        return self._group("spread")

    def _group(self, statistic: str) -> dict[str, np.ndarray]:
        return {name.partition(".")[2]: array for name, array in self.of(statistic).items()}

    def of(self, *statistics: str) -> dict[str, np.ndarray]:
        """The arrays of some statistics."""
        return {n: a for n, a in self.arrays.items() if n.partition(".")[0] in statistics}

    @property
    def statistics(self) -> set[str]:
        """Names of what was measured."""
        return {name.partition(".")[0] for name in self.arrays}

    def lacks(self, needs: Sequence[str]) -> list[str]:
        """Those of `needs` that were not measured."""
        return [name for name in needs if name not in self.statistics]

    def with_added(self, arrays: Mapping[str, np.ndarray]) -> Calibration:
        """The same and these; its digest stays."""
        return replace(self, arrays={**self.arrays, **arrays})

    def digest(self, needs: Sequence[str] = ()) -> str:
        """Hash of what was measured and on what policy (not of where the queries came from).

        Args:
            needs: statistics that count too where they were added later.
        """
        sites = [f"{s.name} {s.op} {s.kind}" for s in self.sites]
        content = hashlib.sha256("\n".join([self.policy, str(self.n_queries), *sites]).encode())
        for name, array in sorted(self.of(*self.first, *needs).items()):
            content.update(f"{name} {array.dtype.str} {array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()[:16]

    def check(self, policy: Accelerable) -> None:
        """Refuse a policy that was not the one observed.

        Raises:
            PlanError: other sites, another number of steps, other weights or another sampler.
        """
        if self.sites != sites_of(policy):
            raise PlanError("the calibration is of another network: their sites differ")
        if self.n_steps != policy.n_inference_steps:
            raise PlanError(
                f"the calibration has {self.n_steps} steps, "
                f"the policy's sampler {policy.n_inference_steps}"
            )
        if self.policy != policy.fingerprint():
            raise PlanError(
                "the calibration is of another checkpoint or sampler (fingerprints differ)"
            )

    def save(self, path: str | Path) -> Path:
        """Write JSON and safetensors, see file.py; returns the path of the JSON."""
        from .file import save_calibration

        return save_calibration(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote, a folder or the JSON; `check` refuses another policy."""
        from .file import load_calibration

        return load_calibration(path)
