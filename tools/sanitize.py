"""The engine's C code under AddressSanitizer and UBSan: random programs, plans, quantised layers.

    python -m tools.sanitize --seeds 0:500

The code is compiled by the compiler that the engine uses, with the sanitizers, once for each width
of vectors that this machine has, and then does what the engine has it do. Each seed is a network, a
sampler, a cache and a batch, or a quantised layer; what is computed is compared with torch too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .chaos.records import Row, keep, plain, seeds, table
from .random_programs import FINDING, child

PROJECT = Path(__file__).resolve().parents[1]
SANITIZERS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow"
COMPILER = """\
#!/bin/sh
exec {compiler} "$@" {flags}
"""  # after the engine's own flags, of which it takes -O3 back
WIDTHS = {
    "C": "-mno-avx512f -mno-avx2 -mno-fma -mno-avx",
    "AVX2": "-mno-avx512f",
    "AVX-512": "",
}
REPORT = ("ERROR: AddressSanitizer", "runtime error:")


def widths() -> list[str]:
    """Those of this machine."""
    flags = Path("/proc/cpuinfo").read_text()
    return [w for w in WIDTHS if w == "C" or {"AVX2": " avx2", "AVX-512": " avx512f"}[w] in flags]


def run_width(width: str, first: int, last: int, seconds: float) -> Row:
    """The row of one width of vectors; each report of a sanitizer is a finding.

    Raises:
        RuntimeError: the process ended before its time.
    """
    compiler = os.environ.get("CC", "cc")
    asan = subprocess.run(
        [*compiler.split(), "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as cache:
        script = Path(cache, "cc")
        flags = f"{SANITIZERS} {WIDTHS[width]}"
        script.write_text(COMPILER.format(compiler=compiler, flags=flags))
        script.chmod(0o700)
        environment = {
            **os.environ,
            "CC": str(script),
            "LD_PRELOAD": asan,
            "XDG_CACHE_HOME": cache,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
        }
        words = [sys.executable, "-m", "tools.sanitize", "--seeds", f"{first}:{last}"]
        words += ["--seconds", str(seconds), "--child"]
        done = subprocess.run(
            words, cwd=PROJECT, env=environment, capture_output=True, text=True, errors="replace"
        )
    reports = [at for report in REPORT for at in places(done.stderr, report)]
    if done.returncode and not reports:
        raise RuntimeError(f"{width}: it ended with {done.returncode}: {done.stderr[-3000:]}")
    said = {} if done.returncode else json.loads(done.stdout.splitlines()[-1])
    row = Row(**{"first": first, "last": last, **said, "kind": width})
    row.outcomes = Counter(row.outcomes)
    for report in reports:
        row.count(first, FINDING, report)
    return row


def places(said: str, report: str) -> list[str]:
    """The lines that begin a report, and where it was."""
    lines = said.splitlines()
    return [" ".join(lines[i : i + 3])[:500] for i, line in enumerate(lines) if report in line]


def main(argv: Sequence[str]) -> int:
    """0: no report; 1: some."""
    parser = argparse.ArgumentParser("python -m tools.sanitize", description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=(0, 100), help="from a to before b")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each width, at most")
    parser.add_argument("--widths", nargs="*", choices=list(WIDTHS), help="instead of all")
    parser.add_argument("--keep", action="store_true", help="add the rows to results/chaos/")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        print(json.dumps(plain(child(*given.seeds, given.seconds))))
        return 0
    rows = []
    for width in given.widths or widths():
        rows.append(run_width(width, *given.seeds, given.seconds))
        if given.keep:
            print(keep("sanitize", rows[-1:]), flush=True)
    print("\n".join(table(rows)))
    findings = [f"{row.kind}: {said}" for row in rows for said in row.findings]
    print("\n".join(findings), file=sys.stderr)
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
