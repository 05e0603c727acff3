"""One row on two threads: the same bits, whoever computes them, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel import (
    DuQuantConfig,
    FusedConfig,
    RtnConfig,
    UniformConfig,
    accelerated,
    collect,
    quantize,
)
from accel.engines import backend
from accel.kernels import compiled, native
from accel.quant.native_linear import works
from benchmarks.busy import company
from policies import from_reference
from tests.accel.test_fused import OBS, POLICIES, TO, random_plan
from tests.accel.test_thresholds import plans
from tests.helpers.places import PROJECT
from tests.helpers.quant_data import small_policy
from tests.helpers.stock_unet import VARIANTS, live_unet

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler here")

JOBS = Path(__file__).with_name("helper_jobs.c")
COMPILER = (*compiled._compiler(), "-std=gnu11", "-pthread", f"-I{native.SOURCE.parent}")
NATIVE = FusedConfig(backend="native")
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _small_layers_are_divided() -> Iterator[None]:
    """So that the layers of small networks are: otherwise they cost less than dividing them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FLAGS", (*native.FLAGS, "-DSKIPSTEP_LEAST=0"))
        native.library.cache_clear()
        yield
    native.library.cache_clear()


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def of_helper() -> int:
    """Pieces that the helper has done so far."""
    return native.helper_counts()["of_helper"]


@contextmanager
def on_both(
    policy: Any, plan: Any = None, quant: Any = None, engine: FusedConfig = NATIVE
) -> Iterator[list[Callable[..., Any]]]:
    """The policy on one thread and on two: what was built so stays so."""
    with accelerated(policy, plan, quant, engine=engine) as one:
        with threads(1):
            one.act(*inputs(policy))
        with accelerated(policy, plan, quant, engine=engine) as two:
            with threads(2):
                two.act(*inputs(policy))
            yield [one.act, two.act]


def inputs(policy: Any, seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, policy.n_obs_steps, policy.obs_dim, generator=generator), generator


def wide_unet(variant: str, steps: int) -> Any:
    """Layers of several panels of columns; AVX-512 has 32 in one, and that is not divided."""
    levels = len(VARIANTS[variant].get("down_dims", [1, 1, 1]))
    return live_unet(variant, [64, 64, 96, 96][:levels], steps=steps)


def until_helped(policy: Any, act: Callable[..., Any], expected: torch.Tensor) -> None:
    """The query again and again, until the helper has done some of it."""
    before, end = of_helper(), time.monotonic() + PATIENCE_S
    while of_helper() == before:
        assert torch.equal(act(*inputs(policy)), expected)
        assert time.monotonic() < end, "the helper never did anything"


@settings(deadline=None, max_examples=60)
@given(
    key=st.sampled_from(sorted(k for k in POLICIES if k[0] != "condition encoder")),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
    n_slots=st.integers(1, 3),
    batch=st.sampled_from([1, 1, 1, 3]),
    biased=st.booleans(),
)
def test_random_plans_have_the_bits_of_one_thread(
    key: tuple[str, int], seed: int, density: float, n_slots: int, batch: int, biased: bool
) -> None:
    policy = POLICIES[key]
    plan = random_plan(policy, seed, density, n_slots, biased)
    obs = torch.randn((batch, TO, OBS), generator=torch.Generator().manual_seed(seed % 1000))
    found = []
    for n in (1, 2):
        with threads(n), accelerated(policy, plan, engine=NATIVE) as fast:
            for _ in range(2):
                noise = [torch.Generator().manual_seed(seed % 997 + i) for i in range(batch)]
                found.append(fast.act(obs, noise))
    assert all(torch.equal(actions, found[0]) for actions in found)


@pytest.mark.parametrize("variant", ["causal", "in-painting", "encoder-only, not causal"])
def test_the_helper_takes_part(variant: str) -> None:
    policy = POLICIES[variant, 0]
    with on_both(policy) as (one, two):
        before = of_helper()
        expected = one(*inputs(policy))
        assert of_helper() == before
        until_helped(policy, two, expected)


@pytest.mark.parametrize("which", [0, 1])
def test_what_decides_at_run_time_has_the_bits_of_one_thread(which: int) -> None:
    policy = POLICIES["causal", 0]
    with on_both(policy, plans(policy)[which]) as (one, two):
        until_helped(policy, two, one(*inputs(policy)))


@pytest.mark.skipif(not works(), reason="no compiled code for integers")
@pytest.mark.parametrize(
    "config",
    [
        RtnConfig(),
        DuQuantConfig(method="duquant", weight_bits=4),
        DuQuantConfig(method="duquant", weight_bits=4, block=16, row_rot="restore"),
    ],
    ids=["W8A8", "W4A8", "outputs turned"],
)
@pytest.mark.parametrize("network", ["transformer", "unet"])
def test_codes_have_the_bits_of_one_thread(network: str, config: Any) -> None:
    policy = small_policy()
    if network == "unet":
        policy = from_reference(wide_unet("global", steps=3))
    seen = collect(policy, [inputs(policy)], 1, run=lambda p, given: p.act(*given), rows=64)
    with on_both(policy, None, quantize(policy, seen, config)) as (one, two):
        until_helped(policy, two, one(*inputs(policy)))


