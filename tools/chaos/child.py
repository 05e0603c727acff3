"""The process that reads hostile files: one JSON line before each trial and one after it.

It is watched from outside for signals, time and memory, and from inside for anything that a file
made it do: processes, calls of a pickle, connections, files that are written or looked into.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import random
import resource
import shutil
import sys
import time
import typing
import warnings
from pathlib import Path
from typing import Any

from .kind import Kind
from .kinds import KINDS
from .mutations import mutated

RUNS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "exec"),
    *("pickle.find_class", "marshal.loads", "code.__new__", "function.__new__", "socket.connect"),
}
MOST_BYTES = 8 * 2**30  # of address space above what is there: the machine outlives the trial
CALLERS = {  # that run what the machine's own modules say, and nothing that a file says
    ("<frozen importlib._bootstrap_external>", "_compile_bytecode"): "a module is imported",
    ("<frozen importlib._bootstrap>", "_call_with_frames_removed"): "a module is imported",
    (typing.__file__, "_evaluate"): "the annotations of a dataclass are read",
    (collections.__file__, "namedtuple"): "a class of an imported module is made",
    (dataclasses.__file__, "_create_fn"): "a class of an imported module is made",
    (dataclasses.__file__, "add_fns_to_class"): "a class of an imported module is made",
}
_seen: list[str] | None = None
_inside = ""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in RUNS:
        code = sys._getframe(1).f_code
        if (code.co_filename, code.co_name) not in CALLERS:
            caller = f"{code.co_name} of {code.co_filename}"
            _seen.append(f"{event} by {caller}: {str(arguments)[:80]}")
    elif event == "open" and isinstance(arguments[0], str):
        path, mode = arguments[0], arguments[1] or ""
        outside = not path.startswith((_inside, "/proc/", "/sys/", "/dev/null"))
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if "etc/passwd" in path or (outside and writes):
            _seen.append(f"open {path} {mode}")


def _memory_mb() -> tuple[float, float]:
    """What it takes now, and the most since the last `_forget_most`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    said = dict(line.split(":", 1) for line in lines)
    return tuple(int(said[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def _forget_most() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def damage(path: Path, rng: random.Random) -> tuple[Path, bytes]:
    """Mutate one file; which, and what it held."""
    file = rng.choice(files_of(path))
    before = file.read_bytes()
    file.write_bytes(mutated(before, file.suffix, rng))
    return file, before


def trial(kind: Kind, path: Path, before: Any) -> tuple[str, str]:
    """(outcome, what is wrong or was said)."""
    global _seen
    _seen = []
    try:
        found = kind.load(path)
        events, _seen = _seen, None
        said = "executed: " + events[0] if events else kind.check(found, before, path)
        return ("finding", said) if said else ("loaded as written", "")
    except kind.refusals as error:
        events, _seen = _seen, None
        said = str(error)
        if events:
            return "finding", "executed: " + events[0]
        if "\n" in said or not said:
            return "finding", f"not one line: {said!r}"
        return ("refused", said) if len(said) < 2000 else ("finding", f"{len(said)} characters")
    except Exception as error:
        _seen = None
        return "finding", f"{type(error).__name__}: {str(error)[:200]}"


def main(name: str, first: int, last: int, work: Path) -> None:
    global _inside
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    kind, _inside = KINDS[name], str(work)
    whole = work / "whole"
    whole.mkdir()
    made = kind.make(whole)
    before = kind.load(made)
    assert not kind.check(before, before, made), "the whole file is no good"
    copy = work / "copy"
    shutil.copytree(whole, copy)
    path = copy / made.relative_to(whole)
    sys.addaudithook(_audit)
    trial(kind, path, before)  # what is imported on first use is no finding
    idle = _memory_mb()[0]
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, now + MOST_BYTES))
    print(json.dumps({"idle_mb": idle}), flush=True)
    for seed in range(first, last):
        print(json.dumps({"begun": seed}), flush=True)
        file, content = damage(path, random.Random(f"{name} {seed}"))
        _forget_most()
        began = time.perf_counter()
        outcome, said = trial(kind, path, before)
        seconds = time.perf_counter() - began
        most = _memory_mb()[1] - idle
        ran = (Path.cwd() / "executed").exists() or (copy / "executed").exists()
        if ran:
            outcome, said = "finding", "a file was executed"
        print(
            json.dumps({"seed": seed, "outcome": outcome, "said": f"{file.name}: {said}",
                        "seconds": seconds, "mb": most}), flush=True,
        )  # fmt: skip
        file.write_bytes(content)
        for other in files_of(copy):
            if not (whole / other.relative_to(copy)).exists():
                other.unlink()
        for other in files_of(whole):
            target = copy / other.relative_to(whole)
            if not target.exists() or target.stat().st_size != other.stat().st_size:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(other, target)
        if name == "resumed run":
            shutil.rmtree(copy)
            shutil.copytree(whole, copy)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
