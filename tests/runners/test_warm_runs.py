"""Warm starts in runs: the state is the episode's, and a run says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from accel import WarmConfig, accelerated
from accel.warm import EXECUTED
from runners.cli import validate
from runners.episodes.latency import WithinEpisode
from runners.episodes.loop import query_noise
from runners.episodes.realtime import Delays
from runners.errors import UserError
from runners.studies.arms import warm_label
from tests.helpers import fake_episodes
from tests.helpers.fake_episodes import FIXTURE
from tests.runners.test_evaluate import facts, run, toy, toy_policy

KITCHEN = ("task=kitchen", f"task.checkpoint={FIXTURE}")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_episodes_do_not_depend_on_what_is_played_beside_them() -> None:
    with accelerated(toy_policy(), warm=WarmConfig(start=2, jump=0.8)) as policy:
        alone = facts(run(policy, toy(), 1))
        shares = policy.stats()["warm"]
        assert facts(run(policy, toy(delay_s=0.01), 3)) == alone
        assert facts(run(policy, toy(), 12, policy_batch=8)) == alone
    assert 0 < shares["warm_rows"] < shares["rows"]
    with accelerated(toy_policy()) as policy:
        assert facts(run(policy, toy(), 3)) != alone


def test_late_chunks_begin_with_earlier_ones_too() -> None:
    """With delays the robot goes on for another number of steps than a chunk has."""
    delays = Delays((0, 1, 3), "some")
    with accelerated(toy_policy(), warm=WarmConfig(start=0, join="soft")) as policy:
        joined = facts(run(policy, toy(), 1, delays=delays))
        assert facts(run(policy, toy(delay_s=0.01), 3, delays=delays)) == joined
    with accelerated(toy_policy(), warm=WarmConfig(start=2)) as policy:
        alone = facts(run(policy, toy(), 1, delays=delays))
        assert alone != joined
        assert facts(run(policy, toy(delay_s=0.01), 3, delays=delays)) == alone
        assert facts(run(policy, toy(), 1)) != alone


def test_a_guess_is_shifted_by_what_the_memory_says() -> None:
    policy = toy_policy()
    obs, noise = torch.zeros(1, policy.n_obs_steps, policy.obs_dim), torch.Generator
    found = []
    with accelerated(policy, warm=WarmConfig(start=2)) as warm:
        for said in ({}, {EXECUTED: policy.n_action_steps}, {EXECUTED: 1}):
            memory: list[dict[str, Any]] = [{}]
            warm.act(obs, [noise().manual_seed(0)], memory)
            memory[0] |= said
            found.append(warm.act(obs, [noise().manual_seed(1)], memory))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_timed_query_is_a_warm_one_and_is_not_counted() -> None:
    policy = toy_policy()
    with accelerated(policy, warm=WarmConfig(start=2)) as warm:
        timed = WithinEpisode(warm.uncounted())
        for seed in range(3):
            obs = torch.zeros(1, policy.n_obs_steps, policy.obs_dim)
            timed.act(obs, [query_noise(0, seed, 0)])
        assert timed.policy.rows == {"full": 1, "warm": 2}
        assert warm.rows == {"full": 0, "warm": 0}


def folder_of(*words: str) -> str:
    return str(validate([*KITCHEN, *words])[0].folders[0].name)


def test_a_run_without_it_is_what_it_was() -> None:
    plain = folder_of()
    assert folder_of("warm=none") == plain
    assert folder_of("warm=chunk", "warm.from=0") == plain
    warm = folder_of("warm=chunk", "warm.from=3")
    assert folder_of("warm=chunk", "warm.from=3", "warm.join=none") == warm
    assert folder_of("warm=chunk", "warm.from=0", "warm.join=soft") not in {plain, warm}
    assert (
        len({plain, warm, folder_of("warm=chunk"), folder_of("warm=chunk", "warm.fill=noise")}) == 4
    )


def test_a_sweep_compares_it_with_the_unaccelerated_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    words = ("-m", "n_episodes=4", "warm=none,chunk")
    assert fake_episodes.run(monkeypatch, *words) == 0
    assert "warm from 1" in capsys.readouterr().out
    results = [json.loads(path.read_text()) for path in Path("multirun/main").glob("*/result.json")]
    paired = [r for r in results if r["baseline"] is not None]
    assert len(results) == 2
    assert len(paired) == 1


def test_labels() -> None:
    assert warm_label(None) == ""
    assert warm_label({"start": 5, "fill": "repeat", "jump": None}) == "warm from 5"
    assert (
        warm_label({"start": 5, "fill": "noise", "jump": 0.5}) == "warm from 5 then noise up to 0.5"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["warm=chunk", "cache=uniform"], "warm=chunk needs cache=none, got cache=uniform"),
        (["warm=chunk", "warm.from=500"], "warm.from must be below"),
        (["warm=chunk", "warm.from=-1"], "warm.from must be a whole number of at least 0, got -1"),
        (["warm=chunk", "warm.fill=x"], "warm.fill must be one of repeat, noise, got 'x'"),
        (["warm=chunk", "warm.join=x"], "warm.join must be one of none, hard, soft, got 'x'"),
        (["warm=chunk", "warm.jump=0"], "warm.jump must be null or above 0"),
        (["warm=chunk", "runner=serve"], "warm needs a runner of evaluate, collect"),
        (["warm.from=2"], "warm.from: unknown key"),
    ],
)
def test_mistakes(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        validate([*KITCHEN, *words])
    assert said in str(error.value)
