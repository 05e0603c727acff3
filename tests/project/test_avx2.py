"""Runs as of a CPU with AVX2 alone (tools/avx2.py)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from accel.kernels.compiled import has_compiler
from tests.helpers.places import PROJECT
from tools.avx2 import environment

HERE = [sys.executable, "-m", "tools.avx2"]
SAYS = """
import numpy, torch
from numpy._core._multiarray_umath import __cpu_dispatch__ as names, __cpu_features__ as there
from runners.machine import arithmetic
print(arithmetic())
print([name for name in names if there[name] and name != "X86_V3"])
"""


def has_avx2() -> bool:
    import torch

    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def said(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.skipif(not has_avx2(), reason="a CPU without AVX2")
def test_a_run_says_avx2_and_numpy_leaves_avx512_aside() -> None:
    machine, wide = said([*HERE, sys.executable, "-c", SAYS]).stdout.splitlines()[-2:]
    assert ", AVX2, " in machine
    assert wide == "[]"


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_c_code_is_compiled_without_avx512_and_named_apart() -> None:
    command = shlex.split(environment(os.environ)["CC"])
    macros = said([*command, "-march=native", "-dM", "-E", "-x", "c", os.devnull]).stdout
    assert "__AVX2__" in macros
    assert "__AVX512F__" not in macros
    assert command[1:]  # the words after the compiler's name are of the cached library's name


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [([], 2, "COMMAND"), (["--help"], 2, "COMMAND"), (["no-such-command"], 127, "no-such-command")],
)
def test_what_is_no_command_is_said(words: list[str], code: int, says: str) -> None:
    done = said([*HERE, *words])
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
