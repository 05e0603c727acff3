"""Whole queries as graphs: what other runtimes make of them, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import (
    CachePlan,
    DuQuantConfig,
    PlanError,
    RtnConfig,
    UniformConfig,
    accelerated,
    collect,
    quantize,
)
from accel.graphs import FORMATS, export_graph, query_noise
from accel.graphs.query import Query
from accel.plans.decisions import Threshold
from accel.plans.sites import sites_of
from policies import DiffusionPolicy, from_reference
from tests.helpers.quant_data import small_policy as wider_policy
from tests.helpers.seeing import image_policy
from tests.helpers.stock import small_policy
from tests.helpers.stock_unet import live_unet

STEPS = 3


def needs(*packages: str) -> Any:
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


onnx = needs("onnx", "onnxruntime")
RUNTIMES = [  # OpenVINO takes longer to write, and is asked for what has everything in it
    *(pytest.param("onnx", cache, marks=onnx) for cache in ("none", "uniform", "forecasts")),
    pytest.param("openvino", "forecasts", marks=needs("openvino")),
]


def transformer(variant: str = "causal", **settings: Any) -> DiffusionPolicy:
    return small_policy(variant, steps=STEPS, **settings)


def unet(variant: str = "global") -> DiffusionPolicy:
    return from_reference(live_unet(variant, steps=STEPS, down_dims=[16, 24]))


def forecasts(policy: DiffusionPolicy) -> CachePlan:
    """As of hash_ab: steps of its own at every site, two slots, and of transformers a bias."""
    sites, rng = sites_of(policy), np.random.default_rng(0)
    mask = rng.random((STEPS, len(sites))) < 0.5
    mask[:2], mask[-1, ::2] = True, False
    bias = None
    if policy.sizes.family == "transformer":
        live = policy.n_live + policy.sizes.encoder_only
        bias = rng.normal(0, 0.1, (*mask.shape, live, policy.sizes.n_emb)).astype(np.float32)
    alpha = np.stack([np.full(mask.shape, 1.4), np.full(mask.shape, -0.4)], axis=2)
    return CachePlan(sites, mask, policy.fingerprint(), "forecasts", alpha, bias)


CACHES: dict[str, Any] = {
    "none": lambda policy: None,
    "uniform": lambda policy: UniformConfig(steps=2, spacing="even"),
    "forecasts": forecasts,
}


def asked(policy: DiffusionPolicy, rows: int = 1) -> tuple[torch.Tensor, list[int]]:
    """An observation that no check has asked, and seeds."""
    generator = torch.Generator().manual_seed(77)
    shape = (rows, policy.n_obs_steps, policy.obs_dim)
    return torch.randn(shape, generator=generator), [900 + row for row in range(rows)]


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def said_by(fast: Any, path: Path, to: str, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions of the policy, and of the file in its runtime, normalised."""
    obs, seeds = asked(fast.policy, rows)
    arrays = {"observation": obs.numpy(), "noise": query_noise(fast.policy, seeds).numpy()}
    theirs = torch.from_numpy(FORMATS[to].load(path)(arrays))
    ours = fast.act(obs, generators(seeds))
    normalize = fast.policy.normalizer.normalize
    return normalize("action", ours), normalize("action", theirs)


@pytest.mark.parametrize(("to", "cache"), RUNTIMES)
@pytest.mark.parametrize("policy", [transformer(), unet()], ids=["transformer", "unet"])
def test_a_graph_does_what_the_policy_does(
    policy: DiffusionPolicy, to: str, cache: str, tmp_path: Path
) -> None:
    path = tmp_path / f"graph{FORMATS[to].suffix}"
    with accelerated(policy, CACHES[cache](policy)) as fast:
        made = export_graph(fast, path, to)
        ours, theirs = said_by(fast, path, to)
    assert made.checked is not None
    assert made.checked.error < 1e-4
    assert (ours - theirs).abs().max() < 1e-4
    if cache != "none":  # the plan is in it
        with accelerated(policy) as plain:
            assert (said_by(plain, path, to)[0] - theirs).abs().max() > 1e-3
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in made.files}


