"""Pictures of plans, from the command line: files, numbers, what loads from where, mistakes."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import accel
from accel import CachePlan, Calibration, UniformConfig, query_flops, resolve, shared_plan, sites_of
from accel.calibration.statistics import METRICS, Extent
from accel.plans.flops import flops_by_step
from policies import DiffusionPolicy, load_policy
from runners.cli import run
from runners.show import prepare as prepare_show
from runners.show.calibration import png
from runners.show.plan_view import CELLS, arm, cells, differences, ranges, summary
from tests.helpers import run_files
from tests.helpers.places import FIXTURES

FIXTURE = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
SHOW = ["runner=show", f"task.checkpoint={FIXTURE}", "threads=1", "logger=none"]
UNIFORM = ["cache=uniform", "cache.steps=10"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return load_policy(FIXTURE)


def shown(*overrides: str) -> Path:
    before = set(Path.cwd().glob("multirun/main/*"))
    assert run([*SHOW, *overrides]) == 0
    (folder,) = set(Path.cwd().glob("multirun/main/*")) - before
    return folder


class Page(HTMLParser):
    """What a page loads, names and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.labels: list[str] = []
        self.n_tables = 0
        self.images = 0
        self.viewport = False
        self.said = ""
        self.hovered: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loads += [
            v or ""
            for k, v in attrs
            if k in ("src", "href", "srcset", "data")
            and not (v or "").startswith("data:image/png;base64,")
        ]
        self.labels += [values["aria-label"] or ""] if values.get("role") == "img" else []
        self.n_tables += tag == "table"
        self.images += tag == "image"
        self.viewport |= values.get("name") == "viewport"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "title":
            self.hovered.append(data)
        elif self.open and self.open[-1] not in ("script", "style"):
            self.said += data


def read(folder: Path) -> Page:
    file = folder / "plan.html"
    assert file.stat().st_size < 1_000_000
    page = Page(file.read_text())
    assert not page.open
    assert not page.loads
    assert page.viewport
    assert all(page.labels)
    return page


