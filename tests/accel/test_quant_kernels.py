"""Kernels of quantised linears: exact products, equal codes, their choice, and both programs."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel import FusedConfig, ReferenceConfig, UniformConfig, resolve
from accel.engines import FusedEngine, ReferenceEngine
from accel.engines.parts import quantised_of
from accel.kernels import native
from accel.kernels.packed import Packed
from accel.quant import DuQuantConfig, quantize
from accel.quant import native_linear as own
from accel.quant.choice import settle, times
from accel.quant.codes import token_codes, top
from accel.quant.fitting import n_bytes
from accel.quant.kernels import KERNELS, NATIVE, Entry, build, refusal, weight_of
from tests.helpers.quant_data import (
    EVERYTHING,
    fitted,
    planted,
    policy_statistics,
    query,
    relative,
    small_policy,
)

needs_integers = pytest.mark.skipif(not own.works(), reason="no compiled integers here")
pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors")
SHIPPED = [(256, 256), (768, 256), (1024, 256), (256, 1024), (512, 256)]  # (N, K)
ODD = [(1, 2), (3, 2), (17, 34), (40, 250), (100, 66), (33, 1030)]


def codes_of(kind: str, n: int, k: int, largest: int, seed: int) -> Tensor:
    """(n, k) integers: random ones, or those whose sums are the largest there are."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(-largest, largest + 1, (n, k), generator=generator)
    signs = torch.where(torch.arange(k) % 2 == 0, 1, -1).expand(n, k)
    return {
        "random": random,
        "largest": torch.full((n, k), largest),
        "least": torch.full((n, k), -largest),
        "alternating": signs * largest,
        "pairs": torch.where(torch.arange(k) // 2 % 2 == 0, largest, -largest).expand(n, k),
        "ends": torch.where(random > 0, largest, -largest),
    }[kind].clone()


def products(layer: own.NativeLinear, x: Tensor) -> Tensor:
    """(T, N) int64 through C; rows of x (T, K) have a 127, so they are their own codes."""
    made = layer(x.float())
    assert float(made.abs().max()) < 2**24, "not exact in float32"
    return made.long()


@needs_integers
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("n", "k"), SHIPPED + ODD)
def test_products_are_those_of_int64(bits: int, n: int, k: int) -> None:
    kinds = ("random", "largest", "least", "alternating", "pairs", "ends")
    for seed, kind in enumerate(kinds):
        w = codes_of(kind, n, k, top(bits), seed)
        layer = own.NativeLinear(own.plain_layer(w, bits))
        x = torch.cat([codes_of(other, 3, k, 127, seed + 1) for other in kinds])
        x[x.abs().amax(1) < 127, 0] = 127
        expected = x @ w.T
        for rows in (1, 2, 3, 4, 5, 6, 18) if kind == "random" else (18,):
            assert torch.equal(products(layer, x[-rows:]), expected[-rows:]), (kind, rows)


@needs_integers
@pytest.mark.parametrize("bits", [8, 4])
def test_sums_that_sixteen_bits_cannot_hold_are_exact(bits: int) -> None:
    """What vpmaddubsw saturates at, and more steps than a sum of 16 bits holds."""
    for k in (2, 4, 32, 64, 1024):
        w, x = codes_of("largest", 64, k, top(bits), 0), codes_of("largest", 6, k, 127, 0)
        x[3] = -127
        assert int((x @ w.T).abs().max()) == 127 * top(bits) * k
        assert torch.equal(products(own.NativeLinear(own.plain_layer(w, bits)), x), x @ w.T)


@needs_integers
@pytest.mark.parametrize("weight_bits", [8, 4, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rotation": "greedy"},
        {"block": 2},
        {"block": 4},
        {"block": 8},
        {"block": 64},
        {"permute": False},
        {"alpha": None},
        {"activation_bits": 4},
        {"activation_clip": 0.7},
        {"row_rot": "restore"},
        {"row_rot": "restore", "block": 4},
        {"row_rot": "restore", "block": 64},
    ],
    ids=str,
)
def test_it_is_the_pure_torch_formula(settings: dict[str, Any], weight_bits: int) -> None:
    linear, x = planted("channels", 250, 70, 200)
    layer = fitted(linear, x, weight_bits=weight_bits, **settings)
    made, expected = own.NativeLinear(layer)(x), layer(x)
    assert relative(made, expected) < 3e-4
    # rows without a code on the edge between two: all but the rounding of scales
    same = (made - expected).abs().amax(1) < 1e-5 * expected.abs().amax(1)
    assert float(same.float().mean()) > 0.8


