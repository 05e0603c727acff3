"""What there is to say about a cache plan, as numbers and words; pages and pictures draw it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from accel import CachePlan, encode_flops, plain_flops, query_flops, share_of, summarize
from accel.calibration.calibration import Calibration
from accel.families import family_of
from accel.plans.flops import flops_by_step, live_flops
from accel.plans.sites import nested
from policies import DiffusionPolicy

from ..formatting import encode_words, flops_words, steps_words

COMPUTED, NOTHING, REUSED, FORECAST = range(4)  # from k stored values it is REUSED + k
MAX_ORDER = 4
CELLS = (
    "computed",
    "adds nothing",
    "reused",
    *(f"forecast from {k}" for k in range(1, MAX_ORDER)),
    f"forecast from {MAX_ORDER} or more",
    "not reached",
)
NOT_REACHED = len(CELLS) - 1  # inside of a reused level of a UNet
DIFFERENCES = ("both computed", "same hit", "only A computed", "only B computed", "another hit")
KINDS = {
    "sa": "self-attention",
    "ca": "cross-attention",
    "ff": "feed-forward",
    "deep": "deep levels",
    "rest": "the rest",
}
STACKED = ("rest", "deep", "ff", "sa", "ca")  # from below in a bar
ROWS = {
    False: "one residual branch (sa self-attention, ca cross-attention, ff feed-forward)",
    True: "everything below one level of the UNet, the rows under it included",
}


@dataclass(frozen=True)
class Arm:
    """A plan and what it costs.

    Attributes:
        label: "cache=uniform", or the file or folder that it comes from.
        flops: {kind: (N,) float64} of one query of one row, see `KINDS`; all numbers of FLOPs are
            empty or None where those of the policy's family are not known.
        plain: the same of the checkpoint's unaccelerated policy with its own sampler.
        live: FLOPs of a query in the fused engine; None where it does not run.
        query: FLOPs of a query in the reference engine.
        of: FLOPs of a query of the checkpoint's unaccelerated policy.
        encode: FLOPs of encoding images before either; None where nothing is encoded.
        share: `query` over `of`, encoding counted in both.
        live_share: as run by the fused engine, over the same as `share`.
        equivalent_steps: update steps S of a schedule shared by all sites whose branches cost as
            much.
        noun: what the policy's network is called.
    """

    label: str
    plan: CachePlan
    flops: dict[str, np.ndarray]
    plain: dict[str, np.ndarray]
    live: int | None
    query: int | None
    of: int | None
    encode: int | None
    share: float | None
    live_share: float | None
    equivalent_steps: float | None
    noun: str = "network"

    @property
    def updates(self) -> np.ndarray:
        """(n_sites,) computed steps of each site."""
        counts: np.ndarray = self.plan.mask.sum(axis=0)
        return counts


def arm(label: str, plan: CachePlan, policy: DiffusionPolicy, of: DiffusionPolicy) -> Arm:
    """A plan for `policy`, beside the checkpoint's unaccelerated policy `of`."""
    everything = np.ones((of.n_inference_steps, len(plan.sites)))
    spent, live = summarize(plan, policy, of), live_flops(policy, plan.mask)
    return Arm(
        label,
        plan,
        flops_by_step(policy, plan.mask),
        flops_by_step(of, everything),
        live,
        query_flops(policy, plan.mask),
        plain_flops(of),
        encode_flops(of),
        spent.flops_share,
        share_of(live, policy, of),
        spent.equivalent_steps,
        family_of(policy).noun,
    )


def total(parts: dict[str, np.ndarray]) -> float:
    return float(sum(values.sum() for values in parts.values()))


def cells(plan: CachePlan) -> np.ndarray:
    """(N, n_sites) uint8, an index into `CELLS` for each cell of the grid."""
    code = np.full(plan.mask.shape, REUSED, dtype=np.uint8)
    if plan.alpha is not None:
        n_anchors = np.minimum((plan.alpha != 0).sum(axis=2), MAX_ORDER)
        plain_reuse = (n_anchors == 1) & (plan.alpha[..., 0] == 1)
        code = np.where(plain_reuse, REUSED, REUSED + n_anchors).astype(np.uint8)
        code[n_anchors == 0] = NOTHING
    if plan.bias is not None:
        code[(code < FORECAST) & plan.bias.any(axis=(2, 3))] = FORECAST
    code[plan.mask] = COMPUTED
    code[~plan.reached] = NOT_REACHED
    return code