def test_a_plan(policy: DiffusionPolicy, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shown(*UNIFORM)
    expected = resolve(policy, UniformConfig(steps=10))
    plan = CachePlan.load(folder / "plan.json")
    assert plan.digest() == expected.digest()
    assert np.array_equal(plan.mask, expected.mask)
    page = read(folder)
    assert len(page.labels) == 3  # the grid, updates, FLOPs
    assert page.n_tables == 3
    assert expected.digest() in page.said
    assert "60 of 600 cells computed" in page.said
    picture = ElementTree.parse(folder / "plan.svg").getroot()
    said = " ".join(picture.itertext())
    assert "10.0% of cells computed" in said
    assert "0 sa, steps 1-20: reused" in page.hovered
    assert "0 sa, steps 1-20: reused" in said
    said = capfd.readouterr().out
    assert expected.digest() in said
    assert str(folder.relative_to(Path.cwd()) / "plan.html") in said
    result = json.loads((folder / "result.json").read_text())
    assert result["plans"][0]["flops"]["query"] == query_flops(policy, expected.mask)
    assert result["plans"][0]["equivalent_steps"] == pytest.approx(10)
    assert {p.name for p in folder.glob("plan*")} == {"plan.json", "plan.html", "plan.svg"}


def test_two_plans_and_where_the_second_comes_from(policy: DiffusionPolicy) -> None:
    folder = shown(*UNIFORM, "runner.compare=none")
    result = json.loads((folder / "result.json").read_text())
    assert result["differing_cells"] == 90 * len(sites_of(policy))
    page = read(folder)
    assert len(page.labels) == 5
    assert "540 of 600 cells are computed in one plan only" in page.said
    everything = CachePlan.load(folder / "plan_compared.json")
    assert everything.mask.all()
    everything.save("other.json")
    again = json.loads((shown("runner.compare=other.json") / "result.json").read_text())
    assert again["labels"] == ["A: cache=none", "B: other.json"]
    assert again["differing_cells"] == 0
    drawn = prepare_show.compared(str(folder))  # the folder of a run of runner=show
    assert drawn.label == folder.name
    assert drawn.cache.digest() == resolve(policy, UniformConfig(steps=10)).digest()


def test_a_run_that_was_evaluated(
    policy: DiffusionPolicy, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("done").mkdir()
    cache = {"name": "uniform", "steps": 10}
    OmegaConf.save(run_files.config(cache=cache), "done/config.yaml")
    digest = resolve(policy, UniformConfig(steps=10)).digest()
    Path("done/result.json").write_text(run_files.result(stats={"plan": digest}))
    folder = shown(*UNIFORM, "runner.compare=done")
    assert json.loads((folder / "result.json").read_text())["differing_cells"] == 0
    Path("done/result.json").write_text(run_files.result(stats={"plan": "0" * 16}))
    assert run([*SHOW, *UNIFORM, "runner.compare=done"]) == 2
    assert "runner.compare=done ran the plan 0000000000000000" in capfd.readouterr().err


def test_with_a_calibration(policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = sites_of(policy)
    n = len(sites)
    similarity = np.random.default_rng(0).uniform(0, 1, (n, 100, 100))
    calibration = Calibration(
        sites=sites,
        policy=policy.fingerprint(),
        extent=Extent(8, 100, n, 8, 1, 1),
        arrays={
            **{f"similarity.{metric}": similarity for metric in METRICS},
            "volatility": np.arange(n, dtype=np.float64),
        },
        source={},
    )
    monkeypatch.setattr(prepare_show, "calibration_for", lambda *args: calibration)
    page = read(shown(*UNIFORM))
    # a matrix of each site, and the scale of their colours; and again for a narrow screen
    assert page.images == 2 * (n + 1)
    assert len(page.labels) == 5
    assert "the most volatile is 1 ff" in page.labels[-1]


def test_codes_of_cells(policy: DiffusionPolicy) -> None:
    plan = shared_plan(policy, [0, 5, 99], "reuse")
    alpha = np.zeros((*plan.mask.shape, 2))
    alpha[..., 0] = 1
    alpha[6, 0] = (2, -1)
    alpha[6, 1] = (0.5, 0)
    alpha[6, 2] = 0
    other = CachePlan(plan.sites, plan.mask, plan.policy, "forecast", alpha)
    names = [CELLS[code] for code in cells(other)[6, :4]]
    assert names == ["forecast from 2", "forecast from 1", "adds nothing", "reused"]
    assert [CELLS[c] for c in cells(plan)[4:7, 0]] == ["reused", "computed", "reused"]
    assert np.argwhere(differences(plan, other) == 4).tolist() == [[6, 0], [6, 1], [6, 2]]
    assert dict(summary([arm("A", plan, policy, policy), arm("B", other, policy, policy)]))[
        "hits that differ"
    ] == [
        "3 cells",
        "",
    ]
    assert ranges([0, 4, 5, 6, 9, 10]) == "0, 4-6, 9-10"
    bias = np.zeros((*plan.mask.shape, 1, 1), dtype=np.float32)
    bias[7, 3] = 1
    biased = replace(plan, bias=bias)
    assert [CELLS[c] for c in cells(biased)[7, 2:5]] == ["reused", "forecast from 1", "reused"]
    assert np.argwhere(differences(plan, biased) == 4).tolist() == [[7, 3]]
    assert not (differences(biased, biased) == 4).any()


def test_flops_by_step_add_up(policy: DiffusionPolicy) -> None:
    mask = np.random.default_rng(0).random((100, len(sites_of(policy)))) < 0.3
    parts = flops_by_step(policy, mask)
    assert sum(float(v.sum()) for v in parts.values()) == query_flops(policy, mask)
    alone = query_flops(policy, mask[7:8])
    assert sum(v[7] for v in parts.values()) == alone


def test_where_flops_are_not_known_there_is_a_dash(
    policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    uncounted = replace(accel.FAMILIES["transformer"], costs=None)
    monkeypatch.setitem(accel.FAMILIES, "transformer", uncounted)
    folder = shown(*UNIFORM, "runner.compare=none")
    page = read(folder)
    assert len(page.labels) == 4  # both grids, where they differ, updates
    (found, _) = json.loads((folder / "result.json").read_text())["plans"]
    assert {found["equivalent_steps"], *found["flops"].values()} == {None}
    assert re.search(r"^FLOPs a query +- +-$", capfd.readouterr().out, re.MULTILINE)


MISTAKES = {
    "runner.compare=hashab": "runner.compare must be one of none, uniform, bac, hash_ab, interval",
    "runner.compare=wrong.json": "wrong.json: schema must be skipstep-plan/1",
    "runner.compare=foreign.json": "the plan was made for another checkpoint or sampler",
    "runner.compare=short.json": "the plan has 100 steps, the policy's sampler 16",
    "runner.metric=dot": "runner.metric must be one of cos, mse, l1, l2, got 'dot'",
    "runner.title=a": "runner.title: unknown key, allowed: name, compare, metric",
    "cache.steps=101": "cache.steps must be at most 100 (the steps of the sampler), got 101",
    "quant=rtn": "quant must be none with runner=show, got rtn: it changes no plan",
    "task.checkpoint=nowhere": "no checkpoint at nowhere",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str, policy: DiffusionPolicy, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.json").write_text("{}")
    plan = shared_plan(policy, [0], "all")
    plan.save("short.json")
    CachePlan(plan.sites, plan.mask, "another", "all").save("foreign.json")
    sampler = ["sampler=ddim", "sampler.steps=16"] if "short" in mistake else []
    steps = [] if sampler else UNIFORM
    assert run([*SHOW, *steps, *sampler, mistake]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert MISTAKES[mistake] in error
    assert not Path("multirun").exists()


def test_matrices_are_pictures() -> None:
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    with Image.open(BytesIO(base64.b64decode(png(levels)))) as image:
        image.load()
        assert np.array_equal(np.asarray(image), levels)  # indices into the palette
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0x22, 0x4E)


def test_no_simulator_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    real, hidden = importlib.util.find_spec, ("mujoco", "gymnasium_robotics", "robosuite")
    monkeypatch.setattr(
        "runners.jobs.checkpoint.find_spec", lambda n: None if n in hidden else real(n)
    )
    assert shown(*UNIFORM)