@needs_integers
@pytest.mark.parametrize("clip", [1.0, 0.8])
def test_codes_differ_by_one_at_most_and_rarely(clip: float) -> None:
    """A weight of ones on the diagonal shows the codes."""
    linear, x = planted("channels", 256, 256, 400)
    layer = fitted(linear, x, activation_clip=clip)
    layer.codes = torch.eye(256, dtype=torch.int8)
    layer.scale, layer.bias = torch.ones(256), None
    codes, scale = token_codes(layer.transformed(x), 8, clip)
    difference = (own.NativeLinear(layer)(x) / scale).round() - codes
    assert int(difference.abs().max()) <= 1
    assert float((difference != 0).float().mean()) < 1e-3
    assert int(codes.abs().max()) == 127


@needs_integers
@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_does_not_depend_on_other_rows(bits: int) -> None:
    linear, x = planted("massive", 256, 100, 40)
    kernel = own.NativeLinear(fitted(linear, x, weight_bits=bits))
    together = kernel(x)
    for rows in ([3], [0, 3], list(range(3, 40))):
        assert torch.equal(kernel(x[rows])[rows.index(3)], together[3])
    assert torch.equal(kernel(x), together)


@needs_integers
def test_what_is_not_finite_stays_visible() -> None:
    linear, x = planted("none", 64, 64, 9)
    kernel = own.NativeLinear(fitted(linear, x))
    clean = kernel(x)
    for bad in (float("nan"), float("inf"), -float("inf")):
        y = x.clone()
        y[4, 17] = bad
        made = kernel(y)
        assert bool(made[4].isnan().all())
        assert torch.equal(made[5:], clean[5:])
    assert torch.equal(kernel(torch.zeros(2, 64)), linear.bias.detach().expand(2, 64))
    tiny = kernel(torch.full((1, 64), 1e-30))
    assert bool(tiny.isfinite().all())


@needs_integers
def test_weights_take_their_bits_and_no_more() -> None:
    linear, x = planted("none", 256, 256, 32)
    loaded = native.library()
    assert loaded is not None
    for bits, most in ((8, 0.30), (4, 0.18)):
        layer = fitted(linear, x, weight_bits=bits)
        packed = Packed(loaded)
        own.pack(packed, layer)
        fp32 = 4 * 256 * 256
        assert 0.9 * bits / 32 < packed.nbytes / fp32 <= most
        assert n_bytes(layer) / fp32 <= most


def test_the_restored_weight_is_the_layer_without_activation_rounding() -> None:
    linear, x = planted("channels", 250, 64, 50)
    for settings in ({}, {"rotation": "greedy", "row_rot": "restore"}, {"permute": False}):
        layer = fitted(linear, x, activation_bits=16, weight_bits=4, **settings)
        assert relative(nn.functional.linear(x, weight_of(layer), layer.bias), layer(x)) < 2e-6
        made = build("fp32", layer, len(x))(x)
        assert relative(made, layer(x)) < 2e-6


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_kernel_that_runs_computes_the_layer(name: str) -> None:
    linear, x = planted("channels", 256, 64, 24)
    layer = fitted(linear, x)
    if refusal(name, layer):
        with pytest.raises(ValueError, match=f"kernel '{name}' cannot run a layer"):
            build(name, layer, len(x))
        return
    bound = {"integer": 3e-4, "weight": 0.02}[KERNELS[name].kind]
    error = relative(build(name, layer, len(x))(x), layer(x))
    assert error < bound
    assert KERNELS[name].kind == "integer" or error > 1e-6


def test_kernels_refuse_what_they_cannot_do() -> None:
    linear, x = planted("none", 64, 64, 9)
    asymmetric = fitted(linear, x, activation="asymmetric")
    assert refusal("native", asymmetric) == "simulated arithmetic"
    with pytest.raises(ValueError, match=r"kernel 'vnni' cannot run a layer.*there are native, "):
        build("vnni", asymmetric, 9)


def test_the_choice_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("timed")

    monkeypatch.setattr("accel.quant.choice.measured", never)
    linear, x = planted("none", 64, 64, 9)
    layers = {
        "a": fitted(linear, x, activation_bits=4),
        "b": fitted(linear, x, activation="asymmetric"),
        "c": fitted(linear, x, activation_bits=16),
    }
    integers = "native" if own.works() else "torch"
    assert settle(layers, 9) == {"a": integers, "b": "torch", "c": "torch"}
    assert settle({"c": layers["c"]}, 9, NATIVE) == {"c": "fp32"}
    with pytest.raises(ValueError, match="none of native, fp32 can run layer b here"):
        settle({"b": layers["b"]}, 9, NATIVE)


