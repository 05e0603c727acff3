"""What a dataset says of its robosuite and of its numbers' order is heard by every reader."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from envs import KitchenConfig, KitchenTask, LiftConfig, LiftTask, Task
from envs.robosuite.actions import OSC_POSE
from policies import DatasetError, DiffusionPolicy, load_policy
from runners.cli import run
from runners.jobs.dataset import read_content
from runners.jobs.demonstrations import demonstrated
from runners.jobs.settings import CalibrationChoice, UserError
from tests.envs.test_lift import recorded
from tests.helpers.places import FIXTURES
from tests.helpers.train_files import LIFT, episodes, write_lerobot, write_npz, write_robomimic

SMALL = [
    *("runner=train", "task=lift", "threads=1", "logger=none", "runner.n_steps=1"),
    *("runner.n_layer=1", "runner.n_head=2", "runner.n_emb=16", "runner.num_train_timesteps=5"),
]
KEYS = list(LIFT)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


@pytest.fixture(scope="module")
def lift() -> DiffusionPolicy:
    return load_policy(FIXTURES / "lift_lowdim_transformer/latest.ckpt")


def said_by(path: Path, env_args: Any) -> Path:
    with h5py.File(path, "a") as file:
        if env_args is not None:
            text = env_args if isinstance(env_args, str) else json.dumps(env_args)
            file["data"].attrs["env_args"] = text
    return path


def controller(**changes: Any) -> dict[str, Any]:
    return recorded(controller_configs=OSC_POSE | changes)


COMPOSITE = {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE"}}}
REFUSED: dict[str, tuple[Any, str]] = {
    "1.5.1": (
        recorded(controller_configs=COMPOSITE) | {"env_version": "1.5.1"},
        "env_args must name an env_version of robosuite up to 1.4 .* got '1.5.1' in lift.hdf5",
    ),
    "composite without version": (
        {k: v for k, v in recorded(controller_configs=COMPOSITE).items() if k != "env_version"},
        "a controller of type OSC_POSE, got 'BASIC'",
    ),
    "damping": (controller(damping=0.2), r"not have damping in its controller .*damping: 0\.2"),
    "damping list": (controller(damping=[1, 2]), r"damping: \[1, 2\]"),
    "limits": (controller(damping_limits=[0, 1]), r"damping_limits: \[0, 1\]"),
    "misspelt": (controller(damping_ration=1, kP=3), "got damping_ration: 1, kP: 3"),
    "swallowed": (controller(control_ori=False), "got control_ori: False"),
    "robot": (recorded(robots=["Sawyer"]), "one robot, Panda"),
    "task": (recorded() | {"env_name": "Can"}, "env_name 'Lift'"),
    "text": ("{", "env_args must be JSON in lift.hdf5"),
    "list": ("[1]", "env_args must be a dictionary in lift.hdf5"),
    **{
        f"version {version!r}": (recorded() | {"env_version": version}, "env_version")
        for version in ("1.5.0", "1.5", "1.10.2", "2.0.0", "v1.5.1", "0.3.0", "new", "", 1.4, [1])
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_of_another_world_is_refused(case: str, lift: DiffusionPolicy) -> None:
    said, message = REFUSED[case]
    path = said_by(write_robomimic(Path("lift.hdf5")), said)
    with pytest.raises(DatasetError, match=message) as refused:
        read_content([str(path)], "auto", (), LiftTask())
    assert "\n" not in str(refused.value)
    assert "lift.hdf5" in str(refused.value)
    with pytest.raises(UserError, match=f"^calibration.data: .*{message}"):
        demonstrated(CalibrationChoice(data=str(path)), lift, LiftTask())
    with pytest.raises(ValueError, match=r"^task\.env_args must"):
        LiftTask(LiftConfig(env_args=str(path)))


@pytest.mark.parametrize(
    "command", ["runner.data=[good.hdf5,lift.hdf5]", "runner.data=lift.hdf5 runner.kind=robomimic"]
)
def test_a_training_on_it_ends_before_it_begins(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said_by(write_robomimic(Path("good.hdf5")), recorded())
    said_by(write_robomimic(Path("lift.hdf5")), REFUSED["1.5.1"][0])
    assert run([*SMALL, *command.split()]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: env_args must name an env_version of robosuite up to 1.4")
    assert line.endswith("got '1.5.1' in lift.hdf5")
    assert not Path("multirun").exists()


def test_our_own_lerobot_folders_say_it_too(lift: DiffusionPolicy) -> None:
    pytest.importorskip("pyarrow")
    for name, said, message in (
        ("a", REFUSED["1.5.1"][0], "env_version"),
        ("b", controller(damping=0.2), "damping"),
    ):
        folder = write_lerobot(Path(name))
        (folder / "meta/skipstep.json").write_text(json.dumps({"run": "", "env_args": said}))
        with pytest.raises(DatasetError, match=message):
            read_content([name], "auto", (), LiftTask())
        with pytest.raises(UserError, match=message):
            demonstrated(CalibrationChoice(data=name), lift, LiftTask())


@pytest.mark.parametrize("version", ["1.4.1", "1.5.1"])
def test_what_robosuite_writes_itself_is_heard(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_robomimic(Path("lift.hdf5"))
    with h5py.File(path, "a") as file:
        info = {"env_name": "Lift", "robots": "Panda", "controller_configs": OSC_POSE}
        file["data"].attrs["env_info"] = json.dumps(info)
        file["data"].attrs["repository_version"] = version
    if version == "1.4.1":
        read_content([str(path)], "auto", (), LiftTask())
        assert caplog.text == ""
        return
    with pytest.raises(DatasetError, match=r"env_version of robosuite .* got '1\.5\.1'"):
        read_content([str(path)], "auto", (), LiftTask())


def heard(said: Any, caplog: pytest.LogCaptureFixture, task: Task | None = None) -> list[str]:
    path = Path("lift.hdf5")
    path.unlink(missing_ok=True)
    said_by(write_robomimic(path), said)
    caplog.clear()
    data, _ = read_content([str(path)], "auto", (), task or LiftTask())
    assert data.obs.shape[1] == 19
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_what_is_not_known_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    unversioned = {k: v for k, v in recorded().items() if k != "env_version"}
    for said, message in (
        (None, "lift.hdf5 has no env_args"),
        (unversioned, "lift.hdf5 does not say which robosuite"),
        (recorded() | {"env_version": "1.2.0"}, "recorded with robosuite 1.2.0"),
        (recorded(control_freq=10), "recorded with control_freq 10 (task: 20)"),
        (recorded(table_friction=[1, 0, 0]), "table_friction [1, 0, 0] (task: [1.0, 0.005, 0.00"),
        (controller(kp=15), "controller's kp 15 (task: 150)"),
    ):
        (warning,) = heard(said, caplog)
        assert message in warning
    path = said_by(write_robomimic(Path("slow.hdf5")), recorded(control_freq=10))
    task = LiftTask(LiftConfig(env_args=str(path)))
    assert heard(recorded(control_freq=10), caplog, task) == []


def test_what_robomimic_publishes_is_heard_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its files still have an older robosuite's names for what is robosuite 1.4's standard."""
    old = {k: v for k, v in OSC_POSE.items() if not k.startswith("damping")}
    old |= {"damping": 1, "damping_limits": [0, 10]}
    for version in ("1.4", "1.4.0", "1.4.1", "1.4.1rc1"):
        assert heard(recorded(controller_configs=old) | {"env_version": version}, caplog) == []
    absolute = old | {"control_delta": False}  # converted files may keep the recorded one
    assert heard(recorded(controller_configs=absolute), caplog) == []
    assert heard(recorded(table_full_size=[0.8, 0.8, 0.05]), caplog) == []