@pytest.mark.parametrize(
    "policy",
    [
        *(transformer(v) for v in ("not causal", "condition encoder", "encoder-only")),
        *(transformer(v) for v in ("in-painting", "action steps only")),
        *(unet(v) for v in ("local", "in-painting", "global, scaled")),
        transformer().with_sampler("dpmpp", 3, order=2),
        transformer().with_sampler("ddim", 3),
        transformer().with_sampler("dpmpp", 3, stochastic=True),
    ],
    ids=lambda policy: f"{policy.sizes.family}-{policy.n_inference_steps}",
)
def test_a_query_written_out_is_the_query(policy: DiffusionPolicy) -> None:
    obs, seeds = asked(policy, rows=2)
    with accelerated(policy, engine="reference") as fast, torch.no_grad():
        actions = Query(fast)(obs, query_noise(policy, seeds))
        expected = fast.act(obs, generators(seeds))
    torch.testing.assert_close(actions, expected, rtol=1e-4, atol=1e-4)


SETTINGS: dict[str, Any] = {
    "codes by codes": (RtnConfig(), "MatMulInteger"),
    "duquant": (DuQuantConfig(method="duquant"), "MatMulInteger"),
    "stored rotations, outputs turned, 4 bits": (
        DuQuantConfig(
            method="duquant", rotation="greedy", greedy_steps=2, row_rot="restore", weight_bits=4
        ),
        "MatMulInteger",
    ),
    "weights alone": (RtnConfig(activation_bits=16), "DequantizeLinear"),
    "asymmetric": (RtnConfig(activation="asymmetric"), "DequantizeLinear"),
}


def copied(policy: DiffusionPolicy, config: Any) -> Any:
    obs = torch.randn((8, policy.n_obs_steps, policy.obs_dim))
    batches = [(obs, generators(list(range(8))))]
    statistics = collect(policy, batches, 1, run=lambda _, batch: policy.act(*batch))
    return quantize(policy, statistics, config, backend="torch")


@onnx
@pytest.mark.parametrize("settings", SETTINGS)
def test_codes_stay_codes_and_give_the_quantised_policys_actions(
    settings: str, tmp_path: Path
) -> None:
    import onnx as package

    config, operator = SETTINGS[settings]
    policy = wider_policy(steps=2)
    copy = copied(policy, config)
    with accelerated(policy, None, copy, engine="reference") as fast:
        export_graph(fast, tmp_path / "graph.onnx")
        ours, theirs = said_by(fast, tmp_path / "graph.onnx", "onnx")
    assert (ours - theirs).abs().max() < 1e-3
    graph = package.load(tmp_path / "graph.onnx").graph
    assert operator in {node.op_type for node in graph.node}
    sizes = {"codes": 0, "floats": 0}
    for tensor in graph.initializer:
        kinds = package.TensorProto.UINT8, package.TensorProto.INT8
        sizes["codes" if tensor.data_type in kinds else "floats"] += int(np.prod(tensor.dims))
    n_codes = sum(n * k for n, k in (layer.shape for layer in copy.layers))
    assert n_codes <= sizes["codes"] <= n_codes + 1  # and the zero point
    parameters = sum(p.numel() for p in policy.parameters())
    assert sizes["floats"] < parameters - 0.9 * n_codes
    said = json.loads((tmp_path / "graph.json").read_text())["quant"]
    assert set(said["layers"]) == {layer.name for layer in copy.layers}


@onnx
def test_convolutions_of_codes(tmp_path: Path) -> None:
    policy = from_reference(live_unet("global", steps=2, down_dims=[64, 96]))
    with accelerated(policy, None, copied(policy, RtnConfig()), engine="reference") as fast:
        made = export_graph(fast, tmp_path / "graph.onnx")
    assert made.checked is not None
    assert made.checked.error < made.checked.limit


@onnx
def test_images_are_inputs_by_name(tmp_path: Path) -> None:
    policy = image_policy()
    with accelerated(policy, engine="reference") as fast:
        made = export_graph(fast, tmp_path / "graph.onnx")
    assert made.checked is not None
    assert made.checked.error < 1e-4
    inputs = json.loads((tmp_path / "graph.json").read_text())["inputs"]
    assert [i["name"] for i in inputs] == [*policy.obs_spec, "noise"]
    assert inputs[0]["dtype"] == "uint8"


