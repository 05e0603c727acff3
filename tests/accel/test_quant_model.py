"""Statistics, whole models, and their files."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from accel.quant import (
    DuQuantConfig,
    Quantized,
    RtnConfig,
    SmoothConfig,
    Statistics,
    collect,
    load_quantized,
    plan,
    quantize,
    save_quantized,
)
from accel.quant.fitting import n_bytes
from accel.quant.linear import QuantisedLinear
from policies import DiffusionPolicy
from tests.helpers.quant_data import (
    BLOCKS,
    EVERYTHING,
    planted,
    policy_statistics,
    query,
    relative,
    small_policy,
)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return small_policy()


@pytest.fixture(scope="module")
def statistics(policy: DiffusionPolicy) -> Any:
    return policy_statistics(policy)


def flow(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).eval()


def test_every_call_counts() -> None:
    _, x = planted("none", 64, 64, 40)
    batches = [(x,), (100 * x[:8],), (x / 100,)]
    seen = collect(flow(), batches, 3, rows=44).layers["0"]
    assert torch.equal(seen.maximum, torch.maximum(x.abs().amax(0), 100 * x[:8].abs().amax(0)))
    assert len(seen.peaks) == 3
    assert seen.peaks[1] > 20 * seen.peaks[0]
    assert seen.n_tokens == 88
    assert seen.rows.shape == (44, 64)
    sizes = seen.rows.abs().amax(1)
    assert ((sizes < 0.1).any(), (sizes > 100).any()) == (True, True)  # rows of the last and second
    again = collect(flow(), batches, 3, rows=44).layers["0"]
    assert torch.equal(again.rows, seen.rows)
    other = collect(flow(), batches, 3, rows=44, seed=1).layers["0"]
    assert not torch.equal(other.rows, seen.rows)


def test_rows_are_drawn_evenly_from_all_calls() -> None:
    batches = [(torch.full((25, 64), float(call + 1)),) for call in range(20)]
    rows = collect(flow(), batches, 20, rows=250).layers["0"].rows[:, 0]
    counts = torch.bincount(rows.long(), minlength=21)[1:]
    assert counts.sum() == 250
    assert counts.min() >= 4
    assert counts.max() <= 21


def test_too_few_batches_are_refused_and_hooks_removed() -> None:
    model, x = flow(), torch.randn(2, 64)
    with pytest.raises(ValueError, match="n_batches must be at most the batches there are, 2, got"):
        collect(model, [(x,), (x,)], 3)
    with pytest.raises(FloatingPointError):
        collect(model, [(x / 0,)], 1)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="eval mode"):
        collect(flow().train(), [(x,)], 1)
    endless = ((x,) for _ in itertools.count())
    assert collect(model, endless, 2).layers["0"].n_tokens == 4


def test_the_policy_without_quantisation_is_the_plain_one(
    policy: DiffusionPolicy, statistics: Any
) -> None:
    plain = policy.act(*query())
    before = {n: t.clone() for n, t in policy.state_dict().items()}
    for rotation in ("hadamard", "greedy"):
        config = DuQuantConfig(
            weight_bits=16,
            activation_bits=16,
            method="duquant",
            rotation=rotation,
            greedy_steps=2,
            include=BLOCKS,
        )
        quantised = quantize(policy, statistics, config)
        assert relative(quantised.model.act(*query()), plain) < 2e-6
    assert {r.name.split(".", 4)[-1] for r in quantised.layers} == {
        "self_attn.in_proj",
        "self_attn.out_proj",
        "multihead_attn.q_proj",
        "multihead_attn.kv_proj",
        "multihead_attn.out_proj",
        "linear1",
        "linear2",
    }
    assert len(quantised.layers) == 14  # not the embeddings, the time's layers and the head
    names = {r.name for r in plan(policy, statistics, DuQuantConfig())}
    assert names == {r.name for r in quantised.layers if "kv_proj" not in r.name}
    assert policy.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[n]) for n, t in policy.state_dict().items())
    assert torch.equal(policy.act(*query()), plain)


def test_every_quantised_layer_runs_as_often_as_the_plain_one_and_matters(
    policy: DiffusionPolicy, statistics: Any
) -> None:
    quantised = quantize(policy, statistics, DuQuantConfig())
    model: Any = quantised.model
    plain, calls = policy.act(*query()), dict.fromkeys((r.name for r in quantised.layers), 0)
    for name in calls:
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.update({name: calls[name] + 1})
        )
    actions = model.act(*query())
    assert 1e-5 < relative(actions, plain) < 0.2
    for name, n in calls.items():
        assert n == len(statistics.layers[name].peaks) / 2  # which saw two queries
    for name in calls:
        layer = model.get_submodule(name)
        scale = layer.scale.clone()
        layer.scale.zero_()
        bias = layer.bias.clone()
        layer.bias.zero_()
        assert not torch.equal(model.act(*query()), actions), name
        layer.scale.copy_(scale)
        layer.bias.copy_(bias)
    assert torch.equal(model.act(*query()), actions)


def test_the_report_says_what_was_done(policy: DiffusionPolicy, statistics: Any) -> None:
    config = DuQuantConfig(weight_bits=4, layer_bits={r"linear2$": 8, r"layers\.1\.linear2$": 6})
    reports = {r.name: r for r in plan(policy, statistics, config)}
    bits = {name: r.weight_bits for name, r in reports.items() if "linear" in name}
    assert bits == {
        "model.decoder.layers.0.linear1": 4,
        "model.decoder.layers.0.linear2": 8,
        "model.decoder.layers.1.linear1": 4,
        "model.decoder.layers.1.linear2": 6,
    }
    total = 0.0
    for report in reports.values():
        assert report.errors.keys() == {"rtn", "smooth", "duquant"}
        assert report.error == min(report.errors.values()) == report.errors[report.method]
        assert 1 < report.crest_after < 8
        assert report.bytes_after < 0.35 * report.bytes_before
        total += report.share
    assert 0.8 < total < 1
    quantised = quantize(policy, statistics, config)
    assert quantised.layers == tuple(reports.values())


def test_patterns_that_match_nothing_are_errors(policy: DiffusionPolicy, statistics: Any) -> None:
    for setting, value in (
        ("include", (r"layers\.\d", "q_proj_typo")),
        ("include", (r"layers\.\d", "input_emb")),  # too narrow
        ("exclude", ("typo",)),
        ("exclude", ("cond_obs_emb",)),  # not included
        ("layer_bits", {"typo": 4}),
        ("layer_bits", {"kv_proj": 4}),  # not quantised
    ):
        said = re.escape(repr(list(value)[-1]))
        with pytest.raises(ValueError, match=rf"quant\.{setting}: {said} matches none of"):
            plan(policy, statistics, DuQuantConfig(**{setting: value}))
    with pytest.raises(ValueError, match="matches none of 0 layers of at least 1000 features"):
        quantize(policy, statistics, DuQuantConfig(min_features=1000))
    with pytest.raises(ValueError, match=r"quant\.exclude leaves none of 12 layers"):
        quantize(policy, statistics, DuQuantConfig(exclude=(".",)))
    layers = {n: s for n, s in statistics.layers.items() if "cond_obs_emb" not in n}
    seen = dataclasses.replace(statistics, layers=layers)
    with pytest.raises(ValueError, match=r"cond_obs_emb was never called"):
        quantize(policy, seen, DuQuantConfig(include=EVERYTHING, min_features=1))


def model_of(method: str = "duquant", **settings: Any) -> tuple[nn.Module, Quantized]:
    model = flow()
    statistics = collect(model, [(torch.randn(32, 64),)], 1)
    config = DuQuantConfig(include=EVERYTHING, method=method, **settings)
    return model, quantize(model, statistics, config)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_bits": 4, "row_rot": "restore"},
        {"rotation": "greedy", "greedy_steps": 2},
        {"method": "auto", "activation": "asymmetric"},
    ],
)
def test_a_reloaded_model_is_bit_equal(settings: dict[str, Any], tmp_path: Path) -> None:
    model, quantised = model_of(**settings)
    x = torch.randn(5, 64)
    save_quantized(quantised, tmp_path / "a.safetensors")
    loaded = load_quantized(tmp_path / "a.safetensors", model, quantised.config)
    assert torch.equal(loaded.model(x), quantised.model(x))
    fresh = load_quantized(tmp_path / "a.safetensors", flow(seed=9), check_source=False)
    assert torch.equal(fresh.model(x), quantised.model(x))
    assert (fresh.config, fresh.layers) == (quantised.config, quantised.layers)
    save_quantized(fresh, tmp_path / "b.safetensors")
    first, second = ((tmp_path / f"{n}.safetensors").read_bytes() for n in "ab")
    assert first == second
    assert not list(tmp_path.glob(".*"))
    torch.save(quantised.model.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh.model.load_state_dict(state)
    assert torch.equal(fresh.model(x), quantised.model(x))


def test_a_policy_is_reloaded_with_its_attention(
    policy: DiffusionPolicy, statistics: Any, tmp_path: Path
) -> None:
    config = DuQuantConfig(include=BLOCKS)
    quantised = quantize(policy, statistics, config)
    save_quantized(quantised, tmp_path / "policy.safetensors")
    loaded: Any = load_quantized(tmp_path / "policy.safetensors", policy, config).model
    model: Any = quantised.model
    assert torch.equal(loaded.act(*query()), model.act(*query()))
    with safe_open(tmp_path / "policy.safetensors", framework="pt") as file:
        floats = {n for n in file.keys() if file.get_tensor(n).dtype == torch.float32}  # noqa: SIM118
    assert not [n for n in floats if n.endswith(".weight") and "decoder" in n and "norm" not in n]


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, quantised = model_of()
    path = tmp_path / "a.safetensors"
    save_quantized(quantised, path)
    for change in ({"weight_bits": 4}, {"block": 32}, {"alpha": None}, {"include": ("0",)}):
        config = dataclasses.replace(quantised.config, **change)
        with pytest.raises(ValueError, match=rf"a\.safetensors: quant\.{next(iter(change))} must"):
            load_quantized(path, model, config)
    with pytest.raises(ValueError, match="made from other weights"):
        load_quantized(path, flow(seed=1))
    with pytest.raises(ValueError, match="fitted to other statistics"):
        load_quantized(path, model, statistics="another")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"a\.safetensors: digest does not match"):
        load_quantized(path, model)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="has no layer"):
        load_quantized(path, nn.Sequential(nn.Linear(64, 128)).eval(), check_source=False)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"a\.safetensors: "):
        load_quantized(path, model)
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        load_quantized(tmp_path / "missing.safetensors", model)
    _, other = model_of(weight_bits=4)
    with pytest.raises(ValueError, match=r"weight_bits must be 8, the state has 4|size mismatch"):
        quantised.model.load_state_dict(other.model.state_dict())
    layers = [q.model.get_submodule("0") for q in (quantised, model_of(activation_bits=6)[1])]
    with pytest.raises(ValueError, match="activation_bits must be 8, the state has 6"):
        layers[0].load_state_dict(layers[1].state_dict())


WRONG: dict[str, tuple[str, Any]] = {
    "perm": ("perm", lambda t: t.zero_()),
    "perm out of range": ("perm", lambda t: t.add_(1)),
    "scale of zero": ("scale", lambda t: t[3:4].zero_()),
    "scale NaN": ("scale", lambda t: t[3:4].fill_(float("nan"))),
    "smoothing below zero": ("inverse_smooth", lambda t: t.neg_()),
    "code": ("codes", lambda t: t[0, :1].fill_(-128)),
    "bias": ("bias", lambda t: t.fill_(float("inf"))),
    "rotation": ("second", lambda t: t.mul_(2)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_tensors_that_quantising_cannot_give_are_refused(wrong: str, tmp_path: Path) -> None:
    name, change = WRONG[wrong]
    model, quantised = model_of(rotation="greedy", greedy_steps=2)
    change(quantised.model.get_buffer(f"0.{name}"))
    save_quantized(quantised, tmp_path / "a.safetensors")  # with a digest that is right
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"a\.safetensors: 0\.{name} (of 8 bits )?(must|holds)"):
        load_quantized(tmp_path / "a.safetensors", model)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_file_of_another_model_names_the_layer_that_differs(tmp_path: Path) -> None:
    model, quantised = model_of()
    path = tmp_path / "a.safetensors"
    save_quantized(quantised, path)
    others = {
        "this one has no layer 0": nn.Sequential(nn.GELU(), nn.Linear(64, 128)),
        r"its layer 0 is \(128, 64\), this model's \(64, 64\)": nn.Sequential(
            nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)
        ),
        r"other weights than this model's \(layer 0 differs, 2 of 2 do\)": flow(seed=1),
        r"\(what was not quantised differs\)": nn.Sequential(
            *(*flow().children(), nn.LayerNorm(64))
        ),
    }
    with torch.no_grad():
        last = flow()
        last[2].weight[0, 0] += 1
    others[r"\(layer 2 differs, 1 of 2 do\)"] = last
    for said, other in others.items():
        with pytest.raises(ValueError, match=rf"a\.safetensors: .*{said}; pass the model it was"):
            load_quantized(path, other.eval())
    assert torch.equal(
        load_quantized(path, model).model(torch.ones(64)), quantised.model(torch.ones(64))
    )


@pytest.mark.parametrize(("bits", "most"), [(8, 0.30), (4, 0.18)])
def test_no_full_precision_weight_is_kept(bits: int, most: float) -> None:
    linear = nn.Linear(256, 256).eval()
    model = nn.Sequential(linear).eval()
    statistics = collect(model, [(torch.randn(32, 256),)], 1)
    config = DuQuantConfig(include=EVERYTHING, method="duquant", weight_bits=bits)
    (report,) = (quantised := quantize(model, statistics, config)).layers
    layer = quantised.model[0]
    assert isinstance(layer, QuantisedLinear)
    assert report.bytes_after == n_bytes(layer)
    assert report.bytes_after <= most * report.bytes_before
    held = [*layer.parameters(), *layer.buffers()]
    assert sum(t.numel() * t.element_size() for t in held) <= most * report.bytes_before
    assert layer.weight.shape == (256, 256)
    assert not [v for v in vars(layer).values() if isinstance(v, torch.Tensor)]


def test_statistics_are_kept_and_tied_to_their_model(tmp_path: Path) -> None:
    model, x = flow(), torch.randn(9, 64)
    statistics = collect(model, [(x,)], 1, source={"seeds": [3]})
    path = statistics.save(tmp_path)
    loaded = Statistics.load(tmp_path)
    assert path == tmp_path / "statistics.safetensors"
    assert loaded.digest() == statistics.digest()
    assert loaded.source == {"seeds": [3]}
    config = RtnConfig(include=EVERYTHING)
    quantised = quantize(model, loaded, config)
    assert quantised.statistics == loaded.digest()
    assert torch.equal(quantised.model(x), quantize(model, statistics, config).model(x))
    assert collect(model, [(x + 1,)], 1).digest() != statistics.digest()
    with pytest.raises(ValueError, match="another checkpoint or sampler"):
        quantize(flow(seed=1), statistics, config)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"statistics\.safetensors: digest does not match"):
        Statistics.load(path)
    with pytest.raises(ValueError, match="no statistics at"):
        Statistics.load(tmp_path / "elsewhere")


def test_statistics_of_a_policy_know_its_sampler(policy: DiffusionPolicy, statistics: Any) -> None:
    other = policy.with_sampler(policy.config.sampler.with_steps("ddim", 2))
    with pytest.raises(ValueError, match="another checkpoint or sampler"):
        quantize(other, statistics, DuQuantConfig())


def test_weights_that_are_not_finite_are_refused() -> None:
    model = flow()
    with torch.no_grad():
        model[2].weight[3, 4] = float("nan")
    statistics = collect(model, [(torch.randn(8, 64),)], 1)
    with pytest.raises(ValueError, match="layer 2: its weight and bias must be finite"):
        quantize(model, statistics, DuQuantConfig(include=EVERYTHING))


def test_inputs_that_are_not_finite_stay_so() -> None:
    _, quantised = model_of()
    for bad in (float("nan"), float("inf")):
        x = torch.randn(3, 64)
        x[1, 5] = bad
        out = quantised.model(x)
        assert not out[1].isfinite().any()
        assert out[[0, 2]].isfinite().all()


def test_the_other_methods_are_parts_of_duquant() -> None:
    assert RtnConfig(weight_bits=4).full() == DuQuantConfig("rtn", weight_bits=4, method="rtn")
    smooth = SmoothConfig(alpha=0.7).full()
    assert smooth == DuQuantConfig("smooth", method="smooth", alpha=0.7)
    with pytest.raises(ValueError, match=r"quant\.alpha must be from 0 to 1, got None"):
        SmoothConfig(alpha=None)
