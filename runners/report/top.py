"""What a reader sees first: the verdict, when and on what, and what is in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..studies.comparisons import Arm
from ..studies.study import Study
from .facts import facts
from .headline import Headline, headline


@dataclass(frozen=True)
class Top:
    """What a reader sees first: the title, the verdict, when and on what, and what is in here."""

    title: str
    verdict: Headline
    facts: list[str]
    intro: str

    @property
    def lines(self) -> list[str]:
        """The verdict and what it rests on, without the intro."""
        verdict = self.verdict
        said = (f"{verdict.verdict}.", verdict.elsewhere, verdict.rule, f"{'; '.join(self.facts)}.")
        return [line.replace("..", ".") for line in said if line]


def top(study: Study, arms: Sequence[Arm], margin: float) -> Top:
    title = f"Study {study.folder.resolve().name}"
    return Top(title, headline(arms, margin), facts(arms), lead(study, arms, margin))


def lead(study: Study, arms: Sequence[Arm], margin: float) -> str:
    """What is in the report, in a few sentences."""
    versus = [arm.versus for arm in arms if arm.versus]
    shown, lost = (
        sum(v.noninferiority.shown for v in versus),
        sum(v.loss_detected for v in versus),
    )
    judged = (
        f" Of {len(versus)} comparisons {shown} are non-inferior at {100 * margin:g} points, and a "
        f"loss is detected in {lost} (Holm)."
        if versus
        else ""
    )
    n_bad = len(study.runs) - len(arms)
    bad = f"; {n_bad} more did not finish, see the end" if n_bad else ""
    return (
        f"Finished runs: {len(arms)}, with {sum(arm.n for arm in arms)} episodes{bad}.{judged} "
        "Arms are paired with the unaccelerated policy on the same seeds and the same noise."
    )
