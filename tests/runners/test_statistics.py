"""The statistics of a study on published examples, and against simulations of what they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm

from runners.metrics import paired, tango, tango_score, wilson
from runners.statistics import (
    bootstrap,
    episodes_needed,
    holm,
    latency_ratio,
    loss_detected,
    noninferiority,
    pooled,
    power,
    score_difference,
)


def test_the_equivalence_test_on_its_paper_s_example() -> None:
    """Tango 1998, lens disinfection: 44 pairs, one discordant, margin 0.1: Z = 1.709, p = 0.044."""
    assert float(tango_score(0, 1, 44, -0.1)) == pytest.approx(1.709, abs=5e-4)
    judged = noninferiority(0, 1, 44, 0.1, confidence=0.9)
    assert judged.p_value == pytest.approx(0.044, abs=5e-4)
    assert judged.shown
    assert not noninferiority(0, 1, 44, 0.1).shown  # 95 %: one-sided 2.5 %


def test_mcnemar_on_textbook_examples() -> None:
    """Agresti, Categorical Data Analysis, approval ratings: 86 and 150 of 1600 changed sides."""
    assert float(tango_score(86, 150, 1600, 0.0)) ** 2 == pytest.approx(17.36, abs=5e-3)
    assert tango(86, 150, 1600) == pytest.approx((-0.06, -0.02), abs=2e-3)
    # Fagerland, Lydersen and Laake 2013, exact conditional test of both examples
    for wins, losses, n, p in [(1, 7, 21, 0.070), (6, 16, 161, 0.0525)]:
        arm = {i: i < wins for i in range(n)}
        baseline = {i: wins <= i < wins + losses for i in range(n)}
        result = paired(arm, baseline)
        assert result is not None
        assert (result.wins, result.losses) == (wins, losses)
        assert result.p_value == pytest.approx(p, abs=5e-4)


def test_holm_on_a_published_example() -> None:
    """0.01, 0.04, 0.03, 0.005 (the usual example of Holm 1979) -> 0.03, 0.06, 0.06, 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.8, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    draws = np.random.default_rng(0).random((4000, 5))
    alarms = np.mean([min(holm(row)) < 0.05 for row in draws])
    assert alarms == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("n", [20, 100])
def test_wilson_covers_95_percent_on_average(n: int) -> None:
    """Mean over rates of the coverage, each summed over all outcomes."""
    k, rates = np.arange(n + 1), np.linspace(0.0025, 0.9975, 200)
    low, high = np.array([wilson(int(i), n) for i in k]).T
    inside = (low <= rates[:, None]) & (rates[:, None] <= high)
    coverage = (binom.pmf(k, n, rates[:, None]) * inside).sum(axis=1)
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("margin", "discordance", "n"),
    [(0.05, 31 / 300, 345), (0.05, 0.1, 339), (0.03, 0.1, 901), (0.05, 1 / 300, 73), (0.5, 0.1, 4)],
)
def test_seeds_that_show_noninferiority_in_four_of_five_studies(
    margin: float, discordance: float, n: int
) -> None:
    """The first is the published one: 31 discordant seeds of 300 at 5 points."""
    assert episodes_needed(margin, discordance) == n
    assert power(n, discordance, margin) >= 0.8
    assert all(power(fewer, discordance, margin) < 0.8 for fewer in range(max(n - 60, 1), n))


def test_the_power_is_summed_over_all_outcomes() -> None:
    """Against every pair of wins and losses, one by one."""
    n, discordance, difference, margin = 40, 0.3, -0.05, 0.15
    wins, losses = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    inside = wins + losses <= n
    counts = np.stack([wins, losses, np.maximum(n - wins - losses, 0)], axis=-1)
    weight = np.where(inside, multinomial.pmf(counts, n, shares), 0.0)
    shown = tango_score(wins, np.where(inside, losses, 0), n, -margin) > norm.ppf(0.975)
    exact = float(weight[shown & inside].sum())
    assert power(n, discordance, margin, difference) == pytest.approx(exact, abs=1e-8)


def test_a_loss_is_detected_where_the_adjusted_p_value_says_so() -> None:
    """12 wins and 24 losses of 300 lie below 0 by their interval, and are no detected loss."""
    low, high = tango(12, 24, 300)
    assert low < high < 0
    assert not loss_detected(-0.04, p_holm=0.065)
    assert not loss_detected(-0.04, p_holm=0.05)
    assert loss_detected(-0.04, p_holm=0.049)
    assert not loss_detected(0.04, p_holm=0.001)


