"""benchmarks/action_error.py: errors are what they say, choices are made on other queries."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import BacConfig, UniformConfig, calibrate, resolve
from benchmarks import study_error
from benchmarks.action_error import main, report
from benchmarks.actions import choose, study
from benchmarks.actions.arms import ARMS
from benchmarks.actions.candidates import Budget, block_schedules, flops_share
from benchmarks.actions.choose import Chooser
from benchmarks.actions.measure import Program, actions_of, own_spread, rms, scores
from benchmarks.actions.questions import Ground, Questions
from benchmarks.actions.study import Table, ordered, run_sampler
from benchmarks.actions.transformer_caches import METHODS, NEAR
from runners.episodes.queries import Queries
from tests.accel.test_calibration import small_policy
from tests.helpers.places import PROJECT

N, M, K, S = 20, 8, 3, 4


def questions(policy: Any, first_seed: int, n_noises: int) -> Questions:
    seeds = np.arange(first_seed, first_seed + M)
    generator = torch.Generator().manual_seed(first_seed)
    obs = torch.randn((M, policy.n_obs_steps, policy.obs_dim), generator=generator).numpy()
    queries = Queries(obs, seeds, np.zeros(M, dtype=np.int64))
    answers = [
        actions_of(Program(policy, None), obs, queries.noise(seed)) for seed in range(1 + n_noises)
    ]
    return Questions(obs, queries, 0, answers[0], np.stack([answers[0], *answers[1:]], 1)[:, 1:])


@pytest.fixture(scope="module")
def ground() -> Ground:
    policy = small_policy()
    policy = policy.with_sampler(policy.config.sampler.with_steps("ddpm", N))
    choosing, reporting = questions(policy, 0, 0), questions(policy, 100, K)
    calibration = calibrate(policy, torch.from_numpy(choosing.obs), choosing.noise())
    return Ground("ddpm", policy, calibration, choosing, reporting)


def budget(ground: Ground, steps: int = S) -> Budget:
    return Budget(ground.policy, ground.calibration, steps, ground.choosing)


def test_distances_follow_their_definition() -> None:
    plain, others = np.zeros((2, 3, 2)), np.zeros((2, 2, 3, 2))
    others[0, 0], others[0, 1] = 1.0, 3.0  # pairs of the first query: 1, 3, 2
    np.testing.assert_allclose(own_spread(plain, others), [2.0, 0.0])
    actions = plain.copy()
    actions[0, 0, 0] = np.sqrt(6.0)  # one of six elements
    np.testing.assert_allclose(rms(actions, plain), [1.0, 0.0])
    asked = Questions(np.zeros((2, 1, 1)), None, 0, plain, others)  # type: ignore[arg-type]
    found = scores(actions, asked)
    assert found["error_mean"] == pytest.approx(0.5)
    assert found["flips"] == 0.5  # the second query's noise changes nothing: any error is a flip
    assert found["relative"] == pytest.approx(0.5)
    flipped = scores(plain + 2.0, asked)
    assert flipped["flips"] == 1.0


def test_every_cell_computed_has_no_error(ground: Ground) -> None:
    asked = ground.reporting
    for config in (UniformConfig(steps=N), BacConfig(steps=N)):
        plan = resolve(ground.policy, config, ground.calibration)
        found = actions_of(Program(ground.policy, plan), asked.obs, asked.noise())
        assert rms(found, asked.plain).max() < 1e-5


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_makes_plans_that_run(arm: str, ground: Ground) -> None:
    first_layer_always = arm in ("deepcache like bac", "first_block like bac")  # one of two
    plans = budget(ground, 2 * S if first_layer_always else S)
    first = plans.cached(BacConfig(steps=S))
    candidates = list(ARMS[arm].candidates(plans, lambda name: first))
    assert candidates
    words = [candidate.words for candidate in candidates]
    assert len(set(words)) == len(words)
    asked = ground.reporting.first(2)
    error = rms(actions_of(candidates[-1].program, asked.obs, asked.noise()), asked.plain)
    assert np.all(error > 1e-4)
    assert 0 < flops_share(candidates[-1].program, ground.policy) < 1


@pytest.mark.parametrize("method", METHODS)
def test_transformer_caches_cost_what_bac_does(method: str, ground: Ground) -> None:
    plans = budget(ground, 2 * S)
    wanted = plans.equivalent_steps(BacConfig(steps=2 * S))
    for candidate in METHODS[method](plans):
        assert plans.measured_steps(candidate) == pytest.approx(wanted, rel=NEAR + 1e-9)


def test_equal_flops_are_equal(ground: Ground) -> None:
    plans = budget(ground, 8)
    for config in block_schedules(8):
        lower = plans.cheaper(config)
        if lower is not None:
            assert plans.equivalent_steps(lower) <= 8.05
    arms = {name: ARMS[name].candidates(plans, lambda n: None) for name in ("quadratic", "ddim")}
    shares = [flops_share(next(iter(c)).program, ground.policy) for c in arms.values()]
    assert shares[0] == pytest.approx(shares[1], abs=0.6 / N)


def test_the_best_candidate_is_chosen_on_the_calibration_queries(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "FEW", 4)
    chooser = Chooser(budget(ground), ground.choosing, {})
    chosen = chooser.best("quadratic chosen")
    assert chosen is not None
    few, every = (sum(n == size for _, n in chooser.errors) for size in (4, M))
    assert few > 2 * every > 0
    candidates = ARMS["quadratic chosen"].candidates(budget(ground), chooser.best)
    by_all = [chooser.error(candidate) for candidate in candidates]
    assert min(by_all) <= chooser.error(chosen) <= max(by_all)
    monkeypatch.setattr(choose, "FEW", M)
    thorough = Chooser(budget(ground), ground.choosing, {}).best("quadratic chosen")
    assert chooser.error(thorough) == min(by_all) < max(by_all)  # type: ignore[arg-type]
    again = Chooser(budget(ground), ground.choosing, {"quadratic chosen": chosen.words})
    assert again.best("quadratic chosen").words == chosen.words  # type: ignore[union-attr]
    assert not again.errors


def test_rows_are_written_kept_and_drawn(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ["even", "quadratic", "bac", "ddim", "hash_ab reuse"]
    table = Table(tmp_path)
    run_sampler(ground, [S, 8], arms, 2, table)
    rows = json.loads((tmp_path / "action_error.json").read_text())["rows"]
    assert len(rows) == 2 + 2 * len(arms)
    assert rows["ddpm plain"]["error_mean"] == 0
    assert rows["ddpm plain"]["latency"]["times_as_fast"] == 1.0
    assert 0.2 < rows["ddpm plain, other noise"]["relative"] < 5
    for arm in arms:
        row = rows[f"ddpm S={S} {arm}"]
        assert row["error_interval"][0] <= row["error_mean"] <= row["error_interval"][1]
        assert len(row["latency"]["samples_ms"]) == 2
    reuse, bac = (rows[f"ddpm S={S} {arm}"] for arm in ("hash_ab reuse", "bac"))
    assert reuse["errors"] == bac["errors"]
    assert rows["ddpm S=8 quadratic"]["flops_share"] > rows[f"ddpm S={S} quadratic"]["flops_share"]

    def measured_again(*args: Any) -> None:
        raise AssertionError("a row that is there was measured again")

    monkeypatch.setattr(study, "answers", measured_again)
    monkeypatch.setattr(study, "latencies", measured_again)
    run_sampler(ground, [S, 8], arms, 2, Table(tmp_path, rows))
    with pytest.raises(AssertionError):
        run_sampler(ground, [5], ["even"], 0, Table(tmp_path, rows))

    report(ordered(table), tmp_path, "toy")
    with (tmp_path / "action_error.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines if line["steps"] == str(S)] == [
        arm for arm in ARMS if arm in arms
    ]
    said = (tmp_path / "action_error.md").read_text()
    assert said.count("\n|") == len(lines) + 1
    assert "quadratic" in (tmp_path / "action_error.html").read_text()
    assert (tmp_path / "action_error.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--arms", "bac", "magic"], "--arms must be among even, "),
        (["--steps", "1"], "--steps must be at least 2, got 1"),
        (["--rounds", "1"], "--rounds must be 0 or at least 2, got 1"),
        (["--noises", "0"], "--noises must be at least 1, got 0"),
        (["--queries", "7"], "calibration.n_queries must be at least 8, got 7"),
        (["--samplers", "ddpm", "euler"], "--samplers must be ddpm, ddim or such"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    wrong: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_caches_of_a_study_are_read_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = study_error.caches_of(PROJECT / "results/studies/reference.yaml", "kitchen")
    assert sorted(config.name for config in found.values()) == ["bac", "hash_ab", "uniform"]
    assert study_error.main(["nowhere"]) == 2
    assert "there is none at nowhere" in capsys.readouterr().err
    numbers = {"error_mean": 0.1, "error_interval": [0.05, 0.2], "error_p50": 0.08}
    numbers["error_p95"] = 0.3
    rows = [{"cache": name, "steps": 20.0, **numbers} for name in ("bac", "uniform steps=20")]
    rows[1]["error_mean"] = 0.02
    said = study_error.render({"rows": rows, "n_queries": 64, "spread": 0.17})
    assert said.index("uniform steps=20 | 20.0 | 0.0200") < said.index("bac | 20.0 | 0.1000")
    assert "64 queries; the plain policy by another noise: 0.170" in said
