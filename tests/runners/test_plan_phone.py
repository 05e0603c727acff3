"""The drawings of plan.html on a narrow screen: all of the plan is in view, and can be read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from accel import UniformConfig, resolve
from accel.plans.plan import CachePlan
from policies import load_policy
from runners import html, svg
from runners.show.drawings import PHONE, RIGHT, WIDTH, plan_grid
from tests.helpers.browser import ask, with_browser
from tests.helpers.places import PROJECT

SEEN = """({
  wide: d.documentElement.scrollWidth - d.documentElement.clientWidth,
  shown: [...d.querySelectorAll('svg.chart')].filter(c => c.getBoundingClientRect().width)
    .map(c => c.viewBox.baseVal.width),
  right: Math.max(...[...d.querySelectorAll('svg.chart path')]
    .map(p => p.getBoundingClientRect().right)),
  text: Math.min(...[...d.querySelectorAll('svg.chart text')]
    .map(t => t.getBoundingClientRect().height).filter(height => height)),
})"""


@pytest.fixture(scope="module")
def plan() -> CachePlan:
    return resolve(load_policy(PROJECT / "checkpoints/kitchen"), UniformConfig(steps=20))


@pytest.mark.parametrize("width", [PHONE, WIDTH])
def test_the_last_step_ends_at_the_edge(width: float, plan: CachePlan) -> None:
    drawing = plan_grid(plan, width)
    assert drawing.width == width
    left, across = map(
        float, re.search(r"translate\(([\d.]+) \S+ scale\(([\d.]+)", drawing.inner).groups()
    )
    assert left + across * plan.n_steps == pytest.approx(width - RIGHT, abs=0.1)
    assert plan.mask[-1].all()
    assert ">90</text>" in drawing.inner


def test_a_legend_takes_the_lines_that_it_needs(plan: CachePlan) -> None:
    many = [("#000000", f"forecast from {i} values") for i in range(6)]
    drawing = svg.Drawing(PHONE, 200)
    drawing.legend(50, 14, many)
    ends = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)<', drawing.inner)
    assert len({y for _, y, _ in ends}) == svg.legend_lines(PHONE - 50, [n for _, n in many]) > 1
    assert all(float(x) + svg.CHARACTER_PX * len(words) <= PHONE for x, _, words in ends)
    assert np.ptp([float(y) for _, y, _ in ends]) < 100


@with_browser
@pytest.mark.parametrize(("width", "drawn"), [(390, PHONE), (1280, WIDTH)])
def test_the_whole_plan_is_in_view(
    width: int, drawn: float, plan: CachePlan, tmp_path: Path
) -> None:
    figure = plan_grid(plan).html("plan", "A plan.", phone=plan_grid(plan, PHONE))
    page = tmp_path / "plan.html"
    page.write_text(html.page("Plan", "", [figure], style=svg.STYLE))
    found = ask(page, width, tmp_path / "look", SEEN)
    assert (found["wide"], found["shown"]) == (0, [drawn])
    assert 0.8 * width < found["right"] <= width
    assert found["text"] > 9
