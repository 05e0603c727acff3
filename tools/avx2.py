"""Run a command with the instructions of an AMD CPU that has AVX2 alone, on one that has more.

    python -m tools.avx2 python run.py experiment=frontier task=square n_episodes=1000

Other instructions sum in another order, so that a few episodes end otherwise on another CPU, and
`tools.keep_runs` refuses to mix them. Under this command the engine's C code, torch, MKL, oneDNN,
numpy's OpenBLAS and numba all leave AVX-512 aside, and a run says AVX2 where it records its
machine. It is for success, never for latency.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMPILER = Path(__file__).with_name("avx2_cc")
LEVEL = "-march=znver1"
SETTINGS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Zen",
    "NUMBA_CPU_NAME": "znver3",  # the first name that LLVM has for all of its AVX2 at once
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # names of numpy 2.4
}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` with what keeps every library of a run to AVX2.

    The level is a word of $CC, so that the compiled code has a name of its own in the cache.
    """
    return {**env, **SETTINGS, "CC": shlex.join([str(COMPILER), LEVEL])}


def main(words: Sequence[str]) -> int:
    """Become the command; 2 where there is none, 127 where it is not found."""
    if not words or words[0].startswith("-"):
        print(f"{__doc__.splitlines()[0]}\n\n    python -m tools.avx2 COMMAND ...", file=sys.stderr)
        return 2
    try:
        os.execvpe(words[0], list(words), environment(os.environ))
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