def differences(a: CachePlan, b: CachePlan) -> np.ndarray:
    """(N, n_sites) uint8, an index into `DIFFERENCES` for each cell of two grids of one size."""
    code = np.where(a.mask & b.mask, 0, 1).astype(np.uint8)
    code[a.mask & ~b.mask] = 2
    code[~a.mask & b.mask] = 3
    for step, site in np.argwhere(~a.mask & ~b.mask):
        same = a.forecast(step, site) == b.forecast(step, site)
        if not same or not np.array_equal(_bias(a, step, site), _bias(b, step, site)):
            code[step, site] = 4
    return code


def _bias(plan: CachePlan, step: int, site: int) -> np.ndarray:
    """What the hit adds besides its forecast; empty for nothing."""
    if plan.bias is None or not plan.bias[step, site].any():
        return np.empty(0)
    cell: np.ndarray = plan.bias[step, site]
    return cell


def differing_computed(a: CachePlan, b: CachePlan) -> int:
    """Cells that one of the plans computes and the other does not."""
    return int((a.mask != b.mask).sum())


def site_label(name: str) -> str:
    """decoder.layers.3.ca -> 3 ca."""
    return " ".join(name.rsplit(".", 2)[-2:])


def row_words(plan: CachePlan) -> str:
    """What a row of the grid is."""
    return ROWS[nested(plan.sites)]


def layer_bounds(plan: CachePlan) -> list[int]:
    """Indices of the sites at which a new layer begins, the first one left out."""
    layers = [site.name.rpartition(".")[0] for site in plan.sites]
    return [i for i in range(1, len(layers)) if layers[i] != layers[i - 1]]


def ranges(steps: Iterable[int]) -> str:
    """[0, 4, 5, 6] -> "0, 4-6"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def summary(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Rows of a table: a name and one value per arm."""
    first = arms[0].plan

    def row(name: str, values: Iterable[object]) -> tuple[str, list[str]]:
        return name, [str(v) for v in values]

    rows = [
        row("plan", ("; ".join((a.plan.method, *a.plan.adapted)) for a in arms)),
        row("digest", (a.plan.digest() for a in arms)),
        row("grid", (f"{len(first.mask)} steps x {len(first.sites)} sites" for _ in arms)),
        row("cells computed", (f"{a.plan.mask.sum()} ({a.plan.mask.mean():.1%})" for a in arms)),
        row("updates per site", (_updates(a.updates) for a in arms)),
        row("equivalent uniform S", (steps_words(a.equivalent_steps) for a in arms)),
        row("steps that compute nothing", ((~a.plan.mask.any(axis=1)).sum() for a in arms)),
        row("last step computed", (_fully(a.plan.mask[-1]) for a in arms)),
        row("hits", (_hits(a.plan) for a in arms)),
        row("FLOPs a query", (flops_words(a.query, a.share) for a in arms)),
        row("  as run by engine=fused", (_live(a) for a in arms)),
    ]
    if encodes := [a.encode for a in arms if a.encode is not None]:
        rows.append(row("  and before it", map(encode_words, encodes)))
    if len(arms) == 2:
        plans = arms[0].plan, arms[1].plan
        n = differing_computed(*plans)
        rows.append(("computed in one only", [f"{n} cells ({n / first.mask.size:.1%})", ""]))
        other = int((differences(*plans) == DIFFERENCES.index("another hit")).sum())
        rows.append(("hits that differ", [f"{other} cells", ""]))
    return rows


def _live(a: Arm) -> str:
    return f"it does not run {a.noun}s" if a.live is None else flops_words(a.live, a.live_share)


def _updates(updates: np.ndarray) -> str:
    spread = "" if np.ptp(updates) == 0 else f" ({updates.min()} to {updates.max()})"
    return f"{updates.mean():.1f}{spread}"


def _fully(row: np.ndarray) -> str:
    return "all sites" if row.all() else f"{row.sum()} of {len(row)} sites"


def _hits(plan: CachePlan) -> str:
    code = cells(plan)
    counts = [(name, int((code == i).sum())) for i, name in enumerate(CELLS) if i != COMPUTED]
    return ", ".join(f"{n} {name}" for name, n in counts if n) or "none"


def most_volatile(calibration: Calibration) -> list[int]:
    """Indices of the sites, the most volatile first; ties in the order of the network."""
    return [int(i) for i in np.argsort(-calibration.volatility, kind="stable")]
