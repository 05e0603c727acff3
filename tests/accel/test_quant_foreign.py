"""accel.quantize on models that are walked by hand, share layers, or hide their blocks."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import accel
from accel.quant import execute
from accel.quant import native_linear as own
from accel.quant.config import EARLIER_LAYERS, LAYERS, DuQuantConfig
from accel.quant.linear import QuantisedLinear
from accel.quant.report import left_out
from accel.quant.selection import settings_of
from runners.studies.arms import BLOCKS, EARLIER_BLOCKS
from tests.helpers.quant_data import fitted, planted, relative, small_policy
from tests.helpers.walked import WIDTH, Block, Expert, ExpertLayer, Held, Shared

needs_integers = pytest.mark.skipif(not own.works(), reason="no compiled integers here")
BITS = {"W8A8": (8, 8, 0.02), "W4A8": (4, 8, 0.2), "W4A16": (4, 16, 0.2)}


@pytest.fixture(autouse=True)
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are timed only where a test is about it."""
    monkeypatch.setattr("accel.quant.duquant.warn_slower", lambda *args: None)
    monkeypatch.setattr("accel.quant.file.warn_slower", lambda *args: None)


def made(kind: Callable[[], nn.Module], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind().eval()


def actions(rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(rows, 9, 6, generator=torch.Generator().manual_seed(seed))


def rows_of(n: int = 80, seed: int = 1) -> Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def quantised(model: nn.Module, x: Tensor, **settings: Any) -> accel.Quantized:
    statistics = accel.collect(model, [(x,)], 1)
    return accel.quantize(model, statistics, DuQuantConfig(method="duquant", **settings))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@torch.no_grad()
def test_layers_walked_by_hand_run(bits: str, dtype: torch.dtype) -> None:
    weight_bits, activation_bits, most = BITS[bits]
    model = made(Expert)
    model.lm_expert.to(dtype)
    model.lm_expert.layers.apply(lambda m: m.float() if isinstance(m, nn.LayerNorm) else m)
    plain = model(actions(4))
    small = quantised(model, actions(4), weight_bits=weight_bits, activation_bits=activation_bits)
    assert len(small.layers) == 14
    weight = small.model.lm_expert.layers[0].mlp.down_proj.weight
    assert (weight.dtype, weight.device.type, tuple(weight.shape)) == (dtype, "cpu", (64, 128))
    assert 1e-5 < relative(small.model(actions(4)), plain) < most
    assert small.idle() == ()
    assert torch.equal(model(actions(4)), plain)


def test_a_weight_that_is_shown_refuses_arithmetic() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, 128))])})
    model.forward = lambda x: model["layers"][0](x)  # type: ignore[method-assign]
    small = quantised(model.eval(), rows_of())
    layer = small.model["layers"][0][0]
    weight, x = layer.weight, rows_of(3)
    attempts: dict[str, Callable[[], Any]] = {
        "linear": lambda: F.linear(x, weight),
        "product": lambda: x @ weight.T,
        "sum": lambda: weight + 1,
        "norm": lambda: weight.norm(),
        "cast": lambda: weight.to(torch.bfloat16),
        "write": lambda: weight.zero_(),
        "row": lambda: weight[0],
        "copy": lambda: x.new_empty(128, WIDTH).copy_(weight),
        "equal": lambda: torch.equal(weight, weight),
        "data": lambda: F.linear(x, weight.data),
    }
    for name, attempt in attempts.items():
        with pytest.raises(RuntimeError) as refused:
            attempt()
        assert "layer layers.0.0 has codes" in str(refused.value), name
        assert "quant.exclude" in str(refused.value), name
    assert isinstance(weight, Tensor)
    assert x.to(weight).dtype == torch.float32
    assert torch.equal(weight.new_zeros(2, 3), torch.zeros(2, 3))
    assert weight.new_full((2,), 4.0).tolist() == [4, 4]
    assert torch.zeros_like(weight).shape == (128, WIDTH)
    assert "quantised, without values" in repr(weight)
    with pytest.raises(ValueError, match=r"layer layers\.0\.0 takes 64 features, got .*\(4, 32\)"):
        layer(torch.zeros(4, 32))


def test_casting_a_model_keeps_its_codes_and_scales() -> None:
    small = quantised(made(Block), rows_of(), include=("",))
    expected, layer = small.model(rows_of(5)), small.model.fc1
    before = {n: t.clone() for n, t in layer.state_dict().items() if isinstance(t, Tensor)}
    for cast in ("half", "bfloat16", "double", "float"):
        getattr(small.model, cast)()
        assert layer.weight.dtype == getattr(torch, cast)
        assert all(torch.equal(t, before[n]) for n, t in layer.named_buffers() if n in before)
    assert torch.equal(small.model(rows_of(5)), expected)
    bf16 = small.model.bfloat16()(rows_of(5).bfloat16())
    assert bf16.dtype == torch.bfloat16
    assert relative(bf16.float(), expected) < 0.02