@pytest.mark.parametrize("network", ["transformer", "unet"])
def test_bfloat16_has_the_bits_of_one_thread(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU has no such products, by what does the same number by number."""
    monkeypatch.setattr(backend, "bfloat_cpu", lambda: True)
    monkeypatch.setattr(native.library(), "bfloat_works", lambda: 1)
    policy = small_policy()
    if network == "unet":
        policy = from_reference(wide_unet("local", steps=3))
    engine = FusedConfig(precision="bf16")
    with on_both(policy, engine=engine) as (one, two):
        until_helped(policy, two, one(*inputs(policy)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_unets_have_the_bits_of_one_thread(variant: str) -> None:
    policy = from_reference(wide_unet(variant, steps=4))
    with on_both(policy, UniformConfig(steps=2)) as (one, two):
        until_helped(policy, two, one(*inputs(policy)))


def test_denormals_are_zero_for_both_or_for_neither() -> None:
    policy = POLICIES["causal", 0]
    with torch.no_grad(), on_both(policy) as (one, two):
        usual = one(*inputs(policy))
        torch.set_flush_denormal(True)
        try:
            until_helped(policy, two, one(*inputs(policy)))
        finally:
            torch.set_flush_denormal(False)
        until_helped(policy, two, usual)


def test_two_policies_at_once() -> None:
    """One has the helper, the other goes on alone."""
    chosen = [POLICIES["causal", 0], POLICIES["in-painting", 1]]
    with on_both(chosen[0]) as (one, two), on_both(chosen[1]) as (other_one, other_two):
        expected = [one(*inputs(chosen[0])), other_one(*inputs(chosen[1]))]

        def often(which: int) -> bool:
            act = (two, other_two)[which]
            policy = chosen[which]
            return all(torch.equal(act(*inputs(policy)), expected[which]) for _ in range(200))

        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(often, range(2)))


def test_a_forked_process_has_a_helper_of_its_own() -> None:
    policy = POLICIES["causal", 0]
    with on_both(policy) as (one, two):
        expected = one(*inputs(policy))
        until_helped(policy, two, expected)
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    until_helped(policy, two, expected)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            until_helped(policy, two, expected)


def test_many_short_queries_under_load() -> None:
    policy = POLICIES["causal", 1]
    with on_both(policy, UniformConfig(steps=1)) as (one, two), company(2):
        expected = one(*inputs(policy))
        for _ in range(1000):
            assert torch.equal(two(*inputs(policy)), expected)


QUERIES = f"""
import sys
import torch
from accel import accelerated
from accel.engines import backend
from accel.kernels import compiled, native
from policies import load_policy

torch.set_num_threads(2)
policy = load_policy({str(PROJECT / "checkpoints/lift")!r})
with accelerated(policy) as fast:
    obs = torch.zeros(1, policy.n_obs_steps, policy.obs_dim)
    fast.act(obs, torch.Generator())
    print("asked", flush=True)
    while "once" not in sys.argv:
        fast.act(obs, torch.Generator())
"""


@pytest.mark.parametrize("how", ["once", "Ctrl-C"])
def test_a_process_ends_when_it_should(how: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", QUERIES, how]
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    if how == "Ctrl-C":
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert ("KeyboardInterrupt" in said) == (how == "Ctrl-C")
    assert process.returncode == {"once": 0, "Ctrl-C": -signal.SIGINT}[how]


def test_on_one_cpu_there_is_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    with threads(2):
        assert native.helped(1) == (len(os.sched_getaffinity(0)) > 1)
        assert not native.helped(2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
        assert not native.helped(1)
    with threads(1):
        assert not native.helped(1)


@pytest.mark.parametrize("given", ["", "refused"])
@pytest.mark.parametrize("sanitizer", ["", "thread", "address,undefined"])
def test_pieces_are_done_once_whatever_happens(sanitizer: str, given: str, tmp_path: Path) -> None:
    """A helper that is held up, forks, two callers, no threads: helper_jobs.c."""
    program = tmp_path / "jobs"
    flags = ["-O1", "-g", f"-fsanitize={sanitizer}"] if sanitizer else ["-O2"]
    words = [*COMPILER, *flags, str(JOBS), "-o", str(program)]
    made = subprocess.run(words, capture_output=True, text=True)
    if sanitizer and made.returncode:
        pytest.skip(f"no sanitizer here: {made.stderr[-200:]}")
    assert not made.returncode, made.stderr
    fixed = ["setarch", "-R"] if sanitizer == "thread" else []  # where it expects its memory
    done = subprocess.run(
        [*fixed, str(program), *given.split()],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},  # forks are no place to look for them
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
