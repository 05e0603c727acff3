"""What an episode remembers of frames: how often they are encoded, and that their bits stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policies import DiffusionPolicy
from policies.encoders.memory import KEY, remembered
from tests.helpers.seeing import TO, image_policy, noise, observation


class Counting(nn.Module):
    """Counts the frames that an encoder is asked for, and how many at once."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.inner = encoder
        self.rows: list[int] = []

    def forward(self, arrays: Mapping[str, Tensor]) -> Tensor:
        self.rows.append(len(arrays["state"]) * arrays["state"].shape[1])
        out: Tensor = self.inner(arrays)
        return out


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return image_policy()


@pytest.fixture
def counting(policy: DiffusionPolicy) -> Any:
    encoder = policy.encoder
    assert encoder is not None
    policy.encoder = Counting(encoder)
    yield policy
    policy.encoder = encoder


def frames(n: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Single steps (1, 1, ...) that differ."""
    rows = observation(-(-n // TO), seed=seed)
    flat = {name: array.flatten(0, 1) for name, array in rows.items()}
    return [{name: a[i : i + 1, None] for name, a in flat.items()} for i in range(n)]


def history(*steps: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([step[name] for step in steps], dim=1) for name in steps[0]}


def batch(*rows: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def close(found: Tensor, expected: Tensor) -> None:
    """To the rounding of convolutions, which depends on how many images they take at once."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_frame_is_encoded_once_for_as_long_as_it_is_seen(counting: DiffusionPolicy) -> None:
    a, b, c, d = frames(4)
    memory: list[dict[str, Any]] = [{}]
    rows = counting.encoder.rows  # type: ignore[union-attr]
    asked = []
    for seen in (history(a, a), history(a, b), history(b, c), history(b, c), history(d, a)):
        counting.encode(seen, memory)
        asked.append(sum(rows))
    assert asked == [1, 2, 3, 3, 5]  # a, of two queries before, was forgotten
    assert rows == [1, 1, 1, 2]  # new frames of a query go together
    assert len(memory[0][KEY]) == TO


def test_a_frame_that_several_rows_show_is_encoded_once(counting: DiffusionPolicy) -> None:
    """As do the rows that only fill a batch: each with a memory of its own, as if it were alone."""
    a, b, c = frames(3)
    rows = counting.encoder.rows  # type: ignore[union-attr]
    memory: list[dict[str, Any]] = [{}, {}, {}]
    seen = batch(history(a, b), history(a, b), history(c, b))
    found = counting.encode(seen, memory)
    assert rows == [2, 2]  # b with a, and with c
    alone = torch.cat([counting.encode(history(*row), [{}]) for row in ((a, b), (a, b), (c, b))])
    assert torch.equal(found, alone)
    assert all(len(kept[KEY]) == TO for kept in memory)


@pytest.mark.parametrize("name", ["state", "image.top", "image.wrist"])
def test_one_changed_number_is_another_frame(counting: DiffusionPolicy, name: str) -> None:
    (a,) = frames(1)
    memory: list[dict[str, Any]] = [{}]
    first = counting.encode(history(a, a), memory)
    other = {key: array.clone() for key, array in a.items()}
    other[name].view(-1)[-1] += 1
    second = counting.encode(history(a, other), memory)
    assert counting.encoder.rows == [1, 1]  # type: ignore[union-attr]
    assert torch.equal(second[:, 0], first[:, 0])
    close(second, counting.encode(history(a, other), [{}]))
    assert name != "state" or not torch.equal(second[:, 1], first[:, 1])


def test_what_is_remembered_does_not_follow_the_callers_buffer(policy: DiffusionPolicy) -> None:
    a, b = frames(2)
    memory: list[dict[str, Any]] = [{}]
    buffer = history(a, a)
    policy.encode(buffer, memory)
    for name, array in buffer.items():  # as those who keep one array a robot do
        array[:, 1:] = b[name]
    close(policy.encode(buffer, memory), policy.encode(history(a, b), [{}]))


def test_bits_do_not_depend_on_the_neighbours(
    policy: DiffusionPolicy,
) -> None:
    a, b, c, d = frames(4)
    one = policy.encode(history(a, b), [{}])
    memories: list[dict[str, Any]] = [{} for _ in range(3)]
    three = policy.encode(batch(history(c, d), history(a, b), history(d, d)), memories)
    assert torch.equal(three[1:2], one)
    alone = [{KEY: list(memories[1][KEY])}]
    later = policy.encode(batch(history(d, a), history(b, a), history(d, c)), memories)
    assert torch.equal(later[1, 0], one[0, 1])  # remembered
    assert torch.equal(later[1:2], policy.encode(history(b, a), alone))
    turned = {k: v if v.ndim == 3 else v.mT.contiguous().mT for k, v in history(a, b).items()}
    assert torch.equal(policy.encode(turned, [{}]), one)
    close(policy.encode(history(a, b)), one)
    assert float((one[0, 0] - one[0, 1]).abs().max()) > 1e-2


def test_bytes_and_floats_are_other_frames(counting: DiffusionPolicy) -> None:
    (a,) = frames(1)
    memory: list[dict[str, Any]] = [{}]
    first = counting.encode(history(a, a), memory)
    floats = {k: v / 255 if v.dtype == torch.uint8 else v for k, v in a.items()}
    assert torch.equal(counting.encode(history(floats, floats), memory), first)
    assert counting.encoder.rows == [1, 1]  # type: ignore[union-attr]


def test_another_encoders_features_are_not_used(policy: DiffusionPolicy) -> None:
    a, b = frames(2)
    other, memory = image_policy(norm="group"), [{}]
    policy.encode(history(a, b), memory)
    assert torch.equal(other.encode(history(a, b), memory), other.encode(history(a, b), [{}]))
    assert torch.equal(policy.encode(history(a, b), memory), policy.encode(history(a, b), [{}]))


def test_acting_with_a_memory_acts_as_without(policy: DiffusionPolicy) -> None:
    obs, memories = observation(2), [{}, {}]
    plain = policy.act(obs, noise(0, 1))
    for _ in range(2):
        kept = policy.act(obs, noise(0, 1), memory=memories)
        torch.testing.assert_close(kept, plain, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match=r"memory must hold one dict per row \(2\), got 1"):
        policy.act(obs, noise(0, 1), memory=[{}])


def test_rows_keep_their_order() -> None:
    arrays = {"x": torch.arange(12.0).reshape(3, 4, 1)}
    memories: list[dict[str, Any]] = [{} for _ in range(3)]
    for _ in range(2):
        out = remembered(memories, arrays, lambda frame: frame["x"] * 10, "me")
        assert torch.equal(out, arrays["x"] * 10)
    assert [len(memory[KEY]) for memory in memories] == [4, 4, 4]


def test_a_frame_with_nan_is_a_frame(policy: DiffusionPolicy) -> None:
    """What it is encoded to is NaN, which those who act refuse by name."""
    a, b = frames(2)
    a["state"].view(-1)[0] = float("nan")
    memory: list[dict[str, Any]] = [{}]
    for _ in range(2):
        found = policy.encode(history(a, b), memory)
        assert found[0, 0].isnan().any()
        assert not found[0, 1].isnan().any()