def test_power_is_the_share_of_simulated_studies_that_show_it() -> None:
    drawn = np.random.default_rng(0).multinomial(150, [0.05, 0.07, 0.88], 1500)
    shown = [noninferiority(int(w), int(lost), 150, 0.1).shown for w, lost, _ in drawn]
    assert np.mean(shown) == pytest.approx(power(150, 0.12, 0.1, -0.02), abs=0.03)
    assert power(300, 0.2, 0.05, difference=-0.05) == pytest.approx(0.025, abs=0.01)
    assert power(400, 0.2, 0.05) > power(200, 0.2, 0.05)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "shown"),
    [(3, 9, 100, False), (0, 83, 100, False), (10, 10, 1000, True), (0, 8, 1000, True)],
)
def test_verdicts_at_five_points(wins: int, losses: int, n: int, shown: bool) -> None:
    judged = noninferiority(wins, losses, n, 0.05)
    assert judged.shown == shown
    assert (judged.p_value < 0.025) == shown


def test_a_latency_ratio_is_covered_by_its_interval() -> None:
    """Common swings of the machine cancel: pairs are resampled, not single times."""
    rng = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(120):
        machine = rng.lognormal(0, 0.3, 80)
        plain = 100 * machine * rng.lognormal(0, 0.03, 80)
        fast = 25 * machine * rng.lognormal(0, 0.03, 80)
        ratio, (low, high) = latency_ratio(plain.tolist(), fast.tolist(), rng)
        assert low <= ratio <= high
        covered.append(low <= 4 <= high)
        widths.append(high - low)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.06)
    assert np.mean(widths) < 0.4
    assert latency_ratio([4.0] * 5, [2.0] * 5, rng) == (2.0, (2.0, 2.0))


def test_the_plain_policy_may_be_asked_less_often() -> None:
    """Three queries beside each plain one; a turn is drawn whole."""
    rng = np.random.default_rng(0)
    machine = rng.uniform(1, 3, 40)
    fast = np.repeat(25 * machine, 3) * rng.uniform(0.95, 1.05, 120)
    ratio, (low, high) = latency_ratio((100 * machine).tolist(), fast.tolist(), rng)
    assert ratio == np.median(100 * machine) / np.median(fast)
    assert low <= ratio <= high
    assert 3.6 < low < high < 4.4


def test_a_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    samples = np.random.default_rng(0).normal(1, 2, 400)
    low, high = bootstrap(samples, lambda rows: rows.mean(axis=-1), np.random.default_rng(1))
    error = samples.std() / 20
    assert low == pytest.approx(samples.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(samples.mean() + 1.96 * error, abs=0.15 * error)


def test_scores_are_paired_on_seeds() -> None:
    rng = np.random.default_rng(0)
    baseline = dict(enumerate(rng.integers(2, 6, 60) / 7))
    arm = {seed: score - (seed % 3 == 0) / 7 for seed, score in baseline.items()}
    result = score_difference(arm | {99: 1.0}, baseline, rng)
    assert result is not None
    assert (result.n, result.n_differing) == (60, 20)
    assert result.difference == pytest.approx(-1 / 21)
    assert result.interval is not None
    assert -0.07 < result.interval[0] < -1 / 21 < result.interval[1] < -0.025
    few = score_difference(arm, {**arm, 0: 1.0}, rng)
    assert few is not None
    assert few.interval is None
    assert score_difference({1: 0.5}, {2: 0.5}, rng) is None


def test_strata_count_the_same_and_one_is_itself() -> None:
    alone = pooled([(1, 7, 21)])
    assert alone.difference_interval == pytest.approx(tango(1, 7, 21))
    assert alone.p_value == pytest.approx(0.0703, abs=5e-5)
    both = pooled([(1, 7, 21), (10, 10, 1000)])
    assert both.difference == pytest.approx((-6 / 21) / 2)
    assert (both.n_strata, both.n, both.wins, both.losses) == (2, 1021, 11, 17)
    assert pooled([(0, 0, 9)]).p_value == 1.0


def test_the_pooled_interval_covers() -> None:
    rng = np.random.default_rng(0)
    first = rng.multinomial(80, [0.05, 0.15, 0.8], 400)
    second = rng.multinomial(120, [0.1, 0.1, 0.8], 400)
    hits = 0
    for a, b in zip(first, second, strict=True):
        low, high = pooled(
            [(int(a[0]), int(a[1]), 80), (int(b[0]), int(b[1]), 120)]
        ).difference_interval
        hits += low <= -0.05 <= high
    assert hits / 400 == pytest.approx(0.95, abs=0.03)
