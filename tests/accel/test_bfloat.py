"""Products of bfloat16 in C: as the instruction is documented, and who may use them."""

from __future__ import annotations

import ctypes
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from accel import FusedConfig, UniformConfig, accelerated, resolve_engine
from accel.engines import backend
from accel.kernels import compiled, native
from accel.kernels.packed import ADD, BFLOAT, GELU, SIDE, SINGLE, STORE, TILES, Packed
from policies import from_reference
from tests.accel.test_fused import OBS, POLICIES, TO
from tests.accel.test_helper import inputs, threads
from tests.helpers.stock_unet import live_unet

LOADED = native.library()
pytestmark = pytest.mark.skipif(LOADED is None, reason="no C compiler here")

BF16 = FusedConfig(precision="bf16")
LEAST_NORMAL = 2.0**-126
ODD = [(1, 1, 1), (7, 33, 5), (11, 48, 40), (3, 250, 70), (13, 64, 65), (33, 64, 40), (88, 70, 9)]
"""(rows, inputs, outputs)"""


KINDS = pytest.mark.parametrize("stored", [BFLOAT, TILES], ids=["pairs", "tiles"])


def layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    then: int = STORE,
    before: Any = None,
    stored: int = BFLOAT,
) -> Tensor:
    """(rows, in) -> (rows, out) through C, weights and inputs in bfloat16."""
    assert LOADED is not None
    packed = Packed(LOADED, "bf16")
    packed.tiles_work = stored == TILES
    linear = packed.linear(weight, bias)
    assert linear.stored == stored
    columns = len(weight) + -len(weight) % packed.panel
    out = torch.zeros(len(x), columns)
    if before is not None:
        out[:, : len(weight)] = before
    pointer, rows = ctypes.byref(linear), len(x)
    scratch = torch.empty(LOADED.linear_floats(pointer, ctypes.c_int64(rows)))
    read, write, spare = (ctypes.c_void_p(t.data_ptr()) for t in (x.contiguous(), out, scratch))
    LOADED.linear(pointer, rows, read, x.shape[1], write, columns, then, spare)
    return out[:, : len(weight)]


def to_float32(exact: Fraction) -> Fraction:
    """The nearest float32, to even; what is below the normal numbers is zero."""
    if exact == 0:
        return exact
    exponent = np.frexp(float(exact))[1] - 1
    quantum = Fraction(2) ** (max(int(exponent), -126) - 23)
    nearest = round(exact / quantum) * quantum  # Python rounds halves to even
    return nearest if abs(nearest) >= Fraction(LEAST_NORMAL) else Fraction(0)


def flushed(values: Tensor) -> list[list[Fraction]]:
    """(n, m) -> the numbers, denormals being zero."""
    kept = torch.where(values.abs() < LEAST_NORMAL, 0.0, values.double())
    return [[Fraction(v) for v in row] for row in kept.tolist()]


def in_pairs(row: list[Fraction], column: list[Fraction], bias: Fraction) -> float:
    """VDPBF16PS over the pairs: the second of a pair comes first."""
    total = bias
    for k in range(0, len(row), 2):
        for j in (k + 1, k):
            total = to_float32(total + row[j] * column[j])
    return float(total)


def in_tiles(row: list[Fraction], column: list[Fraction], bias: Fraction) -> float:
    """TDPBF16PS over tiles: first and second values of pairs apart; the bias comes last."""
    total = Fraction(0)
    for start in range(0, len(row), 2 * SIDE):
        sums = [Fraction(0), Fraction(0)]
        for k in range(start, min(start + 2 * SIDE, len(row))):
            sums[k % 2] = to_float32(sums[k % 2] + row[k] * column[k])
        total = to_float32(total + to_float32(sums[0] + sums[1]))
    return float(total)