def test_a_stock_attention_shows_its_dtype_too() -> None:
    torch.manual_seed(0)
    stock = nn.TransformerEncoderLayer(WIDTH, 2, 128, batch_first=True, dropout=0.0).eval()
    model = nn.Sequential(stock).eval()
    small = quantised(model, rows_of(6)[None].repeat(11, 1, 1), include=("",))
    attention = small.model[0].self_attn
    assert (attention.in_proj_weight.dtype, tuple(attention.in_proj_weight.shape)) == (
        torch.float32,
        (3 * WIDTH, WIDTH),
    )
    assert attention.out_proj.weight.shape == (WIDTH, WIDTH)
    with pytest.raises(RuntimeError, match="has codes"):
        F.linear(rows_of(1), attention.in_proj_weight)


@torch.no_grad()
def test_shared_layers_are_quantised_saved_and_loaded_once(tmp_path: Path) -> None:
    model = made(Shared)
    plain = model(rows_of())
    small = quantised(model, rows_of())
    assert [r.name for r in small.layers] == [
        *("blocks.0.fc1", "blocks.0.fc2", "layers.0.fc1", "layers.0.fc2"),
        *("layers.1.fc1", "layers.1.fc2"),
    ]
    assert small.model.blocks[0] is small.model.blocks[2]
    assert small.model.again is small.model.layers[0].fc1
    expected = small.model(rows_of())
    assert 1e-5 < relative(expected, plain) < 0.02
    accel.save_quantized(small, tmp_path / "a.safetensors")
    loaded = accel.load_quantized(tmp_path / "a.safetensors", model)
    assert torch.equal(loaded.model(rows_of()), expected)
    assert loaded.model.again is loaded.model.layers[0].fc1
    fresh = accel.load_quantized(tmp_path / "a.safetensors", made(Shared, 5), check_source=False)
    assert torch.equal(fresh.model(rows_of()), expected)
    accel.save_quantized(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


NAMES = (
    *("layers", "blocks", "transformer_blocks", "single_transformer_blocks", "double_blocks"),
    *("temporal_transformer_blocks", "single_blocks", "joint_transformer_blocks", "resblocks"),
    *("double_stream_blocks", "visual_transformer_blocks", "encoder_layers", "layer", "block", "h"),
    *("refiner_blocks", "noise_refiner", "vace_blocks"),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_takes_blocks_by_all_of_their_names(name: str) -> None:
    config = DuQuantConfig()
    for prefix in ("", "model.transformer."):
        found = {f"{prefix}{name}.3.attn.to_q": nn.Linear(64, 64)}
        assert list(accel.quant.selection.choose(found, config)) == list(found)


def test_the_default_leaves_what_is_no_block() -> None:
    taken = {"blocks.0.fc": nn.Linear(64, 64)}
    left = (
        "time_embed.0",
        "x_embedder",
        "down_blocks.0.time_emb_proj",
        "proj_out",
        "mid_block.0.a",
    )
    found = taken | {name: nn.Linear(64, 64) for name in left}
    assert list(accel.quant.selection.choose(found, DuQuantConfig())) == list(taken)


class Odd(nn.Module):
    """Blocks by a name that no pattern has, beside some that are known."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.stages = nn.ModuleList([Block(), Block(32)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> half as wide."""
        out: Tensor = self.stages[1](self.stages[0](self.blocks[0](x))[:, :32])
        return out


def test_what_is_left_out_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = made(Odd)
    with caplog.at_level(logging.INFO, "accel.quant"):
        small = quantised(model, rows_of())
    told = {(x.name, x.shape, x.reason, x.in_block): x.share for x in small.left_out}
    assert {(n, reason, inside) for n, _, reason, inside in told} == {
        ("stages.0.fc1", "quant.include", True),
        ("stages.0.fc2", "quant.include", True),
        ("stages.1.fc1", "quant.min_features", True),
        ("stages.1.fc2", "quant.min_features", True),
    }
    assert sum(told.values()) + sum(x.share for x in small.layers) == pytest.approx(1)
    assert told["stages.0.fc1", (64, 64), "quant.include", True] == pytest.approx(4 / 18)
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    said = warning.getMessage()
    assert "4 linear layers of the blocks are not quantised, 55.6% of the multiply-adds" in said
    assert "stages.N.fc1 (22.2%, quant.include)" in said
    accel.save_quantized(small, tmp_path / "a.safetensors")
    assert accel.load_quantized(tmp_path / "a.safetensors", model).left_out == small.left_out
    caplog.clear()
    quantised(made(Expert), actions(8))
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


def test_a_smolvla_like_expert_is_covered_by_default() -> None:
    small = quantised(made(Expert), actions(8))
    lost = sum(layer.share for layer in small.left_out if layer.in_block)
    covered = sum(layer.share for layer in small.layers)
    assert covered / (covered + lost) == 1
    assert covered > 0.95
    assert {x.name for x in small.left_out} == {"action_in_proj", "action_out_proj"}


def test_the_earlier_default_names_the_same_run() -> None:
    policy, new = small_policy(), DuQuantConfig()
    earlier = DuQuantConfig(include=(EARLIER_LAYERS,))
    assert (new.include, BLOCKS, EARLIER_BLOCKS) == ((LAYERS,), LAYERS, EARLIER_LAYERS)
    assert settings_of(new, policy) == settings_of(earlier, policy) == settings_of(earlier, None)
    other = nn.Module()
    other.layers = nn.ModuleList([ExpertLayer()])
    other.single_blocks = nn.ModuleList([ExpertLayer()])
    assert settings_of(new, other)["include"] == (LAYERS,)


def test_blocks_that_the_calibration_never_ran_are_an_error() -> None:
    model = made(Block)
    bypassed = nn.ModuleDict({"blocks": nn.ModuleList([model]), "head": nn.Linear(WIDTH, WIDTH)})
    bypassed.forward = lambda x: bypassed["head"](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"none of the 2 layers .* blocks\.0\.fc1 first, ran"):
        quantised(bypassed.eval(), rows_of())
    bypassed.forward = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="no linear layer ran in 1 batches"):
        accel.collect(bypassed, [(rows_of(),)], 1)
    bypassed["blocks"].append(made(Block))
    bypassed.forward = lambda x: bypassed["blocks"][1](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"layer blocks\.0\.fc1 was never called.*\^blocks"):
        quantised(bypassed, rows_of())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in bypassed.modules())


