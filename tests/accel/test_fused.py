"""The fused engine against the reference engine; plans and their files."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import CachePlan, PlanError, UniformConfig, accelerated, resolve, sites_of
from accel.engines import FusedConfig
from accel.engines.backend import unsupported
from accel.engines.program import compile_plan, peak_values
from accel.kernels import linear as kernels
from accel.kernels import native
from policies import (
    DiffusionPolicy,
    NetworkConfig,
    PolicyConfig,
    SamplerConfig,
    from_reference,
    load_policy,
)
from tests.helpers.places import PROJECT
from tests.helpers.stock import OBS, TO, VARIANTS, live_policy

SAMPLERS: list[dict[str, Any]] = [
    {},
    {"sampler": "ddim", "steps": 5},
    {"sampler": "ddim", "eta": 0.7},
    {"scheduler": {"clip_sample": False, "prediction_type": "sample"}},
    {"scheduler": {"timestep_spacing": "trailing", "variance_type": "fixed_large"}},
]
POLICIES = {
    (variant, i): from_reference(live_policy(variant, **sampler))
    for variant in VARIANTS
    for i, sampler in enumerate(SAMPLERS)
}


def random_plan(
    policy: DiffusionPolicy, seed: int, density: float, n_slots: int, biased: bool = False
) -> CachePlan:
    """Random cells; hits reuse or extrapolate linearly, as far as there are stored values."""
    random = np.random.default_rng(seed)
    sites = sites_of(policy)
    mask = random.random((policy.n_inference_steps, len(sites))) < density
    if seed % 2:  # neighbours that agree, so that runs form
        mask[:] = mask[:, :1]
    mask[0] = True
    alpha = np.zeros((*mask.shape, n_slots))
    for step, site in np.argwhere(~mask):
        anchors = np.flatnonzero(mask[:step, site])[::-1][:n_slots]
        damping = 0.5 * (seed % 3)
        if len(anchors) > 1 and random.random() < 0.7:
            slope = damping * (step - anchors[0]) / (anchors[0] - anchors[1])
            alpha[step, site, :2] = 1 + slope, -slope
        else:
            alpha[step, site, 0] = 1
    bias = None
    if biased:
        tokens = policy.n_live + policy.sizes.encoder_only
        bias = random.normal(size=(*mask.shape, tokens, policy.sizes.n_emb)).astype(np.float32) / 9
    chosen = alpha if n_slots > 1 or not seed % 3 else None
    return CachePlan(sites, mask, policy.fingerprint(), "random", chosen, bias)


@settings(deadline=None, max_examples=120)
@given(
    key=st.sampled_from(sorted(POLICIES)),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
    n_slots=st.integers(1, 3),
    batch=st.integers(1, 4),
    single=st.booleans(),
    backend=st.sampled_from(["auto", "torch"]),
    biased=st.booleans(),
)
def test_random_plans_give_the_reference_engines_actions(
    key: tuple[str, int],
    seed: int,
    density: float,
    n_slots: int,
    batch: int,
    single: bool,
    backend: str,
    biased: bool,
) -> None:
    policy = POLICIES[key]
    plan = random_plan(policy, seed, density, n_slots, biased)
    obs = torch.randn((batch, TO, OBS), generator=torch.Generator().manual_seed(seed % 1000))

    def noise() -> Any:
        rows = [torch.Generator().manual_seed(seed % 997 + i) for i in range(batch)]
        return rows[0] if single else rows

    with accelerated(policy, plan, engine="reference") as slow:
        expected = slow.act(obs, noise())
    with accelerated(policy, plan, engine=FusedConfig(backend=backend)) as fast:
        actions = fast.act(obs, noise())
    scale = policy.normalizer.params_dict["action"]["scale"]
    # without clipping a random network's trajectory is large: relative to it
    largest = max(1.0, float((expected * scale).abs().max()))
    torch.testing.assert_close(actions * scale, expected * scale, atol=1e-4 * largest, rtol=0)
    assert fast.stats()["computed"] == slow.stats()["computed"] == plan.mask.astype(int).tolist()
    assert fast.stats()["plan"] == slow.stats()["plan"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_not_more_than_the_reference_engines(variant: str) -> None:
    policy = POLICIES[variant, 0]
    found = {}
    for engine in ("reference", "fused"):
        with accelerated(policy, engine=engine) as fast:
            fast.act(torch.zeros(1, TO, OBS), torch.Generator())
            found[engine] = fast.stats()["flops"]
    assert 0 < found["fused"] <= found["reference"]
    if variant == "encoder-only, not causal":  # nothing to hoist, nothing to trim
        assert found["fused"] == found["reference"]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_rows_do_not_depend_on_their_neighbours(backend: str) -> None:
    policy = POLICIES["causal", 0]
    obs = torch.randn(4, TO, OBS)

    def act(fast: Any, rows: list[int]) -> torch.Tensor:
        actions: torch.Tensor = fast.act(
            obs[rows], [torch.Generator().manual_seed(row) for row in rows]
        )
        return actions

    with accelerated(policy, UniformConfig(steps=3), engine=FusedConfig(backend=backend)) as fast:
        together = act(fast, [0, 1, 2, 3])
        assert torch.equal(act(fast, [2, 0, 3, 1]), together[[2, 0, 3, 1]])
        assert torch.equal(act(fast, [2, 2, 2, 2])[0], together[2])


needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


@needs_compiler
def test_a_batch_is_split_over_threads_without_a_trace() -> None:
    policy = POLICIES["causal", 0]
    obs = torch.randn((5, TO, OBS), generator=torch.Generator().manual_seed(0))
    found = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            with accelerated(policy, UniformConfig(steps=3)) as fast:
                found.append(fast.act(obs, [torch.Generator().manual_seed(i) for i in range(5)]))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)


@needs_compiler
def test_all_variants_but_condition_encoders_are_compiled() -> None:
    reasons = {variant: unsupported(POLICIES[variant, 0]) for variant in VARIANTS}
    assert reasons.pop("condition encoder") == "the policy has a condition encoder"
    assert set(reasons.values()) == {None}


@needs_compiler
def test_weights_are_stored_in_half_precision_where_that_loses_nothing() -> None:
    policy = deepcopy(POLICIES["causal", 0])
    obs = torch.zeros(1, TO, OBS)

    def run(**config: str) -> tuple[torch.Tensor, set[str]]:
        with accelerated(policy, engine=FusedConfig(**config)) as fast:
            actions = fast.act(obs, torch.Generator().manual_seed(0))
            return actions, set(fast.stats()["kernels"].values())

    exact, kernel = run()
    assert kernel == {"fp32_native"}
    rounded, kernel = run(precision="half")
    if not native.library().half_works():  # type: ignore[union-attr]
        pytest.skip("no half precision loads here")
    assert kernel == {"half_native"}
    assert 0 < float((rounded - exact).abs().max()) < 0.1
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.copy_(parameter.half().float())
    same, kernel = run()
    assert kernel == {"half_native"}
    torch.testing.assert_close(
        same, policy.act(obs, torch.Generator().manual_seed(0)), atol=1e-4, rtol=0
    )


@needs_compiler
def test_the_program_holds_no_more_than_the_weights() -> None:
    policy = load_policy(PROJECT / "checkpoints" / "lift")
    with accelerated(policy, UniformConfig(steps=10)) as fast:
        fast.act(torch.zeros(1, policy.n_obs_steps, policy.obs_dim), torch.Generator())
        (program,) = fast._engine._programs.values()
    weights = sum(parameter.nbytes for parameter in policy.model.parameters())
    scratch = sum(part.scratch.nbytes for part in program.parts)
    assert program.packed.nbytes + scratch + program.memory.time.nbytes < weights


@needs_compiler
def test_half_precision_is_not_used_where_a_weight_would_overflow() -> None:
    policy, obs = deepcopy(POLICIES["causal", 0]), torch.zeros(1, TO, OBS)
    with torch.no_grad():
        policy.model.decoder.layers[0].linear1.weight[0, 0] = 7e4
    with accelerated(policy, engine=FusedConfig(precision="half")) as fast:
        actions = fast.act(obs, torch.Generator().manual_seed(0))
        kernel = fast.stats()["kernels"]
    assert kernel["0.ff.up"] == "fp32_native"
    assert kernel["0.ff.down"] == "half_native"
    assert bool(actions.isfinite().all())


@needs_compiler
def test_half_precision_is_refused_where_it_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native.library(), "half_works", lambda: 0)
    config = FusedConfig(precision="half")
    with (
        pytest.raises(ValueError, match="cannot run here: this CPU loads no half precision"),
        accelerated(POLICIES["causal", 0], engine=config),
    ):
        pass


@needs_compiler
@pytest.mark.parametrize("width", [8, 16])
@pytest.mark.parametrize("encoder_only", [True, False])
def test_heads_may_be_wider_than_every_branch(width: int, encoder_only: bool) -> None:
    network = NetworkConfig(
        input_dim=93,
        output_dim=93,
        horizon=4,
        n_obs_steps=1,
        n_layer=1,
        n_head=1,
        n_emb=width,
        causal_attn=not encoder_only,
        time_as_cond=not encoder_only,
        obs_as_cond=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = PolicyConfig(network, 60, 33, 3, sampler=SamplerConfig(steps=5))
        policy = DiffusionPolicy(config).eval()
    for field, dim in (("obs", 60), ("action", 33)):
        policy.normalizer.fit(field, torch.randn(20, dim))
    obs = torch.zeros(3, 1, 60)

    def noise() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(3)]

    with accelerated(policy, engine=FusedConfig(backend="native")) as fast:
        torch.testing.assert_close(
            fast.act(obs, noise()), policy.act(obs, noise()), atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_is_never_hidden(variant: str, backend: str) -> None:
    obs = torch.zeros(2, TO, OBS)
    obs[0, 0, 0] = torch.nan
    with accelerated(POLICIES[variant, 0], engine=FusedConfig(backend=backend)) as fast:
        actions = fast.act(obs, [torch.Generator().manual_seed(i) for i in range(2)])
    assert bool(actions[0].isnan().all())
    assert bool(actions[1].isfinite().all())


@needs_compiler
def test_a_compiler_may_have_arguments_and_the_cache_be_read_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    native.library.cache_clear()
    try:
        monkeypatch.setenv("CC", "env cc")
        monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
        monkeypatch.setattr(native, "FLAGS", tuple(flag for flag in native.FLAGS if flag != "-O3"))
        assert native.library() is not None
    finally:
        native.library.cache_clear()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@needs_compiler
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert list(native.threads(2).map(abs, [-1, -2])) == [1, 2]
    before = native.threads(2)
    child = os.fork()
    if child == 0:
        os._exit(0 if native.threads(2) is not before else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert native.threads(2) is before


def test_without_a_compiler_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, obs = POLICIES["causal", 0], torch.zeros(1, TO, OBS)
    monkeypatch.setenv("CC", "no-such-compiler")
    native.library.cache_clear()
    try:
        with accelerated(policy) as fast:
            expected = policy.act(obs, torch.Generator().manual_seed(0))
            actions = fast.act(obs, torch.Generator().manual_seed(0))
            assert "native" not in str(fast.stats()["kernels"])
        with (
            pytest.raises(ValueError, match=r"backend=native .* cannot run here: no compiled code"),
            accelerated(policy, engine=FusedConfig(backend="native")),
        ):
            pass
    finally:
        native.library.cache_clear()
    torch.testing.assert_close(actions, expected, atol=1e-4, rtol=0)


def test_bf16_rounds_and_tf32_needs_cuda() -> None:
    policy, obs = POLICIES["causal", 0], torch.zeros(1, TO, OBS)
    expected = policy.act(obs, torch.Generator().manual_seed(0))
    with accelerated(policy, engine=FusedConfig(precision="bf16", backend="torch")) as fast:
        actions = fast.act(obs, torch.Generator().manual_seed(0))
        assert set(fast.stats()["kernels"].values()) == {"bf16"}
    assert 0 < float((actions - expected).abs().max()) < 0.5
    for config, words in (
        (FusedConfig(precision="tf32"), "device is cpu"),
        (FusedConfig(precision="half", backend="torch"), "that precision is for native"),
    ):
        with pytest.raises(ValueError, match=words), accelerated(policy, engine=config):
            pass


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"backend": "cuda"}, "engine.backend must be one of auto, native, torch, got 'cuda'"),
        (
            {"precision": "int4"},
            "engine.precision must be one of exact, half, bf16, tf32, got 'int4'",
        ),
    ],
)
def test_unknown_settings_are_refused(config: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FusedConfig(**config)


def test_wrong_inputs_are_refused() -> None:
    with accelerated(POLICIES["causal", 0], engine="fused") as fast:
        with pytest.raises(ValueError, match=r"obs must have shape \(B, 2, 5\), got \(1, 3, 5\)"):
            fast.act(torch.zeros(1, 3, 5), torch.Generator())
        with pytest.raises(ValueError, match=r"one generator per row \(2\), got 1"):
            fast.act(torch.zeros(2, 2, 5), [torch.Generator()])


def test_a_shared_schedule_keeps_one_difference_at_a_time() -> None:
    plan = resolve(POLICIES["causal", 0], UniformConfig(steps=4, spacing="even"))
    program = compile_plan(plan)
    assert peak_values(program) == 1
    hits = [step for step in program if step.segments[0].add is not None]
    assert [len(step.segments) for step in hits] == [1] * 6
    assert sum(len(step.drops) for step in program) == 3


def test_runs_merge_only_where_anchors_and_coefficients_agree() -> None:
    policy = POLICIES["causal", 0]
    mask = np.zeros((10, 6), dtype=bool)
    mask[0] = True
    mask[1, 2:] = True
    program = compile_plan(CachePlan(sites_of(policy), mask, policy.fingerprint(), "hand"))
    runs = [(s.start, s.stop, s.add) for s in program[2].segments]
    assert runs == [(0, 2, (((0, 0, 2), 1.0),)), (2, 6, (((1, 2, 6), 1.0),))]


def test_biases_of_a_run_are_one_and_count_as_memory() -> None:
    policy = POLICIES["causal", 0]
    plan = resolve(policy, UniformConfig(steps=4, spacing="even"))
    bias = np.random.default_rng(0).normal(size=(10, 6, policy.n_live, 16)).astype(np.float32)
    biased = replace(plan, bias=bias)
    runs = [step for step in compile_plan(biased) if step.segments[0].add is not None]
    assert [len(step.segments) for step in runs] == [1] * 6
    first = compile_plan(biased)[1].segments[0].bias
    np.testing.assert_allclose(first, bias[1].sum(axis=0), rtol=1e-5)
    spent = {}
    for engine in ("reference", "fused"):
        for name, p in (("plain", plan), ("biased", biased)):
            with accelerated(policy, p, engine=engine) as fast:
                actions = fast.act(torch.zeros(1, TO, OBS), torch.Generator().manual_seed(0))
                spent[engine, name] = fast.stats()["cache_bytes"], actions
    assert spent["reference", "biased"][0] - spent["reference", "plain"][0] == bias.nbytes
    assert spent["fused", "biased"][0] - spent["fused", "plain"][0] == 6 * bias[0, 0].nbytes
    assert not torch.allclose(spent["fused", "biased"][1], spent["fused", "plain"][1], atol=1e-2)


def test_biases_of_a_wrong_shape_or_value_are_refused() -> None:
    policy = POLICIES["causal", 0]
    plan = resolve(policy, UniformConfig(steps=3))
    bias = np.zeros((10, 6, policy.n_live, 16), dtype=np.float32)
    with pytest.raises(PlanError, match=r"plan.bias must be float32 \(10, 6, 'tokens', 'width'\)"):
        replace(plan, bias=bias.astype(np.float64))
    with pytest.raises(PlanError, match=r"plan.bias must be float32.* got float32 \(9, 6, 5, 16\)"):
        replace(plan, bias=bias[1:])
    with pytest.raises(PlanError, match=r"bias must have 5 live tokens of width 16, got \(4, 16\)"):
        resolve(policy, replace(plan, bias=bias[:, :, 1:]))
    bias[np.flatnonzero(~plan.mask[:, 0])[0], 3] = np.nan
    with pytest.raises(PlanError, match=r"plan.bias of decoder.layers.1.sa in step \d is not"):
        replace(plan, bias=bias)


def test_the_packed_kernel_is_used_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = POLICIES["causal", 0]
    obs = torch.zeros(1, TO, OBS)
    with accelerated(policy, engine=FusedConfig(backend="torch")) as fast:
        packed = fast.act(obs, torch.Generator().manual_seed(0))
        expected = "fp32_packed" if kernels.packed_works() else "fp32"
        assert set(fast.stats()["kernels"].values()) == {expected}
    monkeypatch.setattr(kernels, "packed_works", lambda: False)
    with accelerated(policy, engine=FusedConfig(backend="torch")) as fast:
        plain = fast.act(obs, torch.Generator().manual_seed(0))
        assert set(fast.stats()["kernels"].values()) == {"fp32"}
    torch.testing.assert_close(packed, plain, atol=1e-4, rtol=0)


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    policy = POLICIES["causal", 0]
    for plan in (
        resolve(policy, UniformConfig(steps=3)),
        random_plan(policy, 5, 0.4, 3),
        random_plan(policy, 5, 0.4, 3, biased=True),
        random_plan(policy, 5, 0.4, 1, biased=True),
    ):
        plan.save(tmp_path / "plan.json")
        loaded = CachePlan.load(tmp_path / "plan.json")
        assert loaded.digest() == plan.digest()
        assert np.array_equal(loaded.mask, plan.mask)
        loaded.check(policy)
        with accelerated(policy, loaded) as fast, accelerated(policy, plan) as same:
            args = (torch.zeros(1, TO, OBS), torch.Generator().manual_seed(1))
            again = (torch.zeros(1, TO, OBS), torch.Generator().manual_seed(1))
            assert torch.equal(fast.act(*args), same.act(*again))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "skipstep-plan/9"}, "schema must be skipstep-plan/1"),
        ({"extra": 1}, "keys differ from the schema's: extra"),
        ({"bands": [1]}, "list indices must be integers"),
        ({"policy": "0" * 64}, "digest does not match"),
        ({"rows": {}}, "rows must be those of the sites"),
        ({"sites": [{"name": "x", "op": "sa", "kind": "sum"}]}, "kind must be branch"),
    ],
)
def test_a_file_that_was_changed_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    resolve(POLICIES["causal", 0], UniformConfig(steps=3)).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PlanError, match=words) as error:
        CachePlan.load(path)
    assert str(path) in str(error.value)


def test_a_missing_foreign_or_broken_bias_is_refused(tmp_path: Path) -> None:
    policy = POLICIES["causal", 0]
    for seed in (1, 2):
        random_plan(policy, seed, 0.4, 2, biased=True).save(tmp_path / f"plan{seed}.json")
    assert len(list(tmp_path.iterdir())) == 4
    own = tmp_path / "plan1.bias.safetensors"
    for content, words in (
        ((tmp_path / "plan2.bias.safetensors").read_bytes(), "belongs to another plan"),
        (own.read_bytes()[:200], "cannot be read"),
        (own.read_bytes()[:-4000] + b"abcd" * 1000, "digest does not match the content"),
        (None, r"its bias, plan1.bias.safetensors, is not beside it"),
    ):
        own.unlink() if content is None else own.write_bytes(content)
        with pytest.raises(PlanError, match=words) as error:
            CachePlan.load(tmp_path / "plan1.json")
        assert "plan1.json" in str(error.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    resolve(POLICIES["causal", 0], UniformConfig(steps=3)).save(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(PlanError, match=r"plan\.json"):
        CachePlan.load(path)


def test_forecasts_need_stored_values() -> None:
    policy = POLICIES["causal", 0]
    plan = resolve(policy, UniformConfig(steps=3, spacing="even"))
    alpha = np.zeros((10, 6, 2))
    alpha[..., 0] = 1
    assert replace(plan, alpha=alpha).forecast(1, 0) == ((0, 1.0),)
    early = alpha.copy()
    early[1, 2, 1] = -1
    with pytest.raises(PlanError, match=r"layers.0.ff in step 1 uses 2 stored values, there are 1"):
        replace(plan, alpha=early)
    alpha[3, 4, 0] = np.nan
    with pytest.raises(PlanError, match=r"layers.1.ca in step 3 is not finite"):
        replace(plan, alpha=alpha)
