"""A policy's weights are hashed once, and again where they changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from policies import fingerprints, from_reference
from policies.fingerprints import fingerprint
from tests.helpers.stock import live_policy


def test_weights_are_hashed_once_for_all_that_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = from_reference(live_policy())
    hashed: list[str] = []

    def counted(settings: str, state: Any) -> str:
        hashed.append(settings)
        return fingerprint(settings, state)

    monkeypatch.setattr(fingerprints, "fingerprint", counted)
    first = policy.fingerprint()
    twin = policy.with_sampler("ddpm", 5)
    assert twin.with_sampler(policy.config.sampler).fingerprint() == first
    assert policy.with_n_action_steps(policy.n_action_steps).fingerprint() == first
    assert policy.fingerprint(policy.config.sampler.settings()) == policy.to("cpu").fingerprint()
    assert len(hashed) == 1
    assert twin.fingerprint() != first
    assert len(hashed) == 2
    assert copy.deepcopy(policy).fingerprint() == first
    assert len(hashed) == 3


def test_changed_weights_are_hashed_again() -> None:
    policy = from_reference(live_policy())
    twin = policy.with_sampler("ddpm", 5).with_sampler(policy.config.sampler)
    found = [policy.fingerprint()]
    parameter = next(policy.parameters())
    with torch.no_grad():
        parameter.add_(1)  # in place
    found.append(policy.fingerprint())
    assert twin.fingerprint() == found[-1]  # the weights are the same
    parameter.data = parameter.data + 1  # elsewhere
    found.append(policy.fingerprint())
    policy.load_state_dict({k: v + 1 for k, v in policy.state_dict().items()}, assign=True)
    found.append(policy.fingerprint())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1)
    sum(p.sum() for p in policy.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    found.append(policy.fingerprint())
    assert len(set(found)) == len(found)
    for digest in (copy.deepcopy(policy), policy):
        assert digest.fingerprint() == found[-1]
    assert twin.fingerprint() == found[1]
