"""Values of the query before in runs: they are the episode's, and a run says what it is."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from accel import UniformConfig, accelerated
from runners.cli import validate
from runners.episodes.latency import WithinEpisode
from runners.episodes.loop import evaluate, query_noise
from runners.errors import UserError
from runners.formatting import across_words
from runners.studies.arms import arm_words, timing_label
from tests.helpers import fake_episodes
from tests.helpers.fake_episodes import FIXTURE
from tests.runners.test_evaluate import SEEDS, facts, run, toy, toy_policy

KITCHEN = ("task=kitchen", f"task.checkpoint={FIXTURE}")
ACROSS = ("cache=uniform", "cache.across=true", "engine=reference")
CONFIG = UniformConfig(steps=4, across=True)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def alone() -> dict[int, tuple[Any, ...]]:
    """Every seed, one after the other."""
    with accelerated(toy_policy(), cache=CONFIG, engine="reference") as policy:
        return facts(run(policy, toy(), 1))


@pytest.mark.parametrize("n_envs", [3, 4])
def test_episodes_do_not_depend_on_what_is_played_beside_them(
    alone: dict[int, tuple[Any, ...]], n_envs: int
) -> None:
    with accelerated(toy_policy(), cache=CONFIG, engine="reference") as policy:
        assert facts(run(policy, toy(delay_s=0.01 * (n_envs == 3)), n_envs)) == alone
        shares = policy.stats()["across"]
    assert 0 < shares["reusing_rows"] < shares["rows"]


def test_episodes_that_are_played_after_a_stop_are_the_same(
    alone: dict[int, tuple[Any, ...]],
) -> None:
    """Some of them, a stop in the middle of others, and the rest by a policy made anew."""
    with accelerated(toy_policy(), cache=CONFIG, engine="reference") as policy:
        stopped = evaluate(policy, toy(), SEEDS, 2, 0)
        found = {r.seed: r for r in islice(stopped, 2)}
        stopped.close()
    missing = [seed for seed in SEEDS if seed not in found]
    with accelerated(toy_policy(), cache=CONFIG, engine="reference") as policy:
        found |= {r.seed: r for r in evaluate(policy, toy(), missing, 2, 0)}
    assert facts(found) == alone


def test_a_timed_query_is_a_later_one_and_is_not_counted() -> None:
    policy = toy_policy()
    with accelerated(policy, cache=CONFIG, engine="reference") as fast:
        timed = WithinEpisode(fast.uncounted())
        for seed in range(4):
            obs = torch.zeros(1, policy.n_obs_steps, policy.obs_dim)
            timed.act(obs, [query_noise(0, seed, 0)])
        assert timed.policy.stats()["across"]["reusing_rows"] == 3
        assert fast.stats()["across"]["rows"] == 0


def folder_of(*words: str) -> str:
    return str(validate([*KITCHEN, *words])[0].folders[0].name)


def test_a_run_without_it_is_what_it_was() -> None:
    plain = folder_of("cache=uniform", "engine=reference")
    assert folder_of("cache=uniform", "cache.across=false", "engine=reference") == plain
    across = folder_of(*ACROSS)
    assert folder_of(*ACROSS, "cache.refresh=2") == across
    assert len({plain, across, folder_of(*ACROSS, "cache.refresh=3")}) == 3


def test_a_sweep_has_both_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    words = ("-m", "n_episodes=4", "cache=uniform", "cache.across=false,true")
    assert fake_episodes.run(monkeypatch, *words) == 0
    assert "across queries" in capsys.readouterr().out
    configs = [yaml.safe_load(p.read_text()) for p in Path("multirun/main").glob("*/config.yaml")]
    of_caches: list[Any] = [config["cache"] for config in configs]
    assert sorted("across" in cache for cache in of_caches) == [False, True]


def test_words() -> None:
    config = {"cache": {"name": "uniform", "steps": 20, "across": True, "refresh": 2}}
    assert arm_words(config) == "uniform S=20 across queries"
    sampler = {"kind": "ddpm", "steps": 100}
    said = timing_label({**config, "sampler": sampler, "quant": {}})
    assert said == "ddpm-100, uniform S = 20 across queries"
    found = {"refresh": 2, "rows": 10, "reusing_rows": 4, "full_flops": 200, "reusing_flops": 150}
    assert across_words(found).startswith("40.0% of queries reach back")
    assert "75.0% of a full one's FLOPs" in across_words(found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cache=uniform", "cache.across=true"], "needs engine=reference, got engine=fused"),
        ([*ACROSS, "runner=serve"], "needs a runner of evaluate, collect, show, got runner=serve"),
        ([*ACROSS, "cache.refresh=1"], "cache.refresh must be 0 (never) or at least 2 queries"),
        ([*ACROSS, "warm=chunk"], "warm=chunk needs cache=none, got cache=uniform"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        validate([*KITCHEN, *words])
    assert said in str(error.value)