def test_a_wrong_kernel_is_not_chosen() -> None:
    def wrong(layer: Any, rows: int) -> Any:
        return lambda x: 1.01 * layer(x)

    linear, x = planted("none", 64, 64, 9)
    table = {"wrong": Entry("integer", wrong), "torch": KERNELS["torch"]}
    layers = {"l": fitted(linear, x)}
    assert settle(layers, 9, table) == {"l": "torch"}
    with pytest.raises(ValueError, match="none of wrong can run layer l here"):
        settle(layers, 9, {"wrong": table["wrong"]})


def test_times_are_told_by_shape_and_kernel_next_to_float32() -> None:
    linear, x = planted("none", 64, 64, 9)
    layers = {n: fitted(linear, x, weight_bits=b) for n, b in (("a", 8), ("b", 4), ("c", 8))}
    found = times(layers, settle(layers, 9), 9)
    assert [(t["weight_bits"], t["layers"], t["shape"]) for t in found] == [
        (8, 2, [64, 64]),
        (4, 1, [64, 64]),
    ]
    assert all(t["us"] > 0 and t["fp32_us"] > 0 and t["rows"] == 9 for t in found)
    again = times(layers, settle(layers, 9), 9)
    assert again == found  # measured once


Policies = dict[int, tuple[Any, Any]]


SEED = 0
"""DuQuant as the project it is taken from has it: W4A8, block 16, permute, row_rot=restore."""


@pytest.fixture(scope="module")
def quantised() -> Policies:
    """{weight bits or SEED: (policy, its quantised copy)}"""
    policy = small_policy()
    statistics = policy_statistics(policy)
    configs = {
        bits: DuQuantConfig(method="duquant", weight_bits=bits, include=(r"decoder\.layers",))
        for bits in (8, 4)
    }
    configs[SEED] = replace(configs[4], block=16, permute=True, row_rot="restore")
    return {b: (policy, quantize(policy, statistics, c).model) for b, c in configs.items()}


def act(
    pair: tuple[Any, Any],
    engine: str = "native",
    cache: Any = None,
    rows: int = 2,
    kernels: Mapping[str, str] | None = None,
) -> tuple[Tensor, dict[str, str]]:
    """Actions of the copy, normalised, and the kernels; plans are the policy's."""
    policy, model = pair
    plan = resolve(policy, cache)
    with torch.no_grad():
        made: Any
        if engine == "reference":
            made = ReferenceEngine(model, plan, ReferenceConfig())
        else:
            made = FusedEngine(model, plan, FusedConfig(backend=engine), kernels)
        scale = policy.normalizer.params_dict["action"]["scale"]
        obs, noise = query(3, rows)
        return made.denoise(model.encode(obs), noise) * scale, made.kernels()


@needs_integers
@pytest.mark.parametrize("bits", [8, 4, SEED])
@pytest.mark.parametrize("cache", [None, UniformConfig(steps=2)], ids=["none", "uniform"])
def test_both_programs_give_the_reference_engines_actions(
    quantised: Policies, bits: int, cache: Any
) -> None:
    expected, _ = act(quantised[bits], "reference", cache)
    for engine in ("native", "torch"):
        made, kernels = act(quantised[bits], engine, cache)
        assert set(kernels.values()) == {"native"}
        # a code on the edge between two moves later ones
        assert float((made - expected).abs().max()) < 0.02 * float(expected.abs().max())
    plain, _ = act((quantised[bits][0],) * 2, "native", cache)
    assert float((plain - expected).abs().max()) > 1e-5


@needs_integers
@pytest.mark.parametrize("n_threads", [1, 2])
def test_rows_of_a_batch_leave_no_trace(quantised: Policies, n_threads: int) -> None:
    policy, model = quantised[8]
    obs, _ = query(3, 5)

    def of(rows: list[int]) -> Tensor:
        noise = [torch.Generator().manual_seed(row) for row in rows]
        with torch.no_grad():
            return engine.denoise(model.encode(obs[rows]), noise)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)  # with two, the parts are of 2 and 3 rows
        engine = FusedEngine(model, resolve(policy, None), FusedConfig(backend="native"))
        together = of([0, 1, 2, 3, 4])
        assert torch.equal(of([4, 3, 0, 1, 2]), together[[4, 3, 0, 1, 2]])
        assert torch.equal(of([1, 1, 1, 1, 1])[4], together[1])
    finally:
        torch.set_num_threads(before)


