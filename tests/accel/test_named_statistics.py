"""A calibration holds what was measured, by name: more or fewer statistics, and plug-ins'."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from accel import (
    CACHES,
    STATISTICS,
    BacConfig,
    CachePlan,
    Calibration,
    FirstBlockConfig,
    PlanError,
    Statistic,
    TeaCacheConfig,
    accelerated,
    calibrate,
    complete,
    resolve,
    shared_plan,
)
from accel.caches import Method
from accel.calibration import STANDARD
from accel.calibration.statistics import Mean, Seen
from policies import DiffusionPolicy, from_reference
from tests.helpers.stock import OBS, TO, live_policy

M = 9
NEWER = ("probe", "response", "depth_change")  # teacache's and first_block's


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return from_reference(live_policy(sampler="ddim"))


def queries() -> tuple[torch.Tensor, list[torch.Generator]]:
    obs = torch.randn((M, TO, OBS), generator=torch.Generator().manual_seed(3))
    return obs, [torch.Generator().manual_seed(i) for i in range(M)]


@pytest.fixture(scope="module")
def whole(policy: DiffusionPolicy) -> Calibration:
    return calibrate(policy, *queries(), progress=False)


@dataclass
class LoudConfig:
    """Computes the steps in which the last branch is large."""

    name: str = "loud"
    share: float = 0.5


def loudness(query: Seen) -> dict[str, np.ndarray]:
    return {"loudness": query.features[-1].flatten(1).norm(dim=1).double().cpu().numpy()}


def resolve_loud(config: LoudConfig, policy: Any, calibration: Any) -> CachePlan:
    order = np.argsort(-calibration.loudness)[: int(config.share * policy.n_inference_steps)]
    return shared_plan(policy, sorted({0, *order.tolist()}), "loud")


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache and its statistic, as a package of somebody else registers them."""
    statistic = Statistic(
        lambda: Mean(loudness), lambda e: {"loudness": (np.float64, (e.n_steps,))}
    )
    monkeypatch.setitem(STATISTICS, "loudness", statistic)
    monkeypatch.setitem(CACHES, "loud", Method(LoudConfig, resolve_loud, needs=("loudness",)))


@pytest.mark.usefixtures("plugged_in")
def test_a_cache_from_outside_has_a_statistic_of_its_own(
    policy: DiffusionPolicy, whole: Calibration, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match=r"cache=loud needs loudness, which this calibration does"):
        resolve(policy, LoudConfig(), whole)
    more = complete(whole, policy, *queries(), ["loudness"], progress=False)
    assert more.digest() == whole.digest()
    assert more.digest(["loudness"]) != whole.digest()
    assert more.digest(["gram"]) == whole.digest()
    assert (
        resolve(policy, BacConfig(steps=3), more).digest()
        == resolve(policy, BacConfig(steps=3), whole).digest()
    )
    again = Calibration.load(more.save(tmp_path))
    assert again.digest(["loudness"]) == more.digest(["loudness"])
    with accelerated(policy, LoudConfig(), calibration=again) as fast:
        assert torch.isfinite(fast.act(*queries())).all()
        assert 1 < fast.plan.mask[:, 0].sum() < policy.n_inference_steps
    assert complete(again, policy, *queries(), ["loudness"]) is again
    with pytest.raises(PlanError, match="the calibration is of 9 queries, got 8: loudness must"):
        complete(whole, policy, queries()[0][:8], queries()[1][:8], ["loudness"])


def test_what_an_absent_plug_in_measured_is_kept_and_checked(
    policy: DiffusionPolicy, whole: Calibration, tmp_path: Path
) -> None:
    path = whole.with_added({"foreign": np.arange(5.0)}).save(tmp_path)
    again = Calibration.load(path)
    assert again.foreign.tolist() == [0, 1, 2, 3, 4]
    assert again.digest() == whole.digest()
    arrays = load_file(path.with_suffix(".safetensors"))
    save_file(arrays | {"foreign": np.zeros(5)}, path.with_suffix(".safetensors"))
    with pytest.raises(PlanError, match="digest does not match the content of foreign"):
        Calibration.load(path)
    save_file(arrays | {"more": np.zeros(5)}, path.with_suffix(".safetensors"))
    with pytest.raises(PlanError, match="arrays differ from the schema's: more"):
        Calibration.load(path)


def test_fewer_statistics_serve_fewer_caches_until_they_are_added(
    policy: DiffusionPolicy, whole: Calibration, tmp_path: Path
) -> None:
    older = [name for name in STANDARD if name not in NEWER]
    few = calibrate(policy, *queries(), progress=False, statistics=older)
    assert few.statistics == set(older)
    assert all(np.array_equal(few.arrays[name], whole.arrays[name]) for name in few.arrays)
    few = Calibration.load(few.save(tmp_path))
    resolve(policy, BacConfig(steps=3), few)
    words = r"cache=teacache needs probe, response, .*`python run.py runner=calibrate cache=teac"
    with pytest.raises(PlanError, match=words):
        resolve(policy, TeaCacheConfig(), few)
    more = complete(few, policy, *queries(), CACHES["teacache"].needs, progress=False)
    assert more.digest() == few.digest()
    assert np.array_equal(more.probe, whole.probe)
    with pytest.raises(PlanError, match="cache=first_block needs depth_change"):
        resolve(policy, FirstBlockConfig(), Calibration.load(more.save(tmp_path)))


def test_sensitivity_alone_reads_the_stream_without_keeping_it(
    policy: DiffusionPolicy, whole: Calibration
) -> None:
    alone = calibrate(policy, *queries(), progress=False, statistics=["sensitivity"])
    assert set(alone.arrays) == {"sensitivity"}
    assert np.array_equal(alone.sensitivity, whole.sensitivity)
    with pytest.raises(ValueError, match=r"a statistic must be one of similarity, .*, got 'mood'"):
        calibrate(policy, *queries(), statistics=["mood"])
    with pytest.raises(AttributeError, match="the calibration holds no 'gram'"):
        _ = alone.gram


def test_a_file_of_today_is_the_file_of_before(whole: Calibration, tmp_path: Path) -> None:
    """Keys, and what the digest is of, are those that earlier versions wrote and read."""
    content = json.loads(whole.save(tmp_path).read_text())
    assert list(content) == [
        *("schema", "policy", "n_queries", "n_steps", "n_layers", "n_tokens", "width", "sites"),
        *("volatility", "source", "versions", "digest"),
    ]
    assert content["schema"] == "skipstep-calibration/3"
    assert set(load_file(tmp_path / "calibration.safetensors")) == {
        *(f"{group}.{m}" for group in ("similarity", "spread") for m in ("cos", "mse", "l1", "l2")),
        *("volatility", "gram", "mean", "stream", "sensitivity", "probe", "response"),
        "depth_change",
    }
    assert replace(whole, source={}).digest() == content["digest"]


def test_noise_is_left_as_it_came(policy: DiffusionPolicy) -> None:
    obs, noise = queries()
    states = [generator.get_state() for generator in noise]
    calibrate(policy, obs, noise, progress=False, statistics=["volatility"])
    assert all(torch.equal(g.get_state(), s) for g, s in zip(noise, states, strict=True))
