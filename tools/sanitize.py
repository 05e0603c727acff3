"""The engine's C code under sanitizers: random programs, plans, quantised layers.

    python -m tools.sanitize --seeds 0:500

The code is compiled by the compiler that the engine uses, with AddressSanitizer and UBSan, once for
each width of vectors that this machine has, and then does what the engine has it do; and once more
with ThreadSanitizer, on two threads. Each seed is a network, a sampler, a cache and a batch, or a
quantised layer; what is computed is compared with torch too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .chaos.records import Row, keep, plain, seeds, table
from .random_programs import FINDING, child

PROJECT = Path(__file__).resolve().parents[1]
COMPILER = """\
#!/bin/sh
exec {compiler} "$@" {flags}
"""  # after the engine's own flags, of which it takes -O3 back
COMMON = "-O1 -g -fno-omit-frame-pointer"
WIDTHS = {
    "C": "-mno-avx512f -mno-avx2 -mno-fma -mno-avx",
    "AVX2": "-mno-avx512f",
    "AVX-512": "",
    "two threads": "",
}
REPORT = ("ERROR: AddressSanitizer", "runtime error:")
RACE, OURS = "WARNING: ThreadSanitizer", "accel/kernels/"


@dataclass(frozen=True)
class Sanitizer:
    """How code is compiled with it, and how a process runs such code.

    Attributes:
        flags: of the compiler.
        library: that has to be loaded first.
        environment: of the process.
        words: before its command.
        threads: of torch in it.
    """

    flags: str
    library: str
    environment: Mapping[str, str]
    words: tuple[str, ...] = ()
    threads: int = 1


MEMORY = Sanitizer(
    "-fsanitize=address,undefined,float-cast-overflow",
    "libasan.so",
    {
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=0",
    },
)
RACES = Sanitizer(
    "-fsanitize=thread -DSKIPSTEP_LEAST=0",  # so that layers of small networks are divided
    "libtsan.so",
    {"TSAN_OPTIONS": "halt_on_error=0:exitcode=0"},
    ("setarch", "-R"),  # it expects memory in its usual places
    threads=2,
)


def widths() -> list[str]:
    """Those of this machine; two threads have the widest vectors."""
    flags = Path("/proc/cpuinfo").read_text()
    needs = {"AVX2": " avx2", "AVX-512": " avx512f"}
    return [w for w in WIDTHS if needs.get(w, "") in flags]


def run_width(width: str, first: int, last: int, seconds: float) -> Row:
    """The row of one width of vectors; each report of a sanitizer is a finding.

    Raises:
        RuntimeError: the process ended before its time.
    """
    sanitizer = RACES if width == "two threads" else MEMORY
    compiler = os.environ.get("CC", "cc")
    library = subprocess.run(
        [*compiler.split(), f"-print-file-name={sanitizer.library}"], capture_output=True, text=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as cache:
        script = Path(cache, "cc")
        flags = f"{COMMON} {sanitizer.flags} {WIDTHS[width]}"
        script.write_text(COMPILER.format(compiler=compiler, flags=flags))
        script.chmod(0o700)
        environment = {
            **os.environ,
            "CC": str(script),
            "LD_PRELOAD": library,
            "XDG_CACHE_HOME": cache,
            **sanitizer.environment,
        }
        words = [*sanitizer.words, sys.executable, "-m", "tools.sanitize"]
        words += ["--seeds", f"{first}:{last}", "--seconds", str(seconds)]
        words += ["--child", str(sanitizer.threads)]
        done = subprocess.run(
            words, cwd=PROJECT, env=environment, capture_output=True, text=True, errors="replace"
        )
    reports = [at for report in REPORT for at in places(done.stderr, report)]
    reports += races(done.stderr)
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


def races(said: str) -> list[str]:
    """ThreadSanitizer's reports that our code is in; torch's own threads have others."""
    blocks = said.split("=" * 18)
    return [" ".join(b.split())[:500] for b in blocks if RACE in b and OURS in b]


def main(argv: Sequence[str]) -> int:
    """0: no report; 1: some."""
    parser = argparse.ArgumentParser("python -m tools.sanitize", description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=(0, 100), help="from a to before b")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each width, at most")
    parser.add_argument("--widths", nargs="*", choices=list(WIDTHS), help="instead of all")
    parser.add_argument("--keep", action="store_true", help="add the rows to results/chaos/")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)  # on so many threads
    given = parser.parse_args(argv)
    if given.child:
        os.environ.pop("LD_PRELOAD", None)  # the compiler does not run under a sanitizer
        print(json.dumps(plain(child(*given.seeds, given.seconds, given.child))))
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