def test_kitchen_refuses_lifts_file_and_the_other_actions() -> None:
    path = write_robomimic(Path("k.hdf5"), fields={"obs": 60}, action_dim=9)
    said_by(path, recorded())
    with pytest.raises(DatasetError, match=r"env_args must not name an environment of robosuite"):
        read_content(["k.hdf5"], "auto", (), KitchenTask())
    velocities = KitchenTask(KitchenConfig(abs_action=False))
    said_by(path, velocities.env_args())
    with pytest.raises(DatasetError, match=r"task\.abs_action=True contradicts k\.hdf5, which was"):
        read_content(["k.hdf5"], "auto", (), KitchenTask())
    read_content(["k.hdf5"], "auto", (), KitchenTask(), actions=False)
    read_content(["k.hdf5"], "auto", (), velocities)
    said_by(path, {"env_name": "kitchen-complete-v0", "type": 2})
    read_content(["k.hdf5"], "auto", (), KitchenTask())


ORDERS = [
    ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"],
    ["robot0_eef_quat", "robot0_gripper_qpos", "robot0_eef_pos", "object"],
    ["object", "robot0_eef_quat", "robot0_eef_pos", "robot0_gripper_qpos"],
]


@pytest.mark.parametrize("keys", ORDERS)
@pytest.mark.parametrize("kind", ["robomimic", "npz", "lerobot"])
def test_fields_in_another_order_are_refused(
    kind: str, keys: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = {"robomimic": parts_hdf5, "npz": parts_npz, "lerobot": parts_lerobot}[kind]()
    assert run([*SMALL, f"runner.data={path}", f"runner.obs_keys=[{','.join(keys)}]"]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith(f"error: {path}: an observation must be object (10), robot0_eef_pos (3)")
    assert f"got {keys[0]} ({LIFT[keys[0]]}), " in line
    data, _ = read_content([str(path)], "auto", tuple(LIFT), LiftTask())
    np.testing.assert_array_equal(data.obs, np.concatenate([np.hstack(w[1:]) for w in PARTS]))


PARTS = episodes([12, 9], [7, *LIFT.values()])


def parts_hdf5() -> Path:
    return write_robomimic(Path("a.hdf5"), [12, 9])


def parts_npz() -> Path:
    fields = {key: np.concatenate([w[i] for w in PARTS]) for i, key in enumerate(LIFT, 1)}
    action = np.concatenate([w[0] for w in PARTS])
    return write_npz(Path("a.npz"), **fields, action=action, episode_ends=[12, 21])


def parts_lerobot() -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    folder = write_lerobot(Path("a"), [12, 9], n_files=1)
    file = folder / "data/chunk-000/file-000.parquet"
    rows = pyarrow.parquet.read_table(file).to_pylist()
    values = [np.concatenate(c) for c in zip(*PARTS, strict=True)]
    for i, row in enumerate(rows):
        row["action"] = values[0][i].tolist()
        row |= {key: values[1 + j][i].tolist() for j, key in enumerate(LIFT)}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return folder


NAMES: dict[str, Callable[[list[str]], Any]] = {
    "list": lambda names: names,
    "motors": lambda names: {"motors": names},
    "places": lambda names: {name: i for i, name in enumerate(names)},
}


def named(folder: str, names: Any) -> Path:
    path = write_lerobot(Path(folder))
    info = json.loads((path / "meta/info.json").read_text())
    feature = {"dtype": "float32", "shape": [19], "names": names}
    info["features"] = {"observation.state": feature}
    (path / "meta/info.json").write_text(json.dumps(info))
    return path


@pytest.mark.parametrize("layout", NAMES)
def test_a_lerobot_folder_is_sorted_by_its_names(layout: str, lift: DiffusionPolicy) -> None:
    pytest.importorskip("pyarrow")
    right = [f"{part}_{i}" for part, size in LIFT.items() for i in range(size)]
    other = np.random.default_rng(1).permutation(19)
    plain, task = write_lerobot(Path("plain")), LiftTask()
    expected, content = read_content([str(plain)], "auto", (), task)
    named("right", NAMES[layout](right))
    same, same_content = read_content(["right"], "auto", (), task)
    np.testing.assert_array_equal(same.obs, expected.obs)
    named("other", NAMES[layout]([right[i] for i in other]))
    sorted_, sorted_content = read_content(["other"], "auto", (), task)
    np.testing.assert_array_equal(sorted_.obs[:, other], expected.obs)
    # the same files gave something else before they were sorted
    assert len({content, same_content, sorted_content}) == 3
    seen = demonstrated(CalibrationChoice(data="other"), lift, task)
    np.testing.assert_array_equal(np.concatenate(seen.obs), sorted_.obs)
    assert seen.content == sorted_content
    both, _ = read_content(["plain", "other"], "auto", (), task)  # each file for itself
    np.testing.assert_array_equal(both.obs, np.concatenate([expected.obs, sorted_.obs]))


def test_names_that_nobody_knows_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pyarrow")
    named("a", [f"motor_{i}" for i in range(19)])
    read_content(["a"], "auto", (), LiftTask())
    assert "a: no number of an observation has a name that is known (object, robot0" in caplog.text


def test_poses_are_recognised_whatever_the_files_order(capfd: pytest.CaptureFixture[str]) -> None:
    """The hand's place is looked for in the task's order, not in the file's."""
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    order = ["robot0_eef_quat", "robot0_gripper_qpos", "robot0_eef_pos", "object"]
    path = named("poses", order)
    file = path / "data/chunk-000/file-000.parquet"
    for part in path.glob("data/chunk-000/*.parquet"):
        rows = pyarrow.parquet.read_table(part).to_pylist()
        for row in rows:
            row["action"][:3] = row["observation.state"][6:9]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), part)
    assert file.exists()
    assert run([*SMALL, "runner.data=poses", "task.abs_action=false"]) == 2
    assert "actions look like poses, task.abs_action=false" in capfd.readouterr().err
    assert run([*SMALL, "runner.data=poses", "task.abs_action=true"]) == 0


