"""Two stages of a query that encodes images: timed, counted, and shown beside the whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    accelerated,
    encode_flops,
    flops_share,
    plain_flops,
    query_flops,
    share_of,
    sites_of,
)
from runners.episodes.arms import Arms
from runners.episodes.latency import LatencyConfig, measure
from runners.episodes.two_clocks import Clocks
from runners.formatting import encode_words, stages_words
from runners.studies.cost import stages_of
from runners.wandb_values import latency_values
from tests.helpers.looking import Looking
from tests.helpers.picture import PictureTask
from tests.runners.test_evaluate import toy_policy
from tests.runners.test_latency import Machine

OBS = {"state": np.zeros((3, 2, 5)), "image.top": np.zeros((3, 2, 3, 12, 16), np.uint8)}
LOW_DIM = (*("mean_ms", "p50_ms", "p95_ms", "p99_ms", "queries_hz", "actions_hz", "cpu_p50_ms"),)


class Staged:
    """Takes so long on a machine where no time passes else."""

    n_obs_steps, n_action_steps = 2, 4
    obs_spec = PictureTask(obs_dim=5).obs_spec

    def __init__(self, machine: Machine, name: str, encode_ms: float, denoise_ms: float) -> None:
        self.machine, self.name = machine, name
        self.encode_ms, self.denoise_ms = encode_ms, denoise_ms

    def _take(self, what: str, milliseconds: float) -> None:
        self.machine.wall_ns += round(1e6 * milliseconds)
        self.machine.cpu_ns += round(1e6 * milliseconds)
        self.machine.asked.append((self.name + what, 0.0))

    def act(self, obs: Any, noise: Any) -> torch.Tensor:
        assert obs["image.top"].shape == (1, 2, 3, 12, 16)
        assert obs["image.top"].dtype == torch.uint8
        self._take("", self.encode_ms + self.denoise_ms)
        return torch.zeros(1)

    def encode(self, obs: Any) -> str:
        self._take("-encode ", self.encode_ms)
        return self.name

    def denoise(self, cond: str, noise: Any) -> torch.Tensor:
        assert cond == self.name
        assert len(noise) == 1
        self._take("-denoise ", self.denoise_ms)
        return torch.zeros(1)


def measured(machine: Machine, **config: Any) -> dict[str, Any]:
    arms = [Staged(machine, "fast", 12, 8), Staged(machine, "plain", 11, 89)]
    engine = Staged(machine, "engine", 11, 60)
    settings = LatencyConfig(**{"warmup": 1, "repeats": 4, "precision": 0.0} | config)
    found = measure(arms[0], arms[1], OBS, settings, "cpu", engine, machine.clocks)
    assert found is not None
    return found


def test_stages_are_timed_in_calls_of_their_own_beside_the_whole() -> None:
    machine = Machine()
    found = measured(machine)
    assert machine.names.startswith(
        "fast" + "fast-encode fast-denoise " + "plain" + "plain-encode plain-denoise " + "engine"
    )
    for arm, encode, denoise in (("accelerated", 12.0, 8.0), ("plain", 11.0, 89.0)):
        same = dict.fromkeys(("mean", "p50", "p95", "p99", "cpu_p50"))
        assert found[arm]["encode_ms"] == pytest.approx(dict.fromkeys(same, encode))
        assert found[arm]["denoise_ms"] == pytest.approx(dict.fromkeys(same, denoise))
        assert found[arm]["p50_ms"] == pytest.approx(encode + denoise)
    assert tuple(found["engine"]) == LOW_DIM
    assert len(found["samples_ms"]["accelerated"]) == found["repeats"] == 4  # whole queries
    assert found["times_as_fast"] == pytest.approx(5)
    assert json.dumps(found)


def test_a_policy_without_images_has_no_stages() -> None:
    machine = Machine()
    found = machine.measure(machine.policy("a", 10), machine.policy("b", 20), repeats=2)
    assert tuple(found["accelerated"]) == tuple(found["plain"]) == LOW_DIM
    assert stages_of(found) == {}


def test_stages_of_a_real_query_take_what_the_query_takes() -> None:
    """The same work cut in two: each measured alone, together the whole.

    Within 5 % on a quiet machine; here others may run beside this test.
    """
    with accelerated(Looking.small(), engine="reference") as fast:
        arms = Arms({"accelerated": fast, "plain": Looking.small()}, OBS, "cpu", Clocks())
        for turn in range(15):
            arms.turn([turn], backwards=bool(turn % 2))
    for arm, whole in arms.times.items():
        parts = sum(min(stage.cpu_ms) for stage in arms.stages[arm].values())
        assert parts == pytest.approx(min(whole.cpu_ms), rel=0.3)


def test_stages_are_said_where_they_are_shown() -> None:
    found = measured(Machine())
    stages = stages_of(found)
    assert stages == {
        "encode": (pytest.approx(12), pytest.approx(11)),
        "denoise": (pytest.approx(8), pytest.approx(89)),
    }
    said = "p50 encode 12, denoise 8 ms; unaccelerated 11, 89"
    assert stages_words(stages) == said
    values = latency_values(found)
    assert values["latency/accelerated_encode_p50_ms"] == pytest.approx(12)
    assert values["latency/plain_denoise_cpu_p50_ms"] == pytest.approx(89)
    assert values["latency/accelerated_p50_ms"] == pytest.approx(20)
    assert not [v for v in values.values() if isinstance(v, dict)]


class Counted(Looking):
    """Its encoder costs what it says."""

    encode_flops = 3_000_000


def counted() -> Counted:
    policy = Counted(Looking.small().config)
    return policy.eval()


def test_a_share_of_flops_counts_the_encoding_in_both() -> None:
    policy, plain = counted(), counted()
    few: Any = policy.with_sampler("ddim", 5)
    few.__class__ = Counted
    half = np.zeros((few.n_inference_steps, len(sites_of(few))))
    half[::2] = 1
    denoised, of = query_flops(few, half), plain_flops(plain)
    assert denoised is not None
    assert of is not None
    assert encode_flops(few) == 3_000_000
    assert flops_share(few, half, plain) == (3_000_000 + denoised) / (3_000_000 + of)
    assert share_of(0, few, plain) == 3_000_000 / (3_000_000 + of)
    assert share_of(None, few, plain) is None


def test_without_an_encoder_nothing_changes() -> None:
    policy = toy_policy()
    computed = np.ones((policy.n_inference_steps, len(sites_of(policy))))
    computed[1::2] = 0
    assert encode_flops(policy) is None
    share = query_flops(policy, computed) / plain_flops(policy)  # type: ignore[operator]
    assert flops_share(policy, computed, policy) == share
    with accelerated(policy) as fast:
        assert "encode_flops" not in fast.stats()


def test_an_accelerated_policy_counts_its_encoding_apart() -> None:
    with accelerated(counted()) as fast:
        stats = fast.stats()
    assert stats["encode_flops"] == 3_000_000
    assert encode_words(stats["encode_flops"]).startswith("0.003 G of encoding, once a query")