@onnx
def test_rows_are_fixed_and_said(tmp_path: Path) -> None:
    policy = transformer()
    with accelerated(policy, UniformConfig(steps=2, spacing="even")) as fast:
        export_graph(fast, tmp_path / "three.onnx", batch=3)
        ours, theirs = said_by(fast, tmp_path / "three.onnx", "onnx", rows=3)
        digest = fast.plan.digest()
    assert (ours - theirs).abs().max() < 1e-4
    said = json.loads((tmp_path / "three.json").read_text())
    assert (said["batch"], said["file"], said["format"]) == (3, "three.onnx", "onnx")
    assert said["policy"] == policy.fingerprint()
    assert said["plan"] == {
        "digest": digest,
        "method": "uniform steps=2 spacing=even",
        "steps": STEPS,
    }
    assert said["sampler"] == policy.sampler_settings
    assert {i["name"]: (i["shape"], i["dtype"]) for i in said["inputs"]} == {
        "observation": ([3, 2, 5], "float32"),
        "noise": ([STEPS, 3, 8, 3], "float32"),
    }
    assert said["outputs"][0]["shape"] == [3, 4, 3]
    assert said["checked"]["error"] < said["checked"]["limit"] == 1e-4
    assert "torch.Generator().manual_seed(seed + r)" in said["inputs"][1]["is"]


def test_noise_is_the_librarys() -> None:
    policy = transformer()
    noise = query_noise(policy, [5, 6])
    assert tuple(noise.shape) == (STEPS, 2, 8, 3)  # the last step draws none
    drawn = torch.Generator().manual_seed(6)
    for draw in range(STEPS):
        assert torch.equal(noise[draw, 1], torch.randn((1, 8, 3), generator=drawn)[0])


@onnx
def test_a_graph_that_does_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel.graphs.check.EXACT", 0.0)
    with accelerated(transformer()) as fast, pytest.raises(ValueError, match="was not written"):
        export_graph(fast, tmp_path / "graph.onnx")
    assert not list(tmp_path.iterdir())


@onnx
def test_without_a_runtime_it_says_that_nothing_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel.graphs.check.find_spec", lambda name: None)
    with accelerated(transformer().with_sampler("ddpm", 2)) as fast:
        assert export_graph(fast, tmp_path / "graph.onnx").checked is None
    assert json.loads((tmp_path / "graph.json").read_text())["checked"] is None


def deciding(policy: DiffusionPolicy) -> CachePlan:
    rule = Threshold("residual", 3, 0.1, (1.0, 0.0), float("inf"), False, (0,))
    sites = sites_of(policy)
    mask = np.ones((STEPS, len(sites)), dtype=bool)
    return CachePlan(sites, mask, policy.fingerprint(), "first_block limit=0.1", decide=rule)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = transformer()
    with pytest.raises(TypeError, match="without warm=, got DiffusionPolicy"):
        export_graph(policy, tmp_path / "a.onnx")  # type: ignore[arg-type]
    monkeypatch.setattr("accel.graphs.formats.find_spec", lambda name: None)
    with accelerated(policy) as fast:
        for to, name, batch, words in (
            ("onx", "a.onnx", 1, "to must be one of onnx, openvino, got 'onx'; did you mean onnx"),
            ("onnx", "a.xml", 1, "the file of to=onnx must end in .onnx, got a.xml"),
            ("onnx", "a.onnx", 0, "batch must be at least 1, got 0"),
            ("onnx", "a.onnx", 1, r"to=onnx needs onnx: pip install 'skipstep\[export\]'"),
            ("openvino", "a.xml", 1, "to=openvino needs openvino: pip install"),
        ):
            with pytest.raises(ValueError, match=words):
                export_graph(fast, tmp_path / name, to, batch)
    wide = wider_policy(steps=2)
    with accelerated(wide, None, copied(wide, RtnConfig()), engine="reference") as fast:
        with pytest.raises(ValueError, match="has no quantised weights: quant=none, or to=onnx"):
            export_graph(fast, tmp_path / "a.xml", "openvino")
    monkeypatch.undo()
    monkeypatch.setattr("accel.graphs.export.check_package", lambda *names: None)
    with accelerated(policy, deciding(policy)) as fast:
        with pytest.raises(PlanError, match=r"cache=first_block decides at run time .* none, uni"):
            export_graph(fast, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
