"""`accelerate` in a robot's program: what it takes, what it answers, and the two drop-ins."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accel import RobotPolicy, UniformConfig, accelerate, accelerated
from policies import DiffusionPolicy, load_policy
from tests.helpers.places import PROJECT
from tests.helpers.quant_data import small_policy
from tests.helpers.seeing import ARRAYS, image_policy

KITCHEN = PROJECT / "checkpoints/kitchen"


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    """Two observations of 5 numbers, chunks of 4 actions of 3."""
    return small_policy()


@pytest.fixture
def fast(policy: DiffusionPolicy) -> Iterator[RobotPolicy]:
    with accelerate(policy, seed=0) as found:
        yield found


def observation(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expected(policy: DiffusionPolicy, obs: Tensor, seed: int) -> Tensor:
    """What the context of the library gives, row by row."""
    noise = [torch.Generator().manual_seed(seed + row) for row in range(len(obs))]
    with accelerated(policy) as plain:
        return plain.act(obs, noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [(), (1,), (3,)])
@pytest.mark.parametrize("named", [False, True])
def test_numpy_and_torch_one_row_and_batches_give_the_same(
    policy: DiffusionPolicy, fast: RobotPolicy, rows: tuple[int, ...], dtype: Any, named: bool
) -> None:
    obs = observation(*rows, 2, 5).to(dtype)
    right = expected(policy, obs.float().reshape(-1, 2, 5), 7)
    for given in (obs, obs.numpy(), obs.numpy().astype(obs.numpy().dtype.newbyteorder(">"))):
        actions = fast.act({"state": given} if named else given, seed=7)
        assert type(actions) is (Tensor if isinstance(given, Tensor) else np.ndarray)
        assert actions.shape == (*rows, 4, 3)
        torch.testing.assert_close(
            torch.as_tensor(actions).reshape(-1, 4, 3), right, rtol=0, atol=1e-5
        )


def test_a_row_has_its_own_noise_whatever_stands_beside_it(fast: RobotPolicy) -> None:
    obs = observation(3, 2, 5)
    together = fast.act(obs, seed=10)
    alone = torch.stack([fast.act(obs[row], seed=10 + row) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert not torch.allclose(fast.act(obs[0], seed=0), fast.act(obs[0], seed=1))


def test_queries_have_new_noise_and_a_seed_repeats_all_of_it(policy: DiffusionPolicy) -> None:
    obs, runs = observation(2, 5), []
    for seed in (3, 3, None, None):
        with accelerate(policy, seed=seed) as found:
            runs.append(torch.stack([found.act(obs) for _ in range(3)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[2], runs[3])


def test_generators_can_be_given(policy: DiffusionPolicy, fast: RobotPolicy) -> None:
    obs = observation(1, 2, 5)
    assert torch.equal(
        fast.act(obs, noise=[torch.Generator().manual_seed(4)]), expected(policy, obs, 4)
    )
    with pytest.raises(ValueError, match=r"seed and noise .* give one of them"):
        fast.act(obs, seed=1, noise=[torch.Generator()])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("verb", ["act", "predict_action", "select_action"])
def test_what_is_not_finite_is_named_with_its_index(
    fast: RobotPolicy, value: float, verb: str
) -> None:
    obs = np.zeros((2, 2, 5))
    obs[1, 0, 3] = value
    given, place = (obs[:, 0], "1, 3") if verb == "select_action" else (obs, "1, 0, 3")
    got = float(np.float32(value)) if np.isnan(value) else float(np.sign(value) * np.inf)
    with pytest.raises(ValueError, match=rf"^state\[{place}\] must be finite, got {got}$"):
        getattr(fast, verb)({"state": given})
    assert not fast.latency_ms, "the policy was asked nevertheless"


WRONG = {
    "a step is missing": (
        lambda: np.zeros(5),
        r"obs must have shape \(2, 5\) or \(B, 2, 5\), got \(5,\): the last 2 observations, "
        "which select_action keeps for you",
    ),
    "too long": (lambda: np.zeros((2, 6)), r"obs must have shape .*got \(2, 6\)"),
    "two batches": (lambda: np.zeros((1, 1, 2, 5)), r"obs must have shape .*got \(1, 1, 2, 5\)"),
    "another name": (
        lambda: {"states": np.zeros((2, 5))},
        "state of 5 numbers is missing, states is not asked for",
    ),
    "one more": (
        lambda: {"state": np.zeros((2, 5)), "extra": np.zeros(2)},
        "obs must hold state: extra is not asked for",
    ),
    "twice": (
        lambda: {"state": np.zeros((2, 5)), "observation.state": np.zeros((2, 5))},
        "state and observation.state are both state",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(fast: RobotPolicy, name: str) -> None:
    made, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        fast.act(made())


@pytest.mark.parametrize("given", [[[0.0] * 5] * 2, 3, None, np.array([["a"] * 5] * 2), True])
def test_what_is_no_array_of_numbers_is_refused(fast: RobotPolicy, given: Any) -> None:
    with pytest.raises(TypeError, match=r"^obs must (be an array of numpy|hold numbers)"):
        fast.act(given)
    with pytest.raises(TypeError, match=r"^obs must hold numbers, got torch.bool"):
        fast.act(torch.zeros(2, 5, dtype=torch.bool))


def test_predict_action_is_the_call_of_diffusion_policy(
    policy: DiffusionPolicy, fast: RobotPolicy
) -> None:
    obs_dict = {"obs": observation(3, 4, 5)}  # more steps than it sees
    torch.manual_seed(5)
    right = policy.predict_action(obs_dict)["action"]
    torch.manual_seed(5)
    with torch.no_grad():  # as robot loops there do: one dictionary in, actions to numpy
        action = fast.predict_action(obs_dict)["action"].detach().to("cpu").numpy()
    np.testing.assert_allclose(action, right, rtol=0, atol=1e-4)
    torch.manual_seed(5)
    again = fast.predict_action({"obs": obs_dict["obs"].double().numpy()})["action"]
    np.testing.assert_array_equal(again, action)
    with pytest.raises(KeyError, match="action_pred is not computed"):
        fast.predict_action(obs_dict)["action_pred"]


def test_select_action_is_the_queue_of_lerobot(policy: DiffusionPolicy) -> None:
    steps = observation(11, 2, 5)  # eleven steps of two robots
    with accelerate(policy, seed=1) as fast, accelerate(policy, seed=1) as asked:
        queue: deque[Tensor] = deque()
        seen = [steps[0], steps[0]]
        for step in range(len(steps)):
            seen = [seen[1], steps[step]] if step else seen
            if not queue:
                queue.extend(asked.act(torch.stack(seen, 1)).unbind(1))
            action = fast.select_action({"observation.state": steps[step], "task": ["lift"] * 2})
            assert torch.equal(action, queue.popleft()), step
        assert fast.n_queries == 3
        with pytest.raises(ValueError, match=r"must have 2 rows .* got 1: call reset\(\)"):
            fast.select_action({"observation.state": steps[0, :1]})
        fast.reset()
        one = fast.select_action(steps[0, 0].numpy())
        assert one.shape == (3,)
        assert fast.n_queries == 4


def test_images_come_by_the_names_of_lerobot_or_ours() -> None:
    policy = image_policy()
    arrays = {
        name: torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
        if name.startswith("image")
        else torch.zeros(2, *shape)
        for name, shape in ARRAYS.items()
    }
    theirs = {
        "observation.images.top": arrays["image.top"].numpy() / 255,  # float64 in [0, 1]
        "observation.images.wrist": arrays["image.wrist"],
        "observation.state": arrays["state"].double(),
    }
    with accelerate(policy) as fast:
        ours = fast.act(arrays, seed=0)
        torch.testing.assert_close(fast.act(theirs, seed=0), ours, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="must have as many rows in each array"):
            fast.act(
                {n: a[None].repeat(1 + (n == "state"), *[1] * a.ndim) for n, a in arrays.items()}
            )
        with pytest.raises(ValueError, match="must all have an axis of rows, or none"):
            fast.act({n: a[None] if n == "state" else a for n, a in arrays.items()})


def test_names_stand_for_configurations(policy: DiffusionPolicy) -> None:
    obs = observation(2, 5)
    with accelerate(policy, UniformConfig(steps=2)) as fast:
        fast.act(obs)
        assert sum(step[0] for step in fast.stats()["computed"]) == 2
    with accelerate(policy, "uniform", sampler="ddpm", steps=2) as fast:
        assert fast.fast.policy.n_inference_steps == 2
    with pytest.raises(ValueError, match=r"cache must be one of .*'hash_ba'; did you mean hash_ab"):
        accelerate(policy, "hash_ba")
    with pytest.raises(ValueError, match=r"quant must be one of .*got 'int8'$"):
        accelerate(policy, quant="int8")
    with pytest.raises(ValueError, match=r"cache\.path must name a plan\.json"):
        accelerate(policy, "plan")


def test_methods_that_need_observations_take_them_or_say_so(policy: DiffusionPolicy) -> None:
    seen = observation(8, 2, 5)
    with pytest.raises(
        ValueError, match=r"cache=bac needs a calibration: pass observations=\(M, 2"
    ):
        accelerate(policy, "bac")
    with pytest.raises(ValueError, match="quant=rtn needs statistics"):
        accelerate(policy, quant="rtn")
    with pytest.raises(ValueError, match="observations must be of at least 8 queries, got 7"):
        accelerate(policy, "bac", observations=seen[:7])
    for given in (seen, seen.double().numpy()):
        with accelerate(policy, "hash_ab", "rtn", observations=given) as fast:
            assert np.isfinite(fast.act(seen[0].numpy())).all()
            assert fast.stats()["quantised"]


def test_files_of_a_calibration_and_of_statistics_are_taken(
    policy: DiffusionPolicy, tmp_path: Any
) -> None:
    from accel import calibrate

    seen, noise = observation(8, 2, 5), [torch.Generator().manual_seed(i) for i in range(8)]
    calibrate(policy, seen, noise).save(tmp_path)
    with accelerate(policy, "bac", calibration=tmp_path) as fast:
        fast.act(seen[0])
    with pytest.raises(ValueError, match="no statistics at"):
        accelerate(policy, quant="rtn", statistics=tmp_path / "none.safetensors")


def test_a_shipped_policy_brings_its_observations() -> None:
    policy = load_policy(KITCHEN).with_sampler("ddpm", 2)
    assert policy.origin == KITCHEN
    with accelerate(policy, "bac") as fast:
        assert fast.act(np.zeros((4, 60))).shape == (8, 9)


def test_a_closed_policy_says_so_and_the_plain_one_stays(policy: DiffusionPolicy) -> None:
    obs = observation(1, 2, 5)
    before = policy.act(obs, [torch.Generator().manual_seed(0)])
    fast = accelerate(policy)
    fast.act(obs)
    assert {"last", "p50", "p95", "max"} == fast.latency_ms.keys()
    fast.close()
    fast.close()
    with pytest.raises(RuntimeError, match="has ended"):
        fast.act(obs)
    assert torch.equal(policy.act(obs, [torch.Generator().manual_seed(0)]), before)


def test_the_short_names_are_those_of_the_packages() -> None:
    import skipstep

    assert skipstep.accelerate is accelerate
    assert skipstep.load_policy is load_policy
    assert {"accelerate", "load_policy"} <= set(dir(skipstep))
    with pytest.raises(AttributeError, match="no attribute 'accelerat'"):
        skipstep.accelerat  # noqa: B018
