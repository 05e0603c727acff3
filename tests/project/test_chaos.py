"""Short forms of the campaigns, and what records, mutations and the watched child do."""

from __future__ import annotations

import math
import os
import random
import typing
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from accel import FusedConfig, PlanError, UniformConfig, accelerated, resolve
from accel.kernels.native import is_compiled
from accel.plans.decisions import Threshold
from skipstep.whole_files import write_whole
from tools import sanitize
from tools.chaos import child, soak
from tools.chaos.__main__ import PAGE, tables
from tools.chaos.kind import Kind
from tools.chaos.kinds import KINDS
from tools.chaos.mutations import GADGET, mutated
from tools.chaos.policy_files import transformer
from tools.chaos.records import Row, added, keep, read, table
from tools.random_programs import child as programs

FEW = 6


@pytest.mark.parametrize("name", KINDS)
def test_files_that_were_damaged_are_refused_or_loaded_as_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = KINDS[name]
    path = kind.make(tmp_path)
    before = kind.load(path)
    assert kind.check(before, before, path) == ""
    files = {file: file.read_bytes() for file in child.files_of(path)}
    for seed in range(FEW):
        child.damage(path, random.Random(f"{name} {seed}"))
        outcome, said = child.trial(kind, path, before)
        assert outcome in ("refused", "loaded as written"), (seed, said)
        for file, content in files.items():
            write_whole(file, content)


def _raises(error: Exception) -> Callable[[Path], Any]:
    def load(path: Path) -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("load", "outcome", "said"),
    [
        (_raises(ValueError("one line")), "refused", "one line"),
        (_raises(ValueError("two\nlines")), "finding", "not one line"),
        (_raises(ValueError("")), "finding", "not one line"),
        (_raises(ValueError("x" * 3000)), "finding", "3000 characters"),
        (_raises(KeyError("x")), "finding", "KeyError"),
        (lambda path: 1, "loaded as written", ""),
        (lambda path: 2, "finding", "it is 2"),
    ],
)
def test_a_trial_knows_what_must_not_be(
    load: Callable[[Path], Any], outcome: str, said: str, tmp_path: Path
) -> None:
    kind = Kind(
        lambda folder: folder, load, (ValueError,), lambda found, *_: "it is 2" * (found == 2)
    )
    found = child.trial(kind, tmp_path, 1)
    assert found[0] == outcome
    assert said in found[1]


def test_the_gadget_would_run_where_a_pickle_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = KINDS["checkpoint"].make(tmp_path)
    content, rng = path.read_bytes(), random.Random(0)
    while GADGET not in path.read_bytes():
        path.write_bytes(mutated(content, ".ckpt", rng))
    with zipfile.ZipFile(path) as archive:
        (pickle,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        assert GADGET in archive.read(pickle)
    outcome, said = child.trial(KINDS["checkpoint"], path, None)
    assert outcome == "refused"
    assert "system" in said
    assert not Path("executed").exists()


def _by(file: str, function: str) -> Callable[[Path], Any]:
    """A reader in which a function of a file has something executed."""
    text = f"def {function}(): audit('exec', 'x')"
    found: dict[str, Any] = {"audit": child._audit}
    exec(compile(text, file, "exec"), found)
    return lambda path: found[function]()


@pytest.mark.parametrize(
    ("file", "function", "allowed"),
    [
        (typing.__file__, "_evaluate", True),
        ("<frozen importlib._bootstrap>", "_call_with_frames_removed", True),
        (typing.__file__, "other", False),
        (torch.__file__, "_evaluate", False),
        ("<string>", "_call_with_frames_removed", False),
    ],
)
def test_only_named_functions_may_execute_while_a_file_is_read(
    file: str, function: str, allowed: bool, tmp_path: Path
) -> None:
    kind = Kind(lambda folder: folder, _by(file, function), (ValueError,), lambda *_: "")
    outcome, said = child.trial(kind, tmp_path, None)
    assert outcome == ("loaded as written" if allowed else "finding")
    assert allowed or f"executed: exec by {function} of {file}" in said


def test_the_page_has_the_recorded_tables() -> None:
    assert tables() in PAGE.read_text()


def test_a_seed_gives_the_same_damage_again() -> None:
    content = b'{"a": [1, 2, {"b": "c"}], "d": 1.5}'
    for suffix in (".json", ".yaml", ".bin"):
        once, again = (
            [mutated(content, suffix, random.Random(s)) for s in range(50)] for _ in "ab"
        )
        assert once == again
        assert len(set(once)) > 20


def test_rows_of_disjoint_seeds_add_up(tmp_path: Path) -> None:
    first, second = Row("plan", 0, 2), Row("plan", 2, 4)
    first.count(0, "refused", seconds=0.5)
    first.count(1, "finding", "it died", seconds=0.1)
    second.count(2, "refused", seconds=0.7)
    second.count(3, "loaded as written")
    keep("files", [first], tmp_path)
    path = keep("files", [second], tmp_path)
    (row,) = added(read(path))
    assert (row.first, row.last, row.trials) == (0, 4, 4)
    assert row.outcomes == {"refused": 2, "finding": 1, "loaded as written": 1}
    assert row.findings == ["seed 1: it died"]
    assert row.most == {"seconds": 0.7}
    assert table(read(path))[2] == "| plan | 0:4 | 4 | 1 | 1 | 2 | 0.7 |"
    with pytest.raises(ValueError, match="seeds of plan must be new, got 1:3 beside 0:2"):
        keep("files", [Row("plan", 1, 3)], tmp_path)


def test_short_episodes_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "A_TRIAL", 3)
    (row,) = soak.run(0, 3, kinds=["episodes of PushT"])
    assert row.outcomes == {"flat": 3}, row.findings


