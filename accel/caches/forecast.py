"""Forecasts of a branch from its last computed values: the formulas.

Every rule is linear, sum_j alpha_j X_j, with coefficients that follow from the steps alone (fitted:
from the calibration as well), so all of them are known before a query runs. X_0 is the newest
stored value, computed in step t_0, X_1 the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial

Anchors = Sequence[float] | np.ndarray
MAX_ORDER = 4
COMPAT_MIX = {1: (1.0,), 2: (0.7, 0.3), 3: (0.5, 0.3, 0.2), 4: (0.4, 0.3, 0.2, 0.1)}


def _points(anchors: Anchors, n: int) -> np.ndarray:
    points = np.asarray(anchors, dtype=np.float64)[:n]
    assert len(points), "a forecast needs an anchor"
    assert len(np.unique(points)) == len(points), f"anchors must be distinct, got {anchors}"
    return points


def lagrange(anchors: Anchors, t: float, order: int) -> np.ndarray:
    """Coefficients of the interpolating polynomial at t: exact to degree `order`.

    Args:
        anchors: steps of the last computed values, newest first; extra ones are ignored, and with
            fewer than order + 1 the order is lowered.
        t: the step to forecast.
        order: at least 0.

    Returns:
        alpha, (order + 1,) float64, zero for missing anchors; the forecast is sum_j alpha_j X_j.

    Example:
        >>> lagrange([6, 4], t=8, order=1).tolist()
        [2.0, -1.0]
    """
    points = _points(anchors, order + 1)
    alpha = np.zeros(order + 1)
    for j, own in enumerate(points):
        others = np.delete(points, j)
        alpha[j] = np.prod((t - others) / (own - others))
    return alpha


def linear(anchors: Anchors, t: float, damping: float = 1.0) -> np.ndarray:
    """(2,): the line through the last two values, at t_0 + damping (t - t_0); damping 0 reuses."""
    return lagrange(anchors, anchors[0] + damping * (t - anchors[0]), 1)


def adams_bashforth(anchors: Anchors, t: float, order: int) -> np.ndarray:
    """Weights of the derivatives at the anchors: exact to degree `order` if those are exact.

    The derivative's interpolating polynomial is integrated from t_0 to t, so steps may be uneven
    (with equal steps h these are the textbook weights, h (3, -1) / 2 and so on). AB-Cache (arXiv
    2504.10540) has equal steps only.

    Args:
        anchors: as for `lagrange`; with fewer than `order` the order is lowered.
        t: the step to forecast.
        order: 1 to 4.

    Returns:
        w, (order,) float64; the forecast is X_0 + sum_j w_j d_j with d_j the derivative at anchor
        j.

    Raises:
        ValueError: the order is not offered.

    Example:
        >>> adams_bashforth([6, 5], t=7, order=2).round(3).tolist()
        [1.5, -0.5]
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be from 1 to {MAX_ORDER}, got {order}")
    points = _points(anchors, order)
    scale = max(float(np.ptp(points)), abs(t - points[0]), 1.0)
    places, end = (points - points[0]) / scale, (t - points[0]) / scale
    w = np.zeros(order)
    for j, own in enumerate(places):
        others = np.delete(places, j)
        integral = polynomial.polyint(polynomial.polyfromroots(others))
        w[j] = scale * polynomial.polyval(end, integral) / np.prod(own - others)
    return w