def as_documented(x: Tensor, weight: Tensor, bias: Tensor, stored: int) -> Tensor:
    """The instruction over each row and column, in exact numbers rounded one by one."""
    missing = (0, x.shape[1] % 2)
    rows, columns = (flushed(F.pad(t.bfloat16().float(), missing)) for t in (x, weight))
    (biases,), add = flushed(bias[None]), in_pairs if stored == BFLOAT else in_tiles
    sums = [[add(a, b, c) for b, c in zip(columns, biases, strict=True)] for a in rows]
    return torch.tensor(sums) + (bias if stored == TILES else 0)


@pytest.mark.parametrize("scale", [1.0, 1e-19, 3e-39])
@pytest.mark.parametrize("shape", [(2, 6, 3), (3, 9, 4), (7, 32, 5), (2, 75, 2), (18, 40, 1)])
@KINDS
def test_sums_are_those_of_the_instruction(
    stored: int, shape: tuple[int, int, int], scale: float
) -> None:
    """Down to where products, sums or weights are denormal."""
    rows, k, n = shape
    generator = torch.Generator().manual_seed(k)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((rows, k), (n, k), (n,)))
    x, weight, bias = x * scale, weight * min(scale * 1e3, 1.0), bias * scale**2
    made = layer(x, weight, bias, stored=stored)
    torch.testing.assert_close(made, as_documented(x, weight, bias, stored), atol=0, rtol=0)
    assert bool(made.any()) == (scale > 1e-30)


@pytest.mark.parametrize("then", [STORE, GELU, ADD])
@pytest.mark.parametrize("shape", ODD)
@KINDS
def test_sums_are_within_the_bounds_of_float64(
    stored: int, shape: tuple[int, int, int], then: int
) -> None:
    """As many roundings as terms: (inputs + 1) 2^-24 of the sum of magnitudes."""
    rows, k, n = shape
    generator = torch.Generator().manual_seed(k)
    x, weight, bias, before = (
        torch.randn(size, generator=generator) for size in ((rows, k), (n, k), (n,), (rows, n))
    )
    a, b = (t.bfloat16().double() for t in (x, weight))
    exact, size = a @ b.T + bias.double(), a.abs() @ b.abs().T + bias.abs().double()
    bound = (k + 2) * 2.0**-24 * size
    made = layer(x, weight, bias, then, before, stored).double()
    if then == GELU:
        exact, bound = F.gelu(exact), 1.2 * bound + 1e-6
    if then == ADD:
        exact, bound = exact + before, bound + 2.0**-23 * (exact.abs() + before.abs())
    assert bool(((made - exact).abs() <= bound).all())


@KINDS
def test_inputs_are_rounded_as_torch_rounds_them(stored: int) -> None:
    """Halves to even, infinity stays, NaN too, denormals are zero: a weight of one shows it."""
    ones = torch.ones(1, 1)
    numbers = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32)
    edges = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0xFF800000], dtype=np.uint32)
    x = torch.from_numpy(np.concatenate([numbers, edges]).view(np.float32))[:, None]
    x = x[(x.abs() >= LEAST_NORMAL).squeeze() | x.isnan().squeeze()]
    made = layer(x, ones, torch.zeros(1), stored=stored)
    torch.testing.assert_close(made, x.bfloat16().float(), atol=0, rtol=0, equal_nan=True)
    assert not bool(layer(torch.full((1, 1), 1e-39), ones, torch.zeros(1), stored=stored).any())


def test_a_layer_whose_weights_would_overflow_stays_exact() -> None:
    assert LOADED is not None
    packed = Packed(LOADED, "bf16")
    assert packed.linear(torch.full((1, 2), 3.4e38), torch.zeros(1)).stored == SINGLE


@pytest.fixture
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU with the instruction; without it the same is done number by number."""
    monkeypatch.setattr(backend, "bfloat_cpu", lambda: True)
    monkeypatch.setattr(native.library(), "bfloat_works", lambda: 1)


@pytest.fixture(params=[False, True], ids=["pairs", "tiles"])
def tiles(request: pytest.FixtureRequest, _emulated: None, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the CPU multiplies tiles, too."""
    monkeypatch.setattr(native.library(), "tiles_work", lambda: int(request.param))
    return bool(request.param)