def test_a_copy_that_runs_the_original_blocks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = made(Held)
    small = quantised(model, rows_of())
    assert torch.equal(small.model(rows_of()), model(rows_of()))  # which is why it is said
    (warning,) = [r.getMessage() for r in caplog.records if "none of the 2" in r.getMessage()]
    assert "blocks.0.fc1" in warning
    assert small.idle() == ("blocks.0.fc1", "blocks.0.fc2")
    small.model(rows_of())
    assert len([r for r in caplog.records if "none of the 2" in r.getMessage()]) == 1


@needs_integers
@torch.no_grad()
def test_modules_run_in_c_and_follow_their_buffers() -> None:
    small = quantised(made(Block), rows_of(), include=("",), weight_bits=4, row_rot="restore")
    layer, x = small.model.fc1, rows_of(70)
    assert execute(copy.deepcopy(small.model), "torch") == {"fc1": "torch", "fc2": "torch"}
    assert {type(m.executor).__name__ for m in (layer, small.model.fc2)} == {"Native"}
    first = layer(x)
    assert torch.equal(first, own.NativeLinear(layer)(x))
    assert relative(first, layer.plain(x)) < 3e-4
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(layer(x), first)  # rows are parted, none is changed
    finally:
        torch.set_num_threads(before)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), first)
    layer.scale.mul_(2)
    layer.bias = None
    assert relative(layer(x), 2 * (first - made(Block).fc1.bias)) < 1e-5
    assert layer(torch.zeros(0, WIDTH)).shape == (0, WIDTH)


def test_backends_are_named() -> None:
    model = made(Block)
    statistics = accel.collect(model, [(rows_of(),)], 1)
    config = DuQuantConfig(method="duquant", include=("",))
    with pytest.raises(ValueError, match="backend must be one of auto, native, torch, got 'gpu'"):
        accel.quantize(model, statistics, config, backend="gpu")
    plain = accel.quantize(model, statistics, config, backend="torch")
    assert plain.model.fc1.executor is None
    simulated = DuQuantConfig(include=("",), activation="asymmetric")
    with pytest.raises(ValueError, match="backend native cannot run layer fc1: simulated"):
        accel.quantize(model, statistics, simulated, backend="native")


def test_few_tokens_do_not_choose_a_method(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    x = torch.randn(40, 64).relu()  # of few such rows, the scaling fitted to them looks best
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Sequential(linear)])})
    model.forward = lambda x: model["layers"][0](x)  # type: ignore[method-assign]
    statistics = accel.collect(model.eval(), [(x[:7],)], 1)
    small = accel.quantize(model, statistics, DuQuantConfig())
    (report,) = small.layers
    assert report.method == "duquant"
    assert report.error == report.errors["duquant"] > min(report.errors.values())
    assert "1 layers saw fewer than 64 tokens" in caplog.text
    enough = accel.collect(model, [(x,), (x + 1,)], 2)
    (report,) = accel.quantize(model, enough, DuQuantConfig()).layers
    assert report.error == min(report.errors.values())


def test_left_out_layers_that_never_ran_have_no_share() -> None:
    model = made(Odd)
    statistics = accel.collect(model, [(rows_of(),)], 1)
    found = {"spare": nn.Linear(64, 64)} | {n: nn.Linear(64, 64) for n in statistics.layers}
    (layer,) = left_out(model, found, {"spare": "quant.include"}, statistics)
    assert (layer.share, layer.in_block) == (0, False)


def test_a_layer_is_one_of_its_own_kind() -> None:
    linear, x = planted("none", 64, 64, 9)
    layer = fitted(linear, x)
    assert isinstance(layer, QuantisedLinear)
    assert layer.weight.layer == ""  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="layer of a quantised model has codes"):
        layer.weight.sum()
