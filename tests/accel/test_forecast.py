"""Coefficient rules against the formulas, and exactness on uneven anchors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.caches.forecast import (
    adams_bashforth,
    adams_bashforth_online,
    fitted,
    has_compat,
    lagrange,
    linear,
    step_derivative,
    within_trust,
)
from accel.caches.forecast_rules import RULES, ForecastSettings

UNEVEN = [37, 30, 28, 17, 5]  # newest first
T = 44


@st.composite
def cells(draw: st.DrawFn, n: int = 5) -> tuple[list[int], int]:
    """Distinct anchors, newest first, and a later step."""
    steps = sorted(draw(st.sets(st.integers(0, 99), min_size=n + 1, max_size=n + 1)))
    return steps[:-1][::-1], steps[-1]


@pytest.mark.parametrize("h", [1, 3, 0.5])
@pytest.mark.parametrize(
    ("order", "textbook"),
    [
        (1, [1]),
        (2, [3 / 2, -1 / 2]),
        (3, [23 / 12, -16 / 12, 5 / 12]),
        (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
    ],
)
def test_adams_bashforth_on_equal_steps_is_the_textbooks(
    order: int, textbook: list[float], h: float
) -> None:
    anchors = 7 - h * np.arange(order + 2)
    assert adams_bashforth(anchors, 7 + h, order) == pytest.approx(h * np.array(textbook))


def test_adams_bashforth_on_uneven_steps_is_the_closed_form() -> None:
    h, a, b = 7.0, 9.0, 20.0
    two = [h + h**2 / (2 * a), -(h**2) / (2 * a)]
    three = [
        (h**3 / 3 + (a + b) * h**2 / 2 + a * b * h) / (a * b),
        -(h**3 / 3 + b * h**2 / 2) / (a * (b - a)),
        (h**3 / 3 + a * h**2 / 2) / (b * (b - a)),
    ]
    assert adams_bashforth([50, 41, 30], 57, 2) == pytest.approx(two)
    assert adams_bashforth([50, 41, 30], 57, 3) == pytest.approx(three)


@given(cells(), st.integers(1, 4))
def test_adams_bashforth_is_exact_to_its_order_with_exact_derivatives(
    cell: tuple[list[int], int], order: int
) -> None:
    anchors, t = cell
    power = np.polynomial.Polynomial(np.arange(1, order + 2) / 100.0 ** np.arange(order + 1))
    w = adams_bashforth(anchors, t, order)
    forecast = power(anchors[0]) + w @ power.deriv()(np.array(anchors[:order]))
    scale = 1 + np.abs(w).sum()
    assert forecast == pytest.approx(power(t), abs=1e-9 * scale)


@given(cells(), st.integers(0, 4))
def test_lagrange_is_exact_to_its_order(cell: tuple[list[int], int], order: int) -> None:
    anchors, t = cell
    alpha = lagrange(anchors, t, order)
    for degree in range(order + 1):
        values = (np.array(anchors[: order + 1]) / 100) ** degree
        assert alpha @ values == pytest.approx((t / 100) ** degree, abs=1e-9 * np.abs(alpha).sum())


DEGREES: dict[str, Callable[[int], int]] = {  # polynomials of the step that are forecast exactly
    "reuse": lambda order: 0,
    "linear": lambda order: 1,
    "lagrange": lambda order: order,
    "adams_bashforth": lambda order: 1,
    "adams_bashforth_offline": lambda order: 0,  # of the values; `order` of their mean
    "fitted": lambda order: 0,
    "has_compat": lambda order: 1,
}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("damping", [1.0, 0.5])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_exact_to_its_degree(name: str, damping: float, order: int) -> None:
    rule, s = RULES[name], ForecastSettings(name, order, damping, trust=None)
    anchors = np.array(UNEVEN[: rule.n_anchors(s)], dtype=np.float64)
    line = np.random.default_rng(0).normal(size=(50, 3)).cumsum(axis=0)
    alpha = rule.alpha(anchors, T, s, line @ line.T)
    degree = DEGREES[name](order) if damping == 1 or name == "has_compat" else 0
    for d in range(degree + 1):
        assert alpha @ anchors**d == pytest.approx(float(T**d))
    assert alpha @ anchors ** (degree + 1) != pytest.approx(float(T ** (degree + 1)), rel=1e-4)


@settings(max_examples=200)
@given(
    name=st.sampled_from(sorted(RULES)),
    order=st.integers(1, 4),
    n_anchors=st.integers(1, 6),
    damping=st.floats(0, 1),
    cell=cells(6),
)
def test_coefficients_sum_to_one_with_any_number_of_anchors(
    name: str, order: int, n_anchors: int, damping: float, cell: tuple[list[int], int]
) -> None:
    rule, s = RULES[name], ForecastSettings(name, order, damping)
    anchors = np.array(cell[0][:n_anchors], dtype=np.float64)[: rule.n_anchors(s)]
    gram = np.cov(np.random.default_rng(0).normal(size=(100, 7)).cumsum(axis=0))
    alpha = rule.alpha(anchors, cell[1], s, gram)
    assert alpha.sum() == pytest.approx(1, abs=1e-9 * np.abs(alpha).sum())
    assert (alpha[len(anchors) :] == 0).all()
    now = rule.alpha(anchors, anchors[0], s, gram)
    if name != "has_compat" or len(anchors) == 1:
        assert now == pytest.approx(np.eye(len(now))[0], abs=1e-9)
    assert np.abs(within_trust(alpha, 1.5)).sum() <= 1.5 + 1e-9


def test_a_parabola_is_1681_and_the_flawed_rules_are_not() -> None:
    anchors, t = [40, 20, 0], 41
    values, slopes = np.array([1600.0, 400.0, 0.0]), np.array([80.0, 40.0, 0.0])
    for order in (2, 3):
        assert 1600 + adams_bashforth(anchors, t, order) @ slopes[:order] == pytest.approx(1681)
    assert lagrange(anchors, t, 2) @ values == pytest.approx(1681)
    assert adams_bashforth_online(anchors, t, 2) @ values == pytest.approx(1661)
    mix, w = has_compat(anchors, t)
    assert mix @ values + w @ slopes == pytest.approx(1348)


def test_the_printed_quadratic_formula_is_lagrange_at_zero() -> None:
    t0, t1, t2 = 40, 30, 10
    printed = [
        t1 * t2 / ((t0 - t1) * (t0 - t2)),
        t0 * t2 / ((t1 - t0) * (t1 - t2)),
        t0 * t1 / ((t2 - t0) * (t2 - t1)),
    ]
    assert lagrange([t0, t1, t2], 0, 2) == pytest.approx(printed)
    assert lagrange([t0, t1, t2], 41, 2) != pytest.approx(printed)


@given(cells(), st.integers(1, 4))
def test_adams_bashforth_on_the_interpolants_derivatives_is_lagrange(
    cell: tuple[list[int], int], order: int
) -> None:
    anchors, t = cell
    points, values = np.array(anchors[: order + 1]), np.random.default_rng(t).normal(size=order + 1)
    through = np.polynomial.Polynomial.fit(points, values, order)
    w = adams_bashforth(anchors, t, order)
    alpha = lagrange(anchors, t, order)
    forecast = values[0] + w @ through.deriv()(points[:order])
    assert forecast == pytest.approx(alpha @ values, rel=1e-6, abs=1e-6 * np.abs(alpha).sum())


def test_known_linear_coefficients_and_damping() -> None:
    assert linear([40, 20], 45) == pytest.approx([1.25, -0.25])
    assert linear([40, 20], 45, damping=0.4) == pytest.approx([1.1, -0.1])
    assert linear([40, 20], 45, damping=0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("order", "gains"),
    [(0, [1.00] * 4), (1, [1.58, 1.80, 1.90, 1.97]), (2, [2.28, 2.90, 3.24, 3.45])],
)
def test_noise_grows_as_tabulated_at_the_last_skip(order: int, gains: list[float]) -> None:
    found = [
        np.linalg.norm(lagrange(-interval * np.arange(4), interval - 1, order))
        for interval in (2, 3, 4, 5)
    ]
    assert found == pytest.approx(gains, abs=0.006)


def test_fewer_anchors_lower_the_order() -> None:
    assert lagrange([9, 4], 12, 3) == pytest.approx([*lagrange([9, 4], 12, 1), 0, 0])
    assert adams_bashforth([9], 12, 3).tolist() == [3, 0, 0]
    assert adams_bashforth_online([9], 12, 2).tolist() == [1, 0, 0]
    assert adams_bashforth_online([9, 4], 12, 4)[:2] == pytest.approx(linear([9, 4], 12))


def test_equal_anchors_and_unknown_orders_are_refused() -> None:
    with pytest.raises(AssertionError, match="distinct"):
        lagrange([5, 5, 1], 6, 2)
    with pytest.raises(AssertionError, match="distinct"):
        adams_bashforth([5, 5, 1], 6, 2)
    with pytest.raises(ValueError, match="order must be from 1 to 4, got 5"):
        adams_bashforth([5, 4], 6, 5)


def test_fitted_coefficients_minimise_the_error_and_the_ridge_pulls_to_reuse() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(30, 40)).cumsum(axis=0)
    gram, anchors, t = values @ values.T, [20, 14, 9], 25

    def error(alpha: np.ndarray) -> float:
        return float(np.linalg.norm(values[t] - alpha @ values[anchors]))

    best = fitted(gram, anchors, t, 2)
    for nudge in random.normal(size=(50, 3)):
        assert error(best) <= error(best + 0.1 * (nudge - nudge.mean())) + 1e-9
    ridged = [fitted(gram, anchors, t, 2, ridge)[0] for ridge in (0, 0.1, 10, 1e6)]
    assert np.all(np.diff(np.abs(np.array(ridged) - 1)) < 0)
    assert fitted(gram, anchors, t, 2, 1e9) == pytest.approx([1, 0, 0], abs=1e-6)
    assert fitted(np.ones((30, 30)), anchors, t, 2).tolist() == [1, 0, 0]


def test_trust_binds_only_where_it_must() -> None:
    inside = np.array([1.5, -0.5])
    assert within_trust(inside, 2) is inside
    assert within_trust(np.array([3.0, -2.0]), 3) == pytest.approx([2, -1])
    assert within_trust(np.array([-3.0, 4.0]), 2) == pytest.approx([-0.5, 1.5])
    assert within_trust(np.array([3.0, -2.0]), 1).tolist() == [1, 0]


def test_derivatives_of_stored_means() -> None:
    t = np.arange(9.0)
    f = np.stack([t**4, t**2, t], axis=1).astype(np.float32)
    d = step_derivative(f)
    assert d[2:-2, 0] == pytest.approx(4 * t[2:-2] ** 3)
    assert d[:, 1] == pytest.approx(2 * t)
    assert d[:, 2] == pytest.approx(np.ones(9))
    assert step_derivative(f[:3])[:, 1] == pytest.approx([0, 2, 4])
    assert step_derivative(f[:2])[:, 1].tolist() == [1, 1]
    assert step_derivative(f[3:4])[:, 0].tolist() == [0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forecast": "abm"}, "cache.forecast=abm is not offered: it is implicit and needs the"),
        ({"forecast": "bdf"}, "cache.forecast=bdf is not offered: it is implicit and needs the"),
        ({"forecast": "x"}, "cache.forecast must be one of reuse, linear, lagrange, adams_bashfor"),
        ({"order": 0}, "cache.order must be from 1 to 4, got 0"),
        ({"damping": 1.1}, "cache.damping must be from 0 to 1, got 1.1"),
        ({"ridge": -1}, "cache.ridge must be at least 0 and finite, got -1"),
        ({"trust": 0.9}, "cache.trust must be at least 1, or null, got 0.9"),
        ({"trust": np.inf}, "cache.trust must be at least 1, or null, got inf"),
    ],
)
def test_settings_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="cache") as error:
        ForecastSettings(**change)
    assert words in str(error.value)
