"""Statistics of branches against direct formulas, and what a calibration refuses."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from accel import Calibration, PlanError, UniformConfig, branch_errors, calibrate, resolve, sites_of
from accel.calibration.branch_outputs import compare
from policies import DiffusionPolicy
from tests.helpers.features import changed
from tests.helpers.stock import OBS, TO, VARIANTS, small_policy

M = 9


def observations(n: int = M) -> torch.Tensor:
    return torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(3))


def noise(n: int = M) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


def made(policy: DiffusionPolicy, **overrides: Any) -> Calibration:
    return calibrate(policy, observations(), noise(), progress=False, **overrides)


def outputs(policy: DiffusionPolicy) -> np.ndarray:
    """(M, n_sites, N, live tokens, width) float64, recorded query by query."""
    kept: dict[tuple[int, int, int], np.ndarray] = {}
    for query, (obs, generator) in enumerate(zip(observations(), noise(), strict=True)):

        def keep(step: int, site: int, compute: Any, query: int = query) -> torch.Tensor:
            out: torch.Tensor = compute()
            kept[query, site, step] = out[0].double().numpy()
            return out

        policy.act(obs[None], [generator], keep)
    tokens = policy.n_live + policy.sizes.encoder_only
    shape = (M, len(sites_of(policy)), policy.n_inference_steps)
    values = [kept[key][:tokens] for key in itertools.product(*map(range, shape))]
    return np.array(values).reshape(*shape, tokens, policy.sizes.n_emb)


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_what_its_definition_says(variant: str) -> None:
    policy = small_policy(variant)
    found, r = made(policy, batch=4), outputs(policy)
    flat = r.reshape(*r.shape[:3], -1)
    difference = flat[:, :, :, None] - flat[:, :, None, :]
    norms = np.linalg.norm(flat, axis=-1)
    gram = flat @ flat.swapaxes(-1, -2)
    direct = {
        "cos": gram / (norms[..., :, None] * norms[..., None, :]),
        "mse": (difference**2).mean(axis=-1),
        "l1": np.abs(difference).mean(axis=-1),
        "l2": np.sqrt((difference**2).sum(axis=-1)),
    }
    for name, values in direct.items():
        scale = np.abs(values).max()
        assert np.abs(found.similarity[name] - values.mean(axis=0)).max() < 1e-6 * scale, name
        assert np.abs(found.spread[name] - values.std(axis=0)).max() < 1e-6 * scale, name
    assert np.allclose(found.gram, gram.mean(axis=0), rtol=1e-5, atol=1e-6 * np.abs(gram).max())
    assert np.allclose(found.mean, r.mean(axis=0), atol=1e-5)
    pairs = [direct["l1"][..., i, j] for i, j in itertools.combinations(range(r.shape[2]), 2)]
    assert np.allclose(found.volatility, np.mean(pairs, axis=(0, 1)), rtol=1e-5)
    assert (found.n_queries, found.sites) == (M, sites_of(policy))
    assert found.policy == policy.fingerprint()


def test_bounds_and_symmetry() -> None:
    found = made(small_policy())
    size = np.prod(found.mean.shape[2:])
    for name, matrix in found.similarity.items():
        assert np.array_equal(matrix, matrix.swapaxes(1, 2)), name
        assert (np.diagonal(matrix, axis1=1, axis2=2) == (name == "cos")).all(), name
        assert (found.spread[name] >= 0).all(), name
    assert np.abs(found.similarity["cos"]).max() <= 1
    l1, l2, mse = (found.similarity[name] for name in ("l1", "l2", "mse"))
    assert (l1 <= l2 / np.sqrt(size) + 1e-7).all()  # means and roots: Cauchy-Schwarz
    assert (l2**2 <= mse * size * (1 + 1e-9)).all()
    assert (found.volatility > 0).all()


def test_small_distances_of_large_features_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 100 * torch.randn((1, 1, 500), generator=generator).repeat(1, 6, 1)
    x += 1e-3 * torch.randn((1, 6, 500), generator=generator)
    wide = x[0].double().numpy()
    squares = ((wide[:, None] - wide[None]) ** 2).sum(axis=-1)
    found = compare(x)
    assert np.allclose(found["l2"][0], np.sqrt(squares), rtol=1e-9)
    assert np.allclose(found["mse"][0], squares / 500, rtol=1e-9)
    assert np.allclose(found["gram"][0], wide @ wide.T, rtol=1e-12)


def test_zero_features_have_a_cosine() -> None:
    x = torch.zeros((1, 3, 4))
    x[0, 2] = 1
    assert compare(x)["cos"][0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_a_single_step_has_no_pairs() -> None:
    policy = small_policy()
    policy = policy.with_sampler(policy.config.sampler.with_steps("ddim", 1))
    found = made(policy)
    assert found.gram.shape[1:] == (1, 1)
    assert found.volatility.tolist() == [0.0] * len(found.sites)


def test_batches_change_rounding_only_and_the_policy_not_at_all() -> None:
    policy = small_policy()
    before = policy.act(observations(), noise())
    one, all_at_once = made(policy, batch=1), made(policy, batch=100)
    for name, array in one.arrays.items():
        other = all_at_once.arrays[name]
        assert np.abs(array - other).max() < 1e-5 * np.abs(array).max(), name
    assert made(policy).digest() == made(policy).digest()
    assert torch.equal(policy.act(observations(), noise()), before)


def test_what_calibrate_refuses() -> None:
    policy = small_policy()
    with pytest.raises(ValueError, match="needs at least 8 queries, got 7"):
        calibrate(policy, observations(7), noise(7))
    with pytest.raises(ValueError, match=r"one generator per row \(9\), got 8"):
        calibrate(policy, observations(), noise(8))
    with pytest.raises(ValueError, match="one generator per query, got a single one"):
        calibrate(policy, observations(), torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        made(policy, batch=0)
    with pytest.raises(ValueError, match="obs must have shape"):
        calibrate(policy, observations()[:, :1], noise())
    with pytest.raises(RuntimeError, match="training mode"):
        made(policy.train())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_named(value: float) -> None:
    policy = small_policy()
    with torch.no_grad():
        policy.model.decoder.layers[1].linear2.bias[3] = value
    with pytest.raises(FloatingPointError, match=r"decoder.layers.1.ff is not finite in step 0"):
        made(policy)


def test_a_saved_calibration_is_read_back(tmp_path: Path) -> None:
    found = made(small_policy(), source={"seeds": [1, 2]})
    path = found.save(tmp_path / "there")
    assert path == tmp_path / "there/calibration.json"
    assert {p.name for p in path.parent.iterdir()} == {path.name, "calibration.safetensors"}
    for again in (Calibration.load(path), Calibration.load(path.parent)):
        assert again.digest() == found.digest()
        assert again.sites == found.sites
        assert again.source == {"seeds": [1, 2]}
        for name, array in found.arrays.items():
            assert np.array_equal(again.arrays[name], array), name


def test_the_digest_is_of_the_content() -> None:
    found = made(small_policy())
    assert replace(found, source={"other": 1}).digest() == found.digest()
    others = [
        changed(found, volatility=found.volatility * 2),
        replace(found, policy="other"),
        replace(found, extent=replace(found.extent, n_queries=M + 1)),
        replace(found, sites=found.sites[::-1]),
    ]
    assert len({c.digest() for c in others} | {found.digest()}) == 5


def broken_files(folder: Path) -> dict[str, Any]:
    """What is done to a saved calibration, by the words of its refusal."""
    path, arrays = folder / "calibration.json", folder / "calibration.safetensors"

    def edit(**values: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def rewrite(change: Any) -> None:
        content = load_file(arrays)
        change(content)
        save_file(content, arrays)

    return {
        "calibration.json is missing": path.unlink,
        "calibration.safetensors is missing": arrays.unlink,
        "schema must be skipstep-calibration/3": lambda: edit(schema="skipstep-calibration/9"),
        "keys differ from the schema's: more": lambda: edit(more=1),
        "digest does not match": lambda: edit(policy="other"),
        "n_queries must be at least 8, got 3": lambda: edit(n_queries=3),
        "similarity.cos must be float64 (6, 11, 11), got float64 (6, 10, 10)": lambda: edit(
            n_steps=11
        ),
        "Expecting value": lambda: path.write_text("not json"),
        "eader": lambda: arrays.write_bytes(arrays.read_bytes()[:100]),
        "arrays differ from the schema's: gram": lambda: rewrite(lambda c: c.pop("gram")),
        "digest does not match the content": lambda: rewrite(lambda c: c["gram"].fill(1)),
    }


@pytest.mark.parametrize("words", broken_files(Path()))
def test_a_broken_file_is_refused_by_name(words: str, tmp_path: Path) -> None:
    path = made(small_policy()).save(tmp_path)
    broken_files(tmp_path)[words]()
    with pytest.raises(PlanError) as error:
        Calibration.load(tmp_path)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_crash_between_the_two_files_leaves_no_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accel.calibration import file as calibration_file

    whole = calibration_file.write_whole
    found = made(small_policy())

    def dies(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        whole(path, content)

    monkeypatch.setattr(calibration_file, "write_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        found.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(PlanError, match=r"calibration.json is missing"):
        Calibration.load(tmp_path)
    found.save(tmp_path)
    assert Calibration.load(tmp_path).digest() == found.digest()


def test_a_foreign_policy_is_refused() -> None:
    policy = small_policy()
    found = made(policy)
    found.check(policy)
    sampler = policy.config.sampler
    foreign = {
        "another checkpoint or sampler": small_policy(seed=1),
        "has 10 steps, the policy's sampler 5": policy.with_sampler(sampler.with_steps("ddim", 5)),
        "their sites differ": small_policy("encoder-only"),
    }
    for words, other in foreign.items():
        with pytest.raises(PlanError, match=words):
            found.check(other)
    with pytest.raises(PlanError, match="another checkpoint or sampler"):
        found.check(policy.with_sampler(sampler.with_steps("ddim", 10)))


def test_branch_errors_are_relative_to_the_plain_network() -> None:
    policy = small_policy()
    plan = resolve(policy, UniformConfig(steps=3))
    found = branch_errors(policy, plan, observations(), noise(), batch=4, progress=False)
    plain = outputs(policy)
    flat = plain.reshape(*plain.shape[:3], -1)
    assert found.error[0].tolist() == [0.0] * len(plan.sites)
    # until something is computed again, the first site adds what it had in step 0
    difference = np.linalg.norm(flat[:, 0, 0] - flat[:, 0, 1], axis=-1)
    expected = (difference / np.linalg.norm(flat[:, 0, 1], axis=-1)).mean()
    assert found.error[1, 0] == pytest.approx(expected, rel=1e-4)
    assert np.array_equal(found.hits, ~plan.mask)
    assert found.action_error.shape == (M,)
    assert (found.action_error > 0).all()


def test_branch_errors_include_what_a_plan_adds_besides() -> None:
    policy = small_policy()
    plan = resolve(policy, UniformConfig(steps=3))
    step = int(np.flatnonzero(~plan.mask[:, 0])[0])
    bias = np.zeros((*plan.mask.shape, policy.n_live, policy.sizes.n_emb), dtype=np.float32)
    bias[step, 0] = 0.25
    before, after = (
        branch_errors(policy, p, observations(), noise(), progress=False)
        for p in (plan, replace(plan, bias=bias))
    )
    assert np.array_equal(before.error[:step], after.error[:step])
    assert abs(before.error[step, 0] - after.error[step, 0]) > 0.01


def test_a_plan_that_computes_everything_has_no_branch_errors() -> None:
    policy = small_policy()
    found = branch_errors(policy, resolve(policy, None), observations(), noise(), progress=False)
    assert not found.error.any()
    assert not found.action_error.any()
    foreign = resolve(small_policy(seed=1), None)
    with pytest.raises(PlanError, match="another checkpoint or sampler"):
        branch_errors(policy, foreign, observations(), noise())