@pytest.mark.parametrize("network", ["causal", "in-painting", "unet", "unet, local"])
def test_the_engine_rounds_no_more_than_that(network: str, tiles: bool) -> None:
    if network.startswith("unet"):
        kind = "local" if "local" in network else "global, scaled"
        policy = from_reference(live_unet(kind, steps=3))
    else:
        policy = POLICIES[network, 1]
    found = []
    for n in (1, 2):
        with threads(n), accelerated(policy, UniformConfig(steps=2), engine=BF16) as fast:
            found.append(fast.act(*inputs(policy)))
            kernels = set(fast.stats()["kernels"].values())
    with accelerated(policy, UniformConfig(steps=2), engine="reference") as slow:
        expected = slow.act(*inputs(policy))
    assert torch.equal(*found)
    assert 0 < float((found[0] - expected).norm() / expected.norm()) < 0.05
    expected_kernel = "bf16_tiles" if tiles else "bf16_native"
    assert kernels == (set() if network.startswith("unet") else {expected_kernel})


@pytest.mark.usefixtures("tiles")
def test_rows_do_not_depend_on_their_neighbours() -> None:
    policy, obs = POLICIES["causal", 0], torch.randn(5, TO, OBS)
    with accelerated(policy, engine=BF16) as fast:

        def act(rows: list[int]) -> Tensor:
            noise = [torch.Generator().manual_seed(row) for row in rows]
            actions: Tensor = fast.act(obs[rows], noise)
            return actions

        together = act([0, 1, 2, 3, 4])
        assert torch.equal(act([4, 2, 0, 1, 3]), together[[4, 2, 0, 1, 3]])
        assert torch.equal(act([3])[0], together[3])


@pytest.mark.usefixtures("_emulated")
def test_with_the_instruction_native_is_chosen() -> None:
    assert resolve_engine(BF16, POLICIES["causal", 0]).backend == "native"


def test_without_the_instruction_torch_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "bfloat_cpu", lambda: False)
    policy = POLICIES["causal", 0]
    assert resolve_engine(BF16, policy).backend == "torch"
    said = (
        r"^engine.backend=native with engine.precision=bf16 cannot run here: this CPU has no "
        r"instruction for products of bfloat16 \(avx512_bf16\)$"
    )
    with pytest.raises(ValueError, match=said):
        resolve_engine(FusedConfig(backend="native", precision="bf16"), policy)


def assembly(cpu: str, folder: Path) -> list[str]:
    """What the compiler makes of native.c for another CPU."""
    flags = [flag for flag in native.FLAGS if flag != "-march=native"]
    words = [*compiled._compiler(), *flags, f"-march={cpu}", "-S", str(native.SOURCE)]
    made = subprocess.run([*words, "-o", str(folder / "native.s")], capture_output=True, text=True)
    if made.returncode and cpu in made.stderr:
        pytest.skip("this compiler does not know such a CPU")
    assert not made.returncode, made.stderr
    return (folder / "native.s").read_text().splitlines()


def test_the_instruction_is_compiled_where_a_cpu_has_it(tmp_path: Path) -> None:
    """For a CPU with it, whichever this one is: two panels' halves for 1 to 6 rows."""
    lines = assembly("cooperlake", tmp_path)
    assert sum("vdpbf16ps" in line and "zmm" in line for line in lines) >= 2 * (
        1 + 2 + 3 + 4 + 5 + 6
    )
    assert any("vcvtneps2bf16" in line for line in lines)


def test_tiles_are_compiled_where_a_cpu_has_them(tmp_path: Path) -> None:
    """Four sums for two blocks of rows, and four for two panels."""
    assert sum("tdpbf16ps" in line for line in assembly("sapphirerapids", tmp_path)) >= 8
