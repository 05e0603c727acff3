"""benchmarks/action_error.py: errors are what they say, choices are made on other queries."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from accel import BacConfig, UniformConfig, calibrate, flops_share, resolve
from benchmarks import action_error, quant_error, study_error
from benchmarks.action_error import Chooser, Table, main, report, run_sampler
from benchmarks.candidates import ARMS, NEAR, Budget, Candidate, block_schedules
from benchmarks.questions import Ground, Questions, answers, ask, own_spread, rms, scores
from runners.episodes.queries import Queries
from tests.helpers.places import PROJECT
from tests.helpers.stock import small_policy

N, M, K, S = 20, 8, 3, 4


def questions(policy: Any, first_seed: int, n_noises: int) -> Questions:
    seeds = np.arange(first_seed, first_seed + M)
    generator = torch.Generator().manual_seed(first_seed)
    obs = torch.randn((M, policy.n_obs_steps, policy.obs_dim), generator=generator).numpy()
    queries = Queries(obs, seeds, np.zeros(M, dtype=np.int64))
    made = [answers(policy, None, obs, queries.noise(seed))[0] for seed in range(1 + n_noises)]
    return Questions(queries, 0, made[0], np.stack(made, 1)[:, 1:])


@pytest.fixture(scope="module")
def ground() -> Ground:
    policy = small_policy()
    policy = policy.with_sampler(policy.config.sampler.with_steps("ddpm", N))
    choosing, reporting = questions(policy, 0, 0), questions(policy, 100, K)
    calibration = calibrate(
        policy, torch.from_numpy(choosing.queries.obs), choosing.queries.noise(0)
    )
    return Ground("ddpm", policy, calibration, choosing, reporting)


def budget(ground: Ground, steps: int = S) -> Budget:
    return Budget(ground.policy, ground.calibration, steps, ground.choosing)


def test_distances_follow_their_definition() -> None:
    plain, others = np.zeros((2, 3, 2)), np.zeros((2, 2, 3, 2))
    others[0, 0], others[0, 1] = 1.0, 3.0  # pairs of the first query: 1, 3, 2
    asked = Questions(None, 0, plain, others)  # type: ignore[arg-type]
    np.testing.assert_allclose(own_spread(asked), [2.0, 0.0])
    actions = plain.copy()
    actions[0, 0, 0] = np.sqrt(6.0)  # one of six elements
    np.testing.assert_allclose(rms(actions, plain), [1.0, 0.0])
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
        found, _ = ask(asked, ground.policy, plan)
        assert rms(found, asked.plain).max() < 1e-5


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_makes_plans_that_run(arm: str, ground: Ground) -> None:
    first_layer_always = arm in ("deepcache like bac", "first_block like bac")  # one of two
    plans = budget(ground, 2 * S if first_layer_always else S)
    first = plans.cached(BacConfig(steps=S))
    candidates = list(ARMS[arm](plans, lambda name: first))
    assert candidates
    words = [candidate.words for candidate in candidates]
    assert len(set(words)) == len(words)
    asked, last = ground.reporting.first(2), candidates[-1]
    actions, _ = ask(asked, last.policy, last.plan)
    assert np.all(rms(actions, asked.plain) > 1e-4)
    assert 0 < share(last, ground) < 1


def share(candidate: Candidate, ground: Ground) -> float:
    mask = (candidate.plan or resolve(candidate.policy, None)).mask
    return flops_share(candidate.policy, mask, ground.policy)


@pytest.mark.parametrize("method", ["interval", "deepcache", "taylor", "teacache", "first_block"])
def test_transformer_caches_cost_what_bac_does(method: str, ground: Ground) -> None:
    plans = budget(ground, 2 * S)
    for candidate in ARMS[f"{method} like bac"](plans, lambda name: None):
        found = plans.measured_steps(candidate)
        assert found == pytest.approx(plans.like_bac, rel=NEAR + 1e-9)


def test_equal_flops_are_equal(ground: Ground) -> None:
    plans = budget(ground, 8)
    equal = list(ARMS["block equal"](plans, lambda n: None))
    assert 0 < len(equal) <= len(list(block_schedules(8)))
    for candidate in equal:
        assert plans.equivalent_steps(candidate.config) <= 8.05
    arms = {name: ARMS[name](plans, lambda n: None) for name in ("quadratic", "ddim")}
    shares = [share(next(iter(c)), ground) for c in arms.values()]
    assert shares[0] == pytest.approx(shares[1], abs=0.6 / N)


def test_the_best_candidate_is_chosen_on_the_calibration_queries(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_error, "FEW", 4)
    chooser = Chooser(budget(ground), {})
    chosen = chooser.best("quadratic chosen")
    assert chosen is not None
    few, every = (sum(n == size for _, n in chooser.errors) for size in (4, M))
    assert few > 2 * every > 0
    candidates = ARMS["quadratic chosen"](budget(ground), chooser.best)
    by_all = [chooser.error(candidate) for candidate in candidates]
    assert min(by_all) <= chooser.error(chosen) <= max(by_all)
    monkeypatch.setattr(action_error, "FEW", M)
    thorough = Chooser(budget(ground), {}).best("quadratic chosen")
    assert chooser.error(thorough) == min(by_all) < max(by_all)  # type: ignore[arg-type]
    again = Chooser(budget(ground), {"quadratic chosen": chosen.words})
    assert again.best("quadratic chosen").words == chosen.words  # type: ignore[union-attr]
    assert not again.errors


def test_rows_are_written_kept_and_drawn(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ["even", "quadratic", "bac", "ddim", "hash_ab reuse"]
    table = Table(tmp_path, {})
    run_sampler(ground, [S, 8], arms, table)
    rows = json.loads((tmp_path / "action_error.json").read_text())["rows"]
    assert len(rows) == 2 + 2 * len(arms)
    assert rows["ddpm plain"]["error_mean"] == 0
    assert 0.2 < rows["ddpm plain, other noise"]["relative"] < 5
    for arm in arms:
        row = rows[f"ddpm S={S} {arm}"]
        assert row["error_interval"][0] <= row["error_mean"] <= row["error_interval"][1]
    reuse, bac = (rows[f"ddpm S={S} {arm}"] for arm in ("hash_ab reuse", "bac"))
    assert reuse["errors"] == bac["errors"]
    assert rows["ddpm S=8 quadratic"]["flops_share"] > rows[f"ddpm S={S} quadratic"]["flops_share"]

    def measured_again(*args: Any) -> None:
        raise AssertionError("a row that is there was measured again")

    monkeypatch.setattr(action_error, "ask", measured_again)
    run_sampler(ground, [S, 8], arms, Table(tmp_path, {}))
    with pytest.raises(AssertionError):
        run_sampler(ground, [5], ["even"], Table(tmp_path, {}))

    report(table, "toy")
    with (tmp_path / "action_error.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines if line["steps"] == str(S)] == [
        arm for arm in ARMS if arm in arms
    ]
    said = (tmp_path / "action_error.md").read_text()
    assert said.count("\n|") == len(lines) + 1
    picture = ElementTree.parse(tmp_path / "action_error.svg").getroot()
    assert f"quadratic, S = {S}: " in " ".join(picture.itertext())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--arms", "bac", "magic"], "--arms must be among even, "),
        (["--steps", "1"], "--steps must be at least 2, got 1"),
        (["--noises", "0"], "--noises must be at least 1, got 0"),
        (["--queries", "7"], "calibration.n_queries must be at least 8, got 7"),
        (["--samplers", "ddpm", "euler"], "--samplers must be ddpm, ddim or such"),
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
    rows_said = [" ".join(line.split()) for line in said.splitlines()]
    uniform, bac = "| uniform steps=20 | 20.0 | 0.0200 |", "| bac | 20.0 | 0.1000 |"
    assert [line.startswith((uniform, bac)) for line in rows_said[2:4]] == [True, True]
    assert rows_said[2].startswith(uniform)
    assert "64 queries; the plain policy by another noise: 0.170" in said


def test_quantised_arms_are_settings_of_a_run_and_their_layers_are_counted() -> None:
    assert quant_error.overrides("W4A8", "best of the three") == [
        *("quant=duquant", "quant.weight_bits=4", "quant.activation_bits=8", "quant.method=auto")
    ]
    numbers = {"error_mean": 0.1, "error_interval": [0.05, 0.2], "error_p50": 0.08}
    numbers |= {"error_p95": 0.3, "flips": 0.0}
    layer = {"method": "duquant", "error": 0.01, "crest_before": 3.5, "crest_after": 3.0}
    names = ("model.decoder.layers.0.linear1", "model.decoder.layers.1.linear1")
    layers = [{**layer, "name": name, "drift": 1.0 + i} for i, name in enumerate(names)]
    said = quant_error.as_markdown(
        [{"bits": "W8A8", "method": "duquant", **numbers, "layers": layers}]
    )
    words = [" ".join(line.split()) for line in said.splitlines()]
    assert words[2].endswith("| 0% | 1.00% | 2 duquant |")
    assert words[-1] == "| linear1 | 2 | 3.5 | 3.5 | 3.0 | 3.0 | 2.0 |"


def test_a_sampler_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert quant_error.main(["--sampler", "euler"]) == 2
    assert capsys.readouterr().err.startswith("error: --samplers must be")
