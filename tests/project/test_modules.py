"""One module under all of its names: accel and skipstep.accel, and where modules were before."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from skipstep.moved import MOVED, SILENT
from tests.helpers.places import PROJECT

SAME = """
import sys
import skipstep.accel, accel
import envs.robosuite.lift, skipstep.envs.robosuite.lift, policies.sampling.table
import skipstep.policies.sampling.table as table
from skipstep.runners.store import folder
import runners.store.folder
assert skipstep.accel is accel and accel.CachePlan is skipstep.accel.CachePlan
assert skipstep.accel.plans.plan is sys.modules["accel.plans.plan"]
assert table is policies.sampling.table and skipstep.envs.robosuite.lift is envs.robosuite.lift
assert skipstep.envs.robosuite.lift.LiftTask is envs.LiftTask and folder is runners.store.folder
from skipstep.accel import attach
import skipstep.accel.attach.plans, skipstep.runners.evaluate.shards
from skipstep.accel import attach as again
from accel import attach as short
assert attach is again and attach is short and attach.__name__ == "attach"
from skipstep.runners.evaluate import evaluate
assert evaluate.__name__ == "evaluate"
assert accel.__spec__.name == "accel" and attach.__module__ == "accel.attach.attach"
"""


@pytest.mark.parametrize("first", ["", "import accel\n", "from skipstep.runners import cli\n"])
def test_both_names_are_one_module(first: str, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{first}{SAME}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_report_runs_by_either_name() -> None:
    for name in ("runners.report", "skipstep.runners.report", "skipstep.runners.sync"):
        run = [sys.executable, "-m", name, "--help"]
        said = subprocess.run(run, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert "multirun/<study>" in said.stdout
        assert "Warning" not in said.stderr


def test_what_a_process_pickles_under_the_short_name_another_one_opens(tmp_path: Path) -> None:
    from skipstep.envs import KitchenTask

    (tmp_path / "task.pkl").write_bytes(pickle.dumps(KitchenTask()))
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "import pickle, skipstep.envs\n"
        "task = pickle.load(open('task.pkl', 'rb'))\n"
        "assert type(task) is skipstep.envs.KitchenTask"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_new_module(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_spec(MOVED[old]), "the module has gone on: mend the table, or take the name out"
    for name in (old, f"skipstep.{old}"):
        parent, _, leaf = name.rpartition(".")
        package = import_module(parent)  # put back what is there: accel.branch_errors is a function
        monkeypatch.setattr(package, leaf, getattr(package, leaf, None), raising=False)
        sys.modules.pop(name, None)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            module = import_module(name)
        assert module is import_module(MOVED[old])
        assert module.__spec__ is not None
        assert module.__spec__.name == MOVED[old]
        words = [str(w.message) for w in said if w.category is DeprecationWarning]
        expected = f"is now {name.removesuffix(old)}{MOVED[old]}; the old name goes with 0.2"
        assert [expected in w for w in words] == ([] if old in SILENT else [True])


def test_no_old_name_hides_what_is_there() -> None:
    for old in MOVED:
        assert not Path(PROJECT, *old.split(".")).exists(), old
        assert not Path(PROJECT, *old.split(".")).with_suffix(".py").exists(), old


def test_the_warning_is_of_the_line_that_imports(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("\n\nfrom accel.plan import CachePlan\n")
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import accel, mine"
    run = [sys.executable, "-W", "default", "-c", code]
    said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert "mine.py:3: DeprecationWarning: accel.plan is now accel.plans.plan; " in said


def test_the_public_names_go_on_without_a_word() -> None:
    code = (
        "from accel.forecast import adams_bashforth, lagrange\n"
        "import accel.caches.forecast as now\n"
        "assert now.lagrange is lagrange and now.adams_bashforth is adams_bashforth"
    )
    run = [sys.executable, "-W", "error::DeprecationWarning", "-c", code]
    subprocess.run(run, cwd=PROJECT, check=True)


def test_the_changelog_has_every_move() -> None:
    rows = [
        line.split(" | ")
        for line in (PROJECT / "CHANGELOG.md").read_text().splitlines()
        if line.count(" | ") == 2
    ]
    found = {}
    for new, old, modules in rows[2:]:
        for words in modules.removesuffix(" |").split(", "):
            leaf, _, renamed = words.replace("`", "").partition(" as ")
            found[f"{old.strip('`')}.{leaf}"] = f"{new.strip('| `')}.{renamed or leaf}"
    assert found == MOVED