def test_a_server_holds_no_more_after_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "REQUESTS", 20)
    (row,) = soak.run(0, 3, kinds=["requests of a server"])
    assert row.outcomes == {"flat": 3}, row.findings


def test_what_stays_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that opens a file for good is not flat."""
    opened = []

    def leaking(first: int, last: int) -> soak.Trials:
        for seed in range(first, last):
            opened.append(open(os.devnull))  # noqa: SIM115
            yield seed, "", psutil.Process()

    monkeypatch.setitem(soak.KINDS, "leaking", leaking)
    monkeypatch.setattr(soak, "SETTLED_S", 0.0)
    (row,) = soak.run(0, 3, kinds=["leaking"])
    for file in opened:
        file.close()
    assert row.outcomes == {"flat": 1, "finding": 2}
    assert row.findings[0] == "seed 1: descriptors grew by 1"


def test_random_programs_and_layers_agree_with_torch() -> None:
    """Those of the sanitizers, without them."""
    if not is_compiled():
        pytest.skip("there is no C compiler")
    row = programs(0, 24)
    assert row.outcomes["finding"] == 0, row.findings
    assert {"as torch", "plan refused", "huge values"} <= set(row.outcomes)
    assert sanitize.widths()[0] == "C"


N, U = 8, 6  # steps and sites of `transformer`
FIRST = np.arange(N)[:, None] + np.zeros((1, U)) < 1
NATIVE = FusedConfig(backend="native")


def threshold(first: int = 0, always: tuple[int, ...] = (0,)) -> Threshold:
    return Threshold("norm", first, 0.1, (1.0, 0.0), math.inf, True, always)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"mask": np.ones((N + 1, U), bool)}, "steps"),
        ({"mask": np.ones((N - 1, U), bool)}, "steps"),
        ({"mask": np.ones((N, U + 1), bool)}, "plan.mask must be bool"),
        ({"mask": np.ones((N, U), np.int64)}, "plan.mask must be bool"),
        ({"mask": np.zeros((N, U), bool)}, "before anything was computed"),
        ({"mask": FIRST, "alpha": np.ones((N, U, 2))}, "uses 2 stored values, there are 1"),
        ({"mask": FIRST, "alpha": np.full((N, U, 1), np.nan)}, "not finite"),
        ({"mask": FIRST, "alpha": np.ones((N + 1, U, 1))}, "plan.alpha must be"),
        ({"mask": FIRST, "bias": np.ones((N, U, 99, 99), np.float32)}, "bias"),
        ({"mask": FIRST, "bias": np.ones((N, U, 1, 16), np.float32)}, "bias"),
        ({"mask": FIRST, "decide": threshold(first=U)}, "plan.decide.first"),
        ({"mask": FIRST, "decide": threshold(first=-1)}, "plan.decide.first"),
        ({"mask": FIRST, "decide": threshold(always=(0, N))}, "plan.decide.always"),
        ({"mask": FIRST, "decide": threshold(always=(0, -1))}, "plan.decide.always"),
    ],
)
def test_a_plan_that_reaches_too_far_never_comes_to_the_engine(
    part: dict[str, Any], said: str
) -> None:
    """C reads where a plan says: rows, sites and stored values that are not there are refused."""
    policy = transformer()
    made = resolve(policy, UniformConfig(steps=1))
    obs = torch.zeros(1, policy.n_obs_steps, policy.obs_dim)
    with (
        pytest.raises(PlanError, match=said),
        accelerated(policy, replace(made, **{"sampler": None, **part}), engine=NATIVE) as fast,
    ):
        fast.act(obs, [torch.Generator()])


def test_each_report_of_a_sanitizer_is_found_with_its_place() -> None:
    said = """\
x.c:3:5: runtime error: index 9 out of bounds
    #0 0x1 in f x.c:3
fine
==1==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x2
READ of size 4
    #0 0x1 in g y.c:7
"""
    bounds, heap = (sanitize.places(said, report)[0] for report in reversed(sanitize.REPORT))
    assert "x.c:3:5" in bounds
    assert "heap-buffer-overflow" in heap
    assert "y.c:7" in heap


def test_races_count_where_our_code_is_in_them() -> None:
    bar = "=" * 18
    report = "WARNING: ThreadSanitizer: data race (pid=1)\n  Write of size 4\n    #0 f {} {}\n"
    said = bar.join(
        ["", report.format("libtorch_cpu.so", "+0x1"), "", report.format("accel/kernels/x.h", ":3")]
    )
    (race,) = sanitize.races(said)
    assert "accel/kernels/x.h" in race
