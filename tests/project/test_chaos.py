"""Short forms of the campaigns, and what records, mutations and the watched child do."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipstep.whole_files import write_whole
from tools import sanitize
from tools.chaos import child, soak
from tools.chaos.kinds import KINDS, Kind
from tools.chaos.mutations import GADGET, mutated
from tools.chaos.records import Row, added, keep, read, table

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
    (row,) = soak.run(0, 3)
    assert row.outcomes == {"flat": 3}, row.findings


def test_random_programs_and_layers_agree_with_torch() -> None:
    """Those of the sanitizers, without them."""
    assert sanitize.child(0, 8) == 0
    assert sanitize.widths()[0] == "C"
