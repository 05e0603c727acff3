"""Where the queries of a calibration come from, and what notices that it was remade."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel import Calibration
from accel.calibration import STANDARD
from envs import make_task
from policies import DiffusionPolicy, load_policy
from runners.cli import run
from runners.episodes.queries import Queries
from runners.jobs.calibration_choice import Recipe
from runners.jobs.demonstrations import Demonstrated, demonstrated
from runners.jobs.settings import CalibrationChoice, UserError, digest
from tests.helpers.features import changed
from tests.helpers.places import FIXTURES
from tests.helpers.train_files import write_npz, write_robomimic

KITCHEN, LIFT = (FIXTURES / f"{t}_lowdim_transformer/latest.ckpt" for t in ("kitchen", "lift"))
SMALL = [
    f"task.checkpoint={KITCHEN}",
    "task.max_steps=40",
    "sampler=ddim",
    "sampler.steps=6",
    "n_episodes=1",
    "n_envs=2",
    "threads=1",
    "videos=0",
    "logger=none",
    "latency.repeats=0",
    "calibration.n_queries=8",
]
BAC = ["cache=bac", "cache.steps=2"]
SEEDS = ["calibration.seeds=[5,3]"]


@pytest.fixture(scope="module")
def kitchen() -> DiffusionPolicy:
    return load_policy(KITCHEN)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return tmp_path


def calibrations() -> list[Path]:
    return sorted(Path("multirun/calibrations").iterdir())


def result(pattern: str) -> dict[str, Any]:
    (path,) = Path("multirun/main").glob(f"{pattern}/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_step_is_seen_with_its_history() -> None:
    episodes = [np.arange(6.0)[:, None], 10 + np.arange(4.0)[:, None]]
    found = Demonstrated("", [4, 9], episodes).queries(3, 8)
    assert found.seeds.tolist() == [4] * 4 + [9] * 4
    assert found.numbers.tolist() == [0, 2, 3, 5, 0, 1, 2, 3]
    assert found.obs[..., 0].tolist()[:3] == [[0, 0, 0], [0, 1, 2], [1, 2, 3]]
    assert found.obs[5, :, 0].tolist() == [10, 10, 11]
    assert found.obs.dtype == np.float32


def test_demonstrations_are_seen_as_the_policy_sees_them(
    kitchen: DiffusionPolicy, here: Path
) -> None:
    task = make_task("kitchen")
    write_npz(Path("demos.npz"))  # 59 numbers, as D4RL has them
    write_npz(Path("again.npz"))
    choice = CalibrationChoice(data="demos.npz")
    found = demonstrated(choice, kitchen, task)
    assert found.numbers == [0, 1, 2, 3]
    assert [o.shape for o in found.obs] == [(12, 60), (9, 60), (15, 60), (11, 60)]
    with np.load("demos.npz") as file:
        assert np.array_equal(found.obs[1][:, :9], file["state"][12:21, :9])
        assert np.array_equal(found.obs[1][:, 9:30], file["state"][12:21, 18:39])
    some = demonstrated(replace(choice, demos=[3, 1]), kitchen, task)
    assert [o.tolist() for o in some.obs] == [found.obs[1].tolist(), found.obs[3].tolist()]
    assert demonstrated(CalibrationChoice(data="again.npz"), kitchen, task).content == found.content
    lift = load_policy(LIFT)
    write_robomimic(Path("lift.hdf5"))
    seen = demonstrated(CalibrationChoice(data="lift.hdf5"), lift, make_task("lift"))
    assert seen.obs[0].shape == (12, 19)
    write_npz(Path("short.npz"), (3, 4))
    for change, words in (
        ({"data": "lift.hdf5"}, "calibration.data: "),
        ({"data": "short.npz"}, "the episodes have 7 steps, at least 8 are needed"),
        ({"data": "nowhere.npz"}, "calibration.data: no dataset at nowhere.npz"),
        ({"demos": [4]}, r"calibration.demos must be from 0 to 3 \(the episodes of demos.npz\)"),
    ):
        with pytest.raises(UserError, match=words):
            demonstrated(replace(choice, **change), kitchen, task)
    write_npz(Path("wide.npz"), obs_dim=58)
    with pytest.raises(UserError, match=r"an observation has 58 numbers, the policy's has 60"):
        demonstrated(CalibrationChoice(data="wide.npz"), kitchen, task)


def test_the_place_is_part_of_the_key() -> None:
    def key(demos: Demonstrated | None = None, **choice: Any) -> str:
        return Recipe(CalibrationChoice(**choice), "kitchen", {"a": 1}, demos).key

    usual = {"n_queries": 64, "n_episodes": 8, "start_seed": 300000}
    assert key() == digest({"a": 1, "calibration": usual})
    assert key(seeds=[5, 3]) == key(seeds=[3, 5])
    one, two = (Demonstrated(content, [0], []) for content in ("x", "y"))
    keys = [key(), key(n_episodes=9), key(seeds=[3]), key(seeds=[3, 5])]
    keys += [key(one, data="p"), key(two, data="p"), key(replace(one, numbers=[1]), data="p")]
    assert len(set(keys)) == 7
    assert key(one, data="p") == key(one, data="q")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"path": "p", "force": True}, "calibration.path excludes calibration.force, got both"),
        ({"seeds": [1], "data": "d"}, "calibration.seeds excludes calibration.data, got both"),
        ({"seeds": [1], "n_episodes": 9}, "calibration.seeds excludes calibration.n_episodes"),
        ({"data": "d", "start_seed": 9}, "calibration.data excludes calibration.start_seed"),
        ({"demos": [1]}, r"calibration.demos needs calibration.data, got \[1\] alone"),
        ({"seeds": []}, "calibration.seeds must not be empty"),
        ({"seeds": [1, 1]}, "calibration.seeds must be different and from 0"),
        ({"data": "d", "demos": [-1]}, "calibration.demos must be different and from 0"),
    ],
)
def test_places_exclude_each_other(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CalibrationChoice(**choice)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cache=bac calibration.path=p calibration.seeds=[1]", "calibration.path excludes"),
        ("cache=bac calibration.seeds=[3,100000]", "seeds 3 to 100000 are among the test seeds"),
        ("cache=bac calibration.seeds=3", "calibration.seeds must be a list"),
        ("runner=calibrate calibration.data=nowhere.npz", "calibration.data: no dataset at nowh"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    command: str, words: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*SMALL, *command.split()]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(here.iterdir())


def test_branches_are_measured_on_a_chosen_demonstration(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_npz(Path("demos.npz"))
    data = ["calibration.data=demos.npz", "calibration.demos=[2]"]
    assert run([*SMALL, "runner=calibrate", "cache=uniform", "cache.steps=2", *data]) == 0
    found = result("calibrate_*")
    assert found["queries"] == {"data": "demos.npz", "seeds": [2]}
    assert found["branch_errors"]["n_queries"] == found["n_queries"] == 8
    (folder,) = calibrations()
    queries, calibration = Queries.load(folder / "queries.npz"), Calibration.load(folder)
    assert queries.numbers.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]  # of 15 steps
    with np.load("demos.npz") as file:
        assert np.array_equal(queries.obs[3, -1, :9], file["state"][12 + 9 + 6, :9])
    assert calibration.source["data"] == "demos.npz"
    assert "episodes 2 of demos.npz" in capfd.readouterr().out


def test_what_rests_on_a_calibration_notices_that_it_is_another(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On chosen seeds; evaluations and branch errors that are finished."""
    errors = [*SMALL, *BAC, *SEEDS, "runner=calibrate"]
    assert run([*SMALL, *BAC, *SEEDS]) == 0
    (folder,) = calibrations()
    assert set(Queries.load(folder / "queries.npz").seeds.tolist()) == {3, 5}
    assert run(errors) == 0
    capfd.readouterr()
    assert run(errors) == 0
    assert "finished already" in capfd.readouterr().out
    assert run([*SMALL, *BAC, *SEEDS, "calibration.force=true"]) == 0
    said = capfd.readouterr().out
    assert "calibrating in" in said
    assert "calibrated anew, and the plan is the same" in said
    assert "finished already" in said

    calibration = Calibration.load(folder)
    cos = {"similarity.cos": calibration.similarity["cos"] ** 9}
    other = changed(calibration, volatility=calibration.volatility[::-1], **cos)
    other.save(folder)
    assert run(errors) == 0
    said = capfd.readouterr().out
    assert f"finished with another calibration: {calibration.digest()}" in said
    assert result("calibrate_*")["calibration"]["digest"] == other.digest()
    (run_folder,) = Path("multirun/main").glob("kitchen_bac_*")
    (run_folder / "plan.txt").write_text("0" * 16)  # as if it had been made by another one
    assert run([*SMALL, *BAC, *SEEDS, "calibration.force=true"]) == 2
    said = capfd.readouterr().err
    assert "ran under the plan 0000000000000000" in said
    assert "force=true starts anew" in said
    status = json.loads((run_folder / "status.json").read_text())["status"]
    assert status == "finished"

    test_seed = [*SMALL, *BAC, "calibration.seeds=[100000]"]
    assert run(test_seed) == 2
    named = [f"calibration.path={folder}", "calibration.seeds=[100000,100001]"]
    assert run([*SMALL, *BAC, "runner=calibrate", *named]) == 0
    assert "of seeds 100000, 100001" in capfd.readouterr().out


def test_what_a_calibration_lacks_is_measured_on_its_own_queries_and_added(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An automatic one; one that was named is refused, and never written."""
    teacache = [*SMALL, "cache=teacache", *SEEDS]
    assert run([*SMALL, "runner=calibrate", *SEEDS]) == 0
    (folder,) = calibrations()
    whole = Calibration.load(folder)
    older = tuple(name for name in STANDARD if name not in ("probe", "response", "depth_change"))
    few = replace(whole, arrays=whole.of(*older), first=older)
    few.save(folder)
    capfd.readouterr()
    named = [f"calibration.path={folder}", "cache=teacache", "threads=1"]
    assert run([*SMALL, *named]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "cache=teacache needs probe, response, which this calibration does not hold" in line
    assert "`python run.py runner=calibrate cache=teacache` measures it" in line
    assert run(teacache) == 0
    assert "measuring probe, response of the queries in" in capfd.readouterr().out
    more = Calibration.load(folder)
    assert more.statistics == {*older, "probe", "response"}
    assert more.digest() == few.digest()
    assert np.array_equal(more.probe, whole.probe)
    where = result("kitchen_teacache_*")["calibration"]
    assert where["digest"] == more.digest(["probe", "response"]) != more.digest()
