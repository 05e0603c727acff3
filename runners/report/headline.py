"""What a study says in one sentence: no more than the intervals of one arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..formatting import points, share, speed
from ..studies.comparisons import Arm
from .forest import numbers


@dataclass(frozen=True)
class Headline:
    """verdict: of one arm; rule: how it was chosen; elsewhere: the same arm on other tasks."""

    verdict: str
    rule: str = ""
    elsewhere: str = ""


def headline(arms: Sequence[Arm], margin: float) -> Headline:
    """The fastest arm that is non-inferior, on the stratum with the most pairs.

    Args:
        arms: of a study, or of one of its strata.
        margin: of the verdicts.
    """
    compared = [arm for arm in arms if arm.versus]
    if not compared:
        return Headline("No arm could be compared with the unaccelerated policy.")
    stratum = max(dict.fromkeys(arm.stratum for arm in compared), key=lambda s: _pairs(compared, s))
    here = [arm for arm in compared if arm.stratum == stratum]
    good = [arm for arm in here if arm.versus and _holds(arm)]
    if not good:
        return Headline(_none(here, stratum, margin))
    measured = [arm for arm in good if arm.speed]
    best = min(measured or good, key=_cheapness)
    by = "fastest" if measured else "cheapest (no speed-up was measured)"
    of = (
        f"of {len(good)} arms on {stratum} that are"
        if len(good) > 1
        else f"arm on {stratum} that is"
    )
    rule = f"The {by} {of} non-inferior at {within(margin)} without a detected loss"
    rule += f", of {len(here)} compared; each arm is judged by itself."
    return Headline(
        f"{said(best)}: {judged(best, margin)}", rule, _elsewhere(best, compared, margin)
    )


def said(arm: Arm) -> str:
    """ddpm-10 trailing on kitchen: 63.4x [60.9, 64.3], +9 points [+6, +13] on 600 pairs."""
    assert arm.versus
    costs = ""
    if arm.speed:
        costs = f"{speed(arm.speed.times, arm.speed.interval)}, "
    elif arm.flops.share is not None:
        costs = f"{share(arm.flops.share)} of the FLOPs, "
    return f"{arm.label} on {arm.stratum}: {costs}{_change(arm)} on {arm.versus.success.n} pairs"


def judged(arm: Arm, margin: float) -> str:
    """Both verdicts of an arm in words; neither is "undecided"."""
    assert arm.versus
    found = ["a loss is detected"] if arm.versus.loss_detected else []
    found += [f"non-inferior at {within(margin)}"] if arm.versus.noninferiority.shown else []
    return " and ".join(found) or f"undecided at {within(margin)}"


def _change(arm: Arm) -> str:
    """+9 points [+6, +13]."""
    assert arm.versus
    return numbers(arm.versus.success).replace(" [", " points [", 1)


def within(margin: float) -> str:
    return f"{points(margin).removeprefix('+')} points"


def _holds(arm: Arm) -> bool:
    versus = arm.versus
    return versus is not None and versus.noninferiority.shown and not versus.loss_detected


def _pairs(arms: Sequence[Arm], stratum: str) -> int:
    return sum(a.versus.success.n for a in arms if a.stratum == stratum and a.versus)


def _cheapness(arm: Arm) -> tuple[float, float]:
    """The measured speed-up first, then FLOPs."""
    unknown = float("inf")
    times = arm.times_as_fast or 0.0
    return -times, unknown if arm.flops.share is None else arm.flops.share


def _none(here: Sequence[Arm], stratum: str, margin: float) -> str:
    lost = sum(arm.versus.loss_detected for arm in here if arm.versus)
    if len(here) == 1:
        return f"{said(here[0])}: {judged(here[0], margin)}"
    return (
        f"None of {len(here)} arms on {stratum} is shown non-inferior at {within(margin)}: a loss "
        f"is detected in {lost}, {len(here) - lost} undecided"
    )


def _elsewhere(best: Arm, compared: Sequence[Arm], margin: float) -> str:
    """The same method where it was also tried: a good arm of one task may lose on another."""
    others = [arm for arm in compared if arm.label == best.label and arm is not best]
    lines = [f"{arm.stratum} {_change(arm)}, {judged(arm, margin)}" for arm in others]
    return f"The same elsewhere: {'; '.join(lines)}." if lines else ""