def lift_states(sign: float) -> np.ndarray:
    """Observations of Lift; `sign` 1: as robosuite 1.4 has them, -1: as 1.5."""
    obs = np.concatenate([np.hstack(w[1:]) for w in PARTS]).astype(np.float64)
    obs[:, 7:10] = sign * (obs[:, 10:13] - obs[:, 0:3])
    obs[3, 7:10] = 0  # the first observation after a reset may be old
    return obs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_numbers_tell_robosuite_1_5_where_the_file_cannot(
    dtype: Any, lift: DiffusionPolicy
) -> None:
    action = np.concatenate([w[0] for w in PARTS])
    for name, sign in (("old.npz", 1), ("new.npz", -1)):
        obs = lift_states(sign).astype(dtype)
        write_npz(Path(name), state=None, obs=obs, action=action, episode_ends=[12, 21])
    read_content(["old.npz"], "auto", (), LiftTask())
    message = r"new\.npz: episode 0: object 7 to 9 must be the hand's place less the cube's"
    with pytest.raises(DatasetError, match=message):
        read_content(["old.npz", "new.npz"], "auto", (), LiftTask())
    with pytest.raises(UserError, match=f"^calibration.data: {message}"):
        demonstrated(CalibrationChoice(data="new.npz"), lift, LiftTask())


def test_what_the_simulator_gives_is_as_it_should_be() -> None:
    pytest.importorskip("robosuite")
    env = LiftTask().make_env()
    seen = [env.reset(seed=1)[0], *(env.step(np.full(7, 0.3))[0] for _ in range(5))]
    env.close()
    obs = np.array(seen)
    assert LiftTask().contradiction(obs) is None
    obs[:, 7:10] *= -1
    assert "object 7 to 9" in str(LiftTask().contradiction(obs))
