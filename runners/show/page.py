"""plan.html and plan.svg: plans and calibrations as a page that opens offline, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accel.calibration.calibration import Calibration

from .. import svg
from ..formatting import flops_words, share
from ..html import details, page, section, table
from .calibration import COLUMNS, similarity_matrices, stride, volatility_bars
from .drawings import PHONE, difference_grid, flops_by_step, plan_grid, update_bars
from .plan_view import (
    KINDS,
    Arm,
    differing_computed,
    most_volatile,
    ranges,
    row_words,
    site_label,
    summary,
    total,
)

ON_PHONE = 8  # matrices that a narrow screen shows


def plan_page(title: str, arms: Sequence[Arm], calibration: Calibration | None, metric: str) -> str:
    """The whole page.

    Args:
        title: what was shown.
        arms: one plan, or two over the same grid.
        calibration: what calibrated caches rest on, if anything.
        metric: which of its similarities is drawn.
    """
    body = [section("In numbers", table(["", *(a.label for a in arms)], summary(arms)))]
    body += [section(f"Plan {arm.label}", _grid(arm)) for arm in arms]
    if arms[1:]:
        body.append(section("Where the plans differ", _difference(arms)))
    body.append(section("Update steps of each site", _updates(arms)))
    if arms[0].query is not None:
        body.append(section("FLOPs", _flops(arms)))
    if calibration is not None:
        body += [
            section("Similarity between steps", _similarity(calibration, metric)),
            section("Volatility", _volatility(calibration)),
        ]
    first = arms[0]
    lead = (
        f"{first.label} computes {first.plan.mask.mean():.1%} of the cells of a query, "
        f"with {share(first.share)} of the FLOPs of the checkpoint's unaccelerated policy. A share "
        "of FLOPs is not a speed-up: runner=evaluate measures latency."
    )
    return page(title, lead, body, style=svg.STYLE)


def plan_picture(
    title: str, arms: Sequence[Arm], calibration: Calibration | None, metric: str
) -> str:
    """The page's drawings below each other, of the matrices those of the most volatile sites."""
    drawings = [
        (f"{arm.label}, {arm.plan.mask.mean():.1%} of cells computed", plan_grid(arm.plan))
        for arm in arms
    ]
    if arms[1:]:
        a, b = arms[0].plan, arms[1].plan
        n = differing_computed(a, b)
        said = f"A against B: {n} cells computed in one only"
        drawings.append((said, difference_grid(a, b)))
    said = f"{arms[0].label}: {share(arms[0].share)} of the unaccelerated FLOPs"
    drawings.append(("Update steps of each site", update_bars(arms)))
    if arms[0].query is not None:
        drawings.append((said, flops_by_step(arms)))
    if calibration is not None:
        matrices = similarity_matrices(calibration, metric, COLUMNS)
        drawings += [
            ("Similarity between steps, most volatile sites", matrices),
            ("Volatility", volatility_bars(calibration)),
        ]
    return svg.picture(title, drawings)


def _grid(arm: Arm) -> str:
    n_steps, n_sites = arm.plan.mask.shape
    said = (
        f"{arm.label}: {n_sites} sites over {n_steps} steps, {arm.plan.mask.sum()} of "
        f"{arm.plan.mask.size} cells computed"
    )
    text = table(
        ["site", "updates", "steps"],
        [
            (site.name, [str(n), ranges(np.flatnonzero(arm.plan.mask[:, u]).tolist())])
            for u, (site, n) in enumerate(zip(arm.plan.sites, arm.updates, strict=True))
        ],
    )
    return plan_grid(arm.plan).html(
        said,
        f"{said}. A row is {row_words(arm.plan)}, in the order in which the network runs them; "
        "lines separate layers. Colours say what each step computes or adds instead; forecasts are "
        "darker the more stored values they combine.",
        phone=plan_grid(arm.plan, PHONE),
    ) + details("The same as a table", text)


def _difference(arms: Sequence[Arm]) -> str:
    a, b = arms[0].plan, arms[1].plan
    said = f"{differing_computed(a, b)} of {a.mask.size} cells are computed in one plan only"
    return difference_grid(a, b).html(
        said,
        f"{said}. A same hit adds the same stored values; "
        "another hit reads other steps or weighs them otherwise.",
        phone=difference_grid(a, b, PHONE),
    )


def _updates(arms: Sequence[Arm]) -> str:
    spoken = "; ".join(
        f"{a.label}: {a.updates.mean():.1f} on average, {a.updates.min()} to {a.updates.max()}"
        for a in arms
    )
    return update_bars(arms).html(
        f"Update steps of each site. {spoken}",
        f"In how many of {arms[0].plan.n_steps} steps each branch is computed. {spoken}.",
        phone=update_bars(arms, PHONE),
    )


def _flops(arms: Sequence[Arm]) -> str:
    first = arms[0]
    kinds = [
        (
            KINDS[kind],
            [f"{first.plain[kind].sum() / 1e9:.3f} G", *(_of_plain(a, kind) for a in arms)],
        )
        for kind in first.flops
    ]
    encode = first.encode or 0
    if encode:
        kinds.append(
            ("encoding", [f"{encode / 1e9:.3f} G", *(flops_words(encode, 1) for _ in arms)])
        )
    in_all = [f"{(total(first.plain) + encode) / 1e9:.3f} G"]
    in_all += [flops_words((a.query or 0) + encode, a.share) for a in arms]
    return flops_by_step(arms).html(
        f"FLOPs by denoising step, {first.label}: {total(first.flops) / 1e9:.3f} GFLOP a query",
        f"Two FLOPs per multiply-add, one row, engine=reference; bars are {first.label}. "
        "The rest (condition encoder, embeddings and head, or the shallow part of a UNet) is "
        "computed in every step.",
        phone=flops_by_step(arms, PHONE),
    ) + table(
        ["part", "plain", *(a.label for a in arms)],
        [*kinds, ("all", in_all)],
        "A query's FLOPs by part of the network, and their share of those of the checkpoint's "
        "unaccelerated policy with its own sampler (plain).",
    )


def _of_plain(arm: Arm, kind: str) -> str:
    ours, plain = float(arm.flops[kind].sum()), float(arm.plain[kind].sum())
    return flops_words(ours, ours / plain)


def _similarity(calibration: Calibration, metric: str) -> str:
    every = stride(calibration, metric)
    return similarity_matrices(calibration, metric).html(
        f"{metric} between the outputs of one site at two steps, mean of "
        f"{calibration.n_queries} queries",
        f"{metric} between the outputs of a site at each pair of steps, mean over "
        f"{calibration.n_queries} queries; one scale for all sites, the most volatile first."
        + f" A narrow screen shows the first {ON_PHONE}, on a scale of their own."
        + (f" Every {every}th step is drawn." if every > 1 else ""),
        phone=similarity_matrices(calibration, metric, ON_PHONE, 2),
    )


def _volatility(calibration: Calibration) -> str:
    order = most_volatile(calibration)
    rows = [
        (calibration.sites[u].name, [str(rank), f"{calibration.volatility[u]:.5g}"])
        for rank, u in enumerate(order, 1)
    ]
    first = site_label(calibration.sites[order[0]].name)
    return volatility_bars(calibration).html(
        f"Volatility of each site; the most volatile is {first}",
        "Mean of |output in step i - output in step j| over queries, pairs of steps and elements.",
        phone=volatility_bars(calibration, PHONE),
    ) + details("The same as a table", table(["site", "rank", "volatility"], rows))