@needs_integers
def test_kernels_can_be_given_layer_by_layer(quantised: Policies) -> None:
    layers = quantised_of(quantised[8][1])
    assert {name.split(".", 1)[1] for name in layers} == {
        *("sa.in", "sa.out", "ca.q", "ca.kv", "ca.out", "ff.up", "ff.down")
    }
    given = dict.fromkeys(layers, "fp32") | {"0.sa.in": "native"}
    made, kernels = act(quantised[8], kernels=given)
    assert kernels == given
    assert not torch.equal(made, act(quantised[8])[0])
    with pytest.raises(ValueError, match=r"kernel 'bf16' cannot run layer 0\.sa\.in"):
        act(quantised[8], kernels={"0.sa.in": "bf16"})


def test_layers_that_the_c_program_cannot_run_go_through_torch(quantised: Policies) -> None:
    policy = quantised[8][0]
    statistics = policy_statistics(policy, 1)
    config = DuQuantConfig(method="duquant", activation="asymmetric", include=(r"linear1",))
    pair = policy, quantize(policy, statistics, config).model
    made, kernels = act(pair, "auto")
    assert {kernels["0.ff.up"], kernels["1.ff.up"]} == {"torch"}
    expected, _ = act(pair, "reference")
    assert float((made - expected).abs().max()) < 0.02 * float(expected.abs().max())
    with pytest.raises(ValueError, match=r"layer 0\.ff\.up: "):
        act(pair, "native")


def test_weights_alone_run_in_the_c_program(quantised: Policies) -> None:
    policy = quantised[8][0]
    config = DuQuantConfig(weight_bits=4, activation_bits=16, include=EVERYTHING, row_rot="restore")
    pair = policy, quantize(policy, policy_statistics(policy, 1), config).model
    expected, _ = act(pair, "reference")
    made, kernels = act(pair, "auto")
    if native.library() is not None:
        assert kernels["0.sa.in"] == "fp32"
    assert float((made - expected).abs().max()) < 1e-4


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def clear() -> None:
        native.library.cache_clear()
        own.works.cache_clear()

    clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    yield
    monkeypatch.undo()
    clear()


def test_without_a_compiler_torch_computes_it(quantised: Policies, no_compiler: None) -> None:
    assert not own.works()
    made, kernels = act(quantised[8], "auto")
    assert set(kernels.values()) == {"torch"}
    expected, _ = act(quantised[8], "reference")
    assert float((made - expected).abs().max()) < 0.02 * float(expected.abs().max())
    linear, x = planted("none", 64, 64, 9)
    assert refusal("native", fitted(linear, x)) == "no compiled code for integers"


EMULATION = """
#include <immintrin.h>
#define __AVXVNNI__ 1
static inline __m256i emulated_dpbusd(__m256i s, __m256i u, __m256i a) {
  int sum[8]; unsigned char x[32]; signed char y[32];
  _mm256_storeu_si256((__m256i *)sum, s);
  _mm256_storeu_si256((__m256i *)x, u);
  _mm256_storeu_si256((__m256i *)y, a);
  for (int i = 0; i < 32; i++) sum[i / 4] += x[i] * y[i];
  return _mm256_loadu_si256((__m256i *)sum);
}
#define _mm256_dpbusd_avx_epi32(s, u, a) emulated_dpbusd(s, u, a)
"""


@needs_integers
@pytest.mark.skipif(shutil.which("cc") is None, reason="no cc")
def test_the_path_of_machines_with_vnni(tmp_path: Path) -> None:
    """That path's layout and offsets, with the one instruction this machine may lack in C."""
    (tmp_path / "vnni.h").write_text(EMULATION)
    made = tmp_path / "vnni.so"
    flags = ["-std=gnu11", "-O1", "-mavx2", "-mfma", "-mf16c", "-Wno-psabi", "-shared", "-fPIC"]
    command = ["cc", *flags, "-include", str(tmp_path / "vnni.h"), "-o", str(made)]
    subprocess.run([*command, str(native.SOURCE), "-lm"], check=True, timeout=120)
    loaded = ctypes.CDLL(str(made))
    loaded.linear_floats.restype = ctypes.c_int64
    for bits, offset in ((8, 128), (4, 8)):
        w, x = codes_of("random", 40, 66, top(bits), 0), codes_of("random", 13, 66, 127, 1)
        w[0], w[1], x[:, 0], x[1], x[2] = top(bits), -top(bits), 127, 127, -127
        packed = Packed(loaded)
        layer = own.pack(packed, own.plain_layer(w, bits))
        assert loaded.packing_offset(layer.quant) == offset
        assert torch.equal(own.run(packed, layer, x.float()).long(), x @ w.T)