def with_differences(anchors: Anchors, mix: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sum mix_j X_j + sum w_j d_j with d_j the backward difference at anchor j, as coefficients.

    The oldest anchor has no value behind it and takes its neighbour's difference.

    Returns:
        (len(anchors),), for at least two anchors.
    """
    points = _points(anchors, len(anchors))
    alpha = np.zeros(len(points))
    alpha[: len(mix)] = mix
    for j, weight in enumerate(w):
        newer = min(j, len(points) - 2)
        slope = weight / (points[newer] - points[newer + 1])
        alpha[newer] += slope
        alpha[newer + 1] -= slope
    return alpha


def adams_bashforth_online(anchors: Anchors, t: float, order: int) -> np.ndarray:
    """(order + 1,): Adams-Bashforth on backward differences of the values themselves.

    Exact to degree 1, since the differences are. The order is lowered to len(anchors) - 1; with one
    anchor this is reuse.
    """
    alpha = np.zeros(order + 1)
    points = _points(anchors, order + 1)
    if len(points) == 1:
        alpha[0] = 1.0
        return alpha
    w = adams_bashforth(points, t, len(points) - 1)
    alpha[: len(points)] = with_differences(points, np.ones(1), w)
    return alpha


def taylor_compat(anchors: Anchors, t: float, order: int) -> np.ndarray:
    """(order + 1,): the recursion of TaylorSeer and of the libraries that follow it.

    D_0 = X and D_{i+1} = (D_i now - D_i at the previous anchor) / g, g the newest gap for every
    order, then sum_i D_i (t - t_0)^i / i!. So it is exact to degree 1 only: t^2 from 6, 3, 0 is 6
    off at t = 8, where `lagrange` is not. Orders are lowered to len(anchors) - 1.
    """
    points = _points(anchors, order + 1)[::-1]  # oldest first
    alpha, power = np.zeros(order + 1), 1.0
    rows = np.eye(len(points))  # D_i at each anchor, as coefficients of the values
    for i in range(len(points)):
        alpha[: len(points)] += power * rows[-1, ::-1]
        rows = (rows[1:] - rows[:-1]) / np.diff(points)[i:, None]
        power *= (t - points[-1]) / (i + 1)
    return alpha


def has_compat(anchors: Anchors, t: float) -> tuple[np.ndarray, np.ndarray]:
    """The rule of the reference implementation of HAS, for comparison only.

    Each of the last four anchors makes a forecast by Adams-Bashforth weights for *equal* steps,
    whose order is the number of anchors up to it, and these are mixed with fixed weights. So it is
    exact to degree 1 only: t^2 with anchors 0, 20, 40 and exact derivatives gives 1348 at t = 41.

    Returns:
        (mix, w), each (min(len(anchors), 4),); the forecast is sum mix_j X_j + sum w_j d_j.
    """
    points = _points(anchors, max(COMPAT_MIX))
    n = len(points)
    mix, w = np.array(COMPAT_MIX[n]), np.zeros(n)
    for i in range(n):
        equal = adams_bashforth(-np.arange(n - i), 1, n - i)
        w[i:] += mix[i] * (t - points[i]) * equal
    return mix, w


def fitted(
    gram: np.ndarray, anchors: Anchors, t: float, order: int, ridge: float = 0.0
) -> np.ndarray:
    """Coefficients of least mean squared error over the calibration queries.

    Args:
        gram: (N, N), mean inner products of the site's values in steps i and j.
        anchors: as for `lagrange`, integers below N.
        t: the step to forecast, an integer below N.
        order: anchors used besides the newest.
        ridge: pull towards reuse, in units of the mean squared difference of anchors.

    Returns:
        alpha, (order + 1,) float64. They sum to 1, so that a constant branch is forecast exactly.
    """
    steps = _points(anchors, order + 1).astype(int)
    newest, older = steps[0], steps[1:]
    alpha = np.zeros(order + 1)
    alpha[0] = 1.0
    rows = np.r_[older, int(t)]  # inner products of X_i - X_0
    moved = gram[rows[:, None], rows] - gram[rows, newest][:, None] - gram[newest, rows]
    moved = moved + gram[newest, newest]
    normal, target = moved[:-1, :-1], moved[:-1, -1]
    size = float(np.trace(normal)) / max(len(older), 1)
    if size <= 0:
        return alpha
    normal = normal + ridge * size * np.eye(len(older))
    beta = np.linalg.pinv(normal, rcond=1e-12, hermitian=True) @ target
    alpha[1 : len(steps)] = beta
    alpha[0] -= beta.sum()
    return alpha


def within_trust(alpha: np.ndarray, trust: float | None) -> np.ndarray:
    """Pull coefficients with sum 1 towards reuse until sum |alpha_j| is at most `trust` (>= 1)."""
    if trust is None or float(np.abs(alpha).sum()) <= trust:
        return alpha
    reuse = np.zeros_like(alpha)
    reuse[0] = 1.0
    move = alpha - reuse
    older = float(np.abs(move[1:]).sum())
    # sum |alpha_j| along the way is the larger of 1 + share (m_0 + older), share (older - m_0) - 1
    bounds = [(trust - 1, older + move[0]), (trust + 1, older - move[0])]
    share = min(float(room / rate) for room, rate in bounds if rate > 1e-12)
    return np.asarray(reuse + share * move)


def step_derivative(values: np.ndarray) -> np.ndarray:
    """Derivative along axis 0, unit steps, same shape and dtype float32.

    Five-point in the inside, three-point beside and at the ends (one-sided there), so at least
    second order everywhere; two values give their difference, one gives zero. AB-Cache's ends are
    first order.
    """
    f = np.asarray(values, dtype=np.float32)
    if len(f) < 2:
        return np.zeros_like(f)
    if len(f) == 2:
        return np.stack([f[1] - f[0]] * 2)
    d = np.empty_like(f)
    d[1:-1] = (f[2:] - f[:-2]) / 2
    d[0] = (-3 * f[0] + 4 * f[1] - f[2]) / 2
    d[-1] = (3 * f[-1] - 4 * f[-2] + f[-3]) / 2
    if len(f) > 4:
        d[2:-2] = (f[:-4] - 8 * f[1:-3] + 8 * f[3:-1] - f[4:]) / 12
    return d
