"""Warm starts of quantised policies: the same codes, whatever a query begins with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accel import DuQuantConfig, WarmConfig, WarmStarted, accelerated
from accel.chosen import quantized
from policies import DiffusionPolicy
from tests.helpers.quant_data import policy_statistics, query, small_policy

START = 2


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return small_policy()


@pytest.mark.parametrize("engine", ["reference", "fused"])
def test_a_warm_query_is_the_rest_of_the_quantised_policys_steps(
    policy: DiffusionPolicy, engine: str
) -> None:
    statistics, found = policy_statistics(policy), []
    copy = quantized(policy, DuQuantConfig(), statistics)
    assert copy is not None
    model: Any = copy.model
    warm = WarmConfig(start=START)
    for runs, quant in ((policy, DuQuantConfig()), (policy, copy), (model, None)):
        memory: list[dict[str, Any]] = [{}, {}]
        given = statistics if isinstance(quant, DuQuantConfig) else None
        with accelerated(runs, quant=quant, engine=engine, statistics=given, warm=warm) as fast:
            assert isinstance(fast, WarmStarted)
            first = fast.act(*query(0), memory)
            found.append((first, fast.act(*query(1), memory)))
            assert fast.stats()["warm"]["warm_rows"] == 2
            if quant is not None:
                assert len(fast.stats()["quantised"]) == len(copy.layers) > 0
    for first, second in found[1:]:
        torch.testing.assert_close(first, found[0][0])
        torch.testing.assert_close(second, found[0][1])
    with accelerated(policy, engine=engine, warm=warm) as plain:
        memory = [{}, {}]
        plain.act(*query(0), memory)
        assert not torch.equal(plain.act(*query(1), memory), found[0][1])


def test_a_policy_with_codes_has_twins(policy: DiffusionPolicy) -> None:
    """Another sampler or chunk shares its quantised layers, bit for bit."""
    copy = quantized(policy, DuQuantConfig(), policy_statistics(policy))
    assert copy is not None
    model: Any = copy.model
    assert torch.equal(
        model.with_n_action_steps(policy.longest_chunk).act(*query(3))[:, :4], model.act(*query(3))
    )
    assert torch.equal(model.from_step(0).act(*query(3)), model.act(*query(3)))
