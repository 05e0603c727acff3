"""Whole trainings from the command line: killed, resumed, refused, evaluated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from policies import export_reference, load_policy, save_policy
from runners.cli import run
from tests.helpers import wandb_file
from tests.helpers.places import PROJECT
from tests.helpers.train_files import (
    LENGTHS,
    LIFT,
    episodes,
    write_lerobot,
    write_npz,
    write_robomimic,
)

SMALL = [
    "runner=train",
    "threads=1",
    "logger=none",
    "runner.n_layer=1",
    "runner.n_head=2",
    "runner.n_emb=16",
    "runner.num_train_timesteps=20",
    "runner.batch_size=8",
    "runner.val_ratio=0.3",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def train(*overrides: str) -> Path:
    """Run to the end, in this process; the run's folder."""
    before = set(Path.cwd().glob("multirun/main/*"))
    assert run([*SMALL, *overrides]) == 0
    (folder,) = set(Path.cwd().glob("multirun/main/*")) - before
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lift_from_robomimic(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_robomimic(Path("a.hdf5"))
    folder = train("task=lift", f"runner.data={data}", "runner.n_steps=60", "runner.lr=0.01")
    policy = load_policy(folder / "policy")
    assert (policy.horizon, policy.n_obs_steps, policy.n_action_steps) == (10, 2, 8)
    assert policy.config.task.name == "lift_lowdim"
    assert policy.config.task.abs_action is False
    assert policy.n_inference_steps == 20
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [50, 60]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["val_loss"] > 0
    result = json.loads((folder / "result.json").read_text())
    assert result["policy_fingerprint"] == policy.fingerprint()
    assert json.loads((folder / "status.json").read_text())["status"] == "finished"
    said = capfd.readouterr().out
    command = f"python run.py task=lift task.checkpoint={folder.relative_to(Path.cwd())}/policy"
    assert command in said


def test_the_normaliser_sees_the_training_split_only() -> None:
    data = write_robomimic(Path("a.hdf5"), masks={"train": ["demo_0", "demo_2"]})
    folder = train("task=lift", f"runner.data={data}", "runner.n_steps=1")
    policy = load_policy(folder / "policy")
    written = episodes(LENGTHS, [7, *LIFT.values()])
    action = np.concatenate([written[0][0], written[2][0]])
    stats = policy.normalizer.params_dict["action"]["input_stats"]
    np.testing.assert_allclose(stats["min"].numpy(), action.min(0))
    normalised = policy.normalizer.normalize("action", torch.from_numpy(action))
    torch.testing.assert_close(normalised.amax(0), torch.ones(7))
    torch.testing.assert_close(normalised.amin(0), -torch.ones(7))


def test_kitchen_from_npz_with_noise_and_rollouts() -> None:
    data = write_npz(Path("a.npz"), lengths=[30, 25, 40])
    folder = train(
        "task=kitchen",
        f"runner.data={data}",
        "task.max_steps=9",
        "runner.n_steps=4",
        "runner.rollout_every=2",
        "runner.rollout_episodes=1",
        "runner.rollout_steps=2",
        "runner.val_every=2",
        "runner.ema.power=0.9",
    )
    policy = load_policy(folder / "policy")
    assert (policy.obs_dim, policy.horizon, policy.n_obs_steps) == (60, 16, 4)
    assert policy.config.task.robot_noise_ratio == 0.1
    assert policy.config.task.abs_action is True
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [2, 4]
    assert all({"success_rate", "mean_score", "val_loss"} <= row.keys() for row in rows)


def test_lerobot_with_wandb_and_a_different_sampler() -> None:
    pytest.importorskip("pyarrow")
    data = write_lerobot(Path("set"))
    options = ["task=lift", f"runner.data={data}", "runner.n_steps=4", "runner.log_every=2"]
    folder = train(*options, "logger=offline", "sampler=ddim", "sampler.steps=5")
    assert load_policy(folder / "policy").config.sampler.kind == "ddim"
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    logged = wandb_file.read(file)
    rows = [row for row in logged["history"] if "train/loss" in row]
    assert [row["train/step"] for row in rows] == [2, 4]
    assert rows[1]["train/loss"] == metrics(folder)[1]["loss"]
    assert logged["summary"]["n_steps"] == 4
    assert logged["exit"] == 0


VARIANTS = [
    ["runner.obs_as_cond=false"],
    ["runner.causal_attn=false", "runner.pred_action_steps_only=true"],
    ["runner.n_cond_layers=1", "runner.prediction_type=sample", "runner.normalizer=gaussian"],
    ["runner.precision=bf16"],
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: list[str]) -> None:
    data = write_robomimic(Path("a.hdf5"))
    folder = train("task=lift", f"runner.data={data}", "runner.n_steps=2", *variant)
    policy = load_policy(folder / "policy")
    generator = torch.Generator().manual_seed(0)
    assert policy.act(torch.zeros(1, 2, 19), generator).isfinite().all()


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_robomimic(tmp_path / "a.hdf5")
    options = [
        *SMALL,
        "task=lift",
        f"runner.data={data}",
        "runner.n_steps=130",
        "runner.checkpoint_every=20",
        "runner.val_every=45",
        "runner.log_every=7",
    ]
    calm, cut = tmp_path / "calm", tmp_path / "cut"
    for folder in (calm, cut):
        folder.mkdir()
    command = [sys.executable, str(PROJECT / "run.py"), *options]
    process = subprocess.Popen(command, cwd=cut, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(cut.glob("multirun/main/*/checkpoints/s*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = cut.glob("multirun/main/*")
    assert not (left / "result.json").exists(), "too fast to be killed"
    for folder in (cut, calm):
        monkeypatch.chdir(folder)
        assert run(options) == 0
    folders = [next(root.glob("multirun/main/*")) for root in (calm, cut)]
    assert folders[0].name == folders[1].name
    for name in ("policy/weights.safetensors", "checkpoints/state.safetensors"):
        ours, theirs = (load_file(f / name) for f in folders)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), name
    assert metrics(folders[0]) == metrics(folders[1])
    said = (folders[1] / "run.log").read_text()
    assert "steps 1 to 130" in said
    assert said.count(" to 130") == 2
    capfd.readouterr()
    assert run(options) == 0
    assert "finished already" in capfd.readouterr().out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on_from_the_step_that_it_had_reached(
    sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the weights and metrics of one that nobody interrupts; no checkpoint is due before."""
    data = write_robomimic(tmp_path / "a.hdf5")
    options = [*SMALL, "task=lift", f"runner.data={data}", "runner.n_steps=150"]
    options += ["runner.log_every=40", "runner.val_every=50", "runner.checkpoint_every=150"]
    cut, calm = tmp_path / "cut", tmp_path / "calm"
    for folder in (cut, calm):
        folder.mkdir()
    command = [sys.executable, str(PROJECT / "run.py"), *options]
    process = subprocess.Popen(command, cwd=cut, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(cut.glob("multirun/main/*/metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted: run the same command again" in said
    assert "Traceback" not in said
    (left,) = cut.glob("multirun/main/*")
    assert json.loads((left / "status.json").read_text())["status"] == "interrupted"
    assert not list(left.rglob(".*.tmp"))
    with safe_open(left / "checkpoints/state.safetensors", framework="pt") as file:
        n_done = int(file.metadata()["n_updates"])
    assert 40 <= n_done < 150, "too fast to be interrupted"
    load_policy(left / "policy")
    for folder in (cut, calm):
        monkeypatch.chdir(folder)
        assert run(options) == 0
    assert f"steps {n_done + 1} to 150" in (left / "run.log").read_text()
    other = next(calm.glob("multirun/main/*"))
    for name in ("policy/weights.safetensors", "checkpoints/state.safetensors"):
        ours, theirs = (load_file(f / name) for f in (left, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), name
    assert metrics(left) == metrics(other)


def test_a_training_that_is_done_over_keeps_the_earlier_one(tmp_path: Path) -> None:
    data = write_robomimic(tmp_path / "a.hdf5")
    options = [*SMALL, "task=lift", f"runner.data={data}", "runner.n_steps=4"]
    assert run(options) == 0
    (folder,) = Path().glob("multirun/main/*")
    finished = load_file(folder / "policy/weights.safetensors")
    assert run([*options, "force=true"]) == 0
    assert (folder / "previous/0/checkpoints/state.safetensors").exists()
    again = load_file(folder / "policy/weights.safetensors")
    assert all(torch.equal(again[k], v) for k, v in finished.items())


def test_a_damaged_state_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_robomimic(Path("a.hdf5"))
    options = ["task=lift", f"runner.data={data}", "runner.n_steps=2"]
    folder = train(*options)
    (folder / "result.json").unlink()
    state = folder / "checkpoints/state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    capfd.readouterr()
    assert run([*SMALL, *options]) == 2
    assert "is damaged" in capfd.readouterr().err
    assert run([*SMALL, *options, "force=true"]) == 0
    assert (folder / "previous/0/checkpoints/state.safetensors").exists()
    assert load_policy(folder / "policy")


def test_what_changes_the_weights_changes_the_folder() -> None:
    data = write_robomimic(Path("a.hdf5"))
    options = ["task=lift", f"runner.data={data}", "runner.n_steps=2"]
    train(*options)
    train(*options, "runner.seed=1")
    assert run([*SMALL, *options, "runner.val_every=1", "runner.checkpoint_every=1"]) == 0
    assert len(list(Path("multirun/main").iterdir())) == 2
    copy = Path("copy.hdf5")
    copy.write_bytes(data.read_bytes())
    assert run([*SMALL, "task=lift", f"runner.data={copy}", "runner.n_steps=2"]) == 0
    assert len(list(Path("multirun/main").iterdir())) == 2  # the content counts, not the name


def test_no_data_means_what_the_study_collected(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "lift.hdf5")
    for n in (1, 2):
        folder = Path(f"multirun/main/collect_{n}")
        folder.mkdir(parents=True)
        result = {"runner": "collect", "task": "lift", "dataset": str(tmp_path / "lift.hdf5")}
        (folder / "result.json").write_text(json.dumps(result))
        expected = 0 if n == 1 else 2  # two datasets: which one is the user's to say
        assert run([*SMALL, "task=lift", "runner.n_steps=1", f"runner.seed={n}"]) == expected


def test_init_goes_on_from_a_policy() -> None:
    first = write_robomimic(Path("a.hdf5"))
    second = write_robomimic(Path("b.hdf5"), lengths=(20, 14))
    start = train("task=lift", f"runner.data={first}", "runner.n_steps=3") / "policy"
    options = ["task=lift", f"runner.data={second}", f"runner.init={start}"]
    stays = ["runner.n_steps=1", "runner.warmup=1"]  # the first step of a warm-up has rate 0
    untouched = train(*options, *stays)
    assert json.loads((untouched / "result.json").read_text())["init"] == str(start)
    assert load_policy(untouched / "policy").fingerprint() == load_policy(start).fingerprint()
    moved = train(*options, "runner.n_steps=4", "runner.warmup=0", "runner.p_drop_attn=0.2")
    ours, theirs = (load_policy(f).state_dict() for f in (moved / "policy", start))
    same = {name for name, tensor in theirs.items() if torch.equal(ours[name], tensor)}
    normaliser = {name for name in theirs if name.startswith("normalizer.")}
    assert same - {"model.mask", "model.memory_mask"} == normaliser
    before = set(Path("multirun/main").iterdir())
    export_reference(load_policy(start), "same.ckpt")
    assert run([*SMALL, *options[:2], "runner.init=same.ckpt", *stays]) == 0
    assert set(Path("multirun/main").iterdir()) == before
    save_policy(load_policy(moved / "policy"), start, torch.float32)
    train(*options, *stays)  # the content of the policy counts, not its name or format
    assert len(set(Path("multirun/main").iterdir()) - before) == 1


def test_an_ended_training_with_init_goes_on_to_the_same_weights() -> None:
    data = write_robomimic(Path("a.hdf5"))
    start = train("task=lift", f"runner.data={data}", "runner.n_steps=3") / "policy"
    options = [
        "task=lift",
        f"runner.data={data}",
        f"runner.init={start}",
        "runner.n_steps=6",
        "runner.warmup=0",
        "runner.checkpoint_every=3",
    ]
    folder = train(*options)
    expected = load_policy(folder / "policy").fingerprint()
    (folder / "result.json").unlink()
    assert run([*SMALL, *options]) == 0
    assert "steps 7 to 6" in (folder / "run.log").read_text()
    assert load_policy(folder / "policy").fingerprint() == expected


INIT_MISTAKES = {
    "runner.n_layer=2": "has n_layer=1, this training has 2: both must be the same",
    "runner.n_emb=32": "has n_emb=16, this training has 32",
    "runner.horizon=12": "has horizon=10, this training has 12",
    "runner.num_train_timesteps=50": "has num_train_timesteps=20, this training has 50",
    "runner.prediction_type=sample": "has prediction_type=epsilon, this training has sample",
    "runner.obs_as_cond=false": "has input_dim=7, this training has 26",
    "task=kitchen runner.data=kitchen.npz": "has obs_dim=19, this training has 60",
    "task.abs_action=true": "lift.hdf5: actions look like changes of pose, task.abs_action=true",
    "runner.init=nowhere": "runner.init: no checkpoint at nowhere",
    "runner.init=lift.hdf5": "lift.hdf5",
}


def test_an_init_of_another_kind_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    write_robomimic(Path("lift.hdf5"))
    write_npz(Path("kitchen.npz"), obs_dim=60)
    start = train("task=lift", "runner.data=lift.hdf5", "runner.n_steps=1") / "policy"
    for command, message in INIT_MISTAKES.items():
        capfd.readouterr()
        base = [*SMALL, "task=lift", "runner.data=lift.hdf5", f"runner.init={start}"]
        assert run([*base, *command.split()]) == 2, command
        said = capfd.readouterr().err
        assert said.startswith("error: ")
        assert len(said.strip().splitlines()) == 1
        assert message in said
    assert len(list(Path("multirun/main").iterdir())) == 1


MISTAKES = {
    "": "null takes what runner=collect task=lift wrote in study=main, which is not there",
    "runner.data=[]": "runner.data must name a dataset (HDF5, npz, a LeRobot folder), got []",
    "runner.data=nowhere.npz": "runner.data: no dataset at nowhere.npz",
    "runner.data=lift.hdf5 runner.kind=zarr": "runner.kind must be auto or one of robomimic, ",
    "runner.data=lift.hdf5 runner.obs_keys=[eef]": "demo_0: no obs/eef in it, it holds actions",
    "runner.data=lift.hdf5 runner.obs_keys=[object]": "observation has 10 numbers, task=lift needs",
    "runner.data=lift.hdf5 task=kitchen": "lift.hdf5: demo_0: no obs/obs in it",
    "runner.data=kitchen.npz": "episode 0: observation has 59 numbers, task=lift needs 19",
    "runner.data=lift.hdf5 runner.lr=0": "runner.lr must be positive, got 0",
    "runner.data=lift.hdf5 runner.n_steps=0": "runner.n_steps must be at least 1, got 0",
    "runner.data=lift.hdf5 runner.n_steps=9 runner.warmup=10": "runner.warmup must be at most n_st",
    "runner.data=lift.hdf5 runner.val_ratio=1": "runner.val_ratio must be from 0 to 1, got 1",
    "runner.data=lift.hdf5 runner.precision=fp8": "runner.precision must be one of auto, fp32, ",
    "runner.data=lift.hdf5 runner.horizon=3": "n_action_steps must be from 1 to 2",
    "runner.data=lift.hdf5 runner.horizon=40": "no episode is long enough for runner.horizon=40",
    "runner.data=lift.hdf5 runner.n_emb=10": "network.n_emb must be even, a multiple of",
    "runner.data=lift.hdf5 runner.obs_noise=0.1": "runner.obs_noise must be 0 or null for task=l",
    "runner.data=lift.hdf5 runner.ema.power=x": "runner.ema.power must be a number, got 'x'",
    "runner.data=lift.hdf5 runner.epochs=3": "runner.epochs: unknown key, allowed: name, data",
    "runner.data=lift.hdf5 runner.prediction_type=x0": "sampler.prediction_type must be one of",
    "runner.data=lift.hdf5 cache=uniform": "cache must be none with runner=train, got uniform",
    "runner=tarin": "runner must be one of calibrate,",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_robomimic(Path("lift.hdf5"))
    write_npz(Path("kitchen.npz"))
    assert run(["runner=train", "task=lift", "threads=1", "logger=none", *command.split()]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert MISTAKES[command] in captured.err
    assert not Path("multirun").exists()


def test_published_trainings_keep_their_names() -> None:
    """A new setting that is at its default must not make another run of what is there."""
    write_npz(Path("k.npz"))  # the same bytes each time, unlike HDF5
    options = ["runner=train", "task=kitchen", "runner.data=k.npz", "threads=1", "logger=none"]
    small = ["runner.n_steps=1", "runner.n_layer=1", "runner.n_emb=16"]
    assert run([*options, *small]) == 0
    (folder,) = Path("multirun/main").iterdir()
    assert folder.name == "kitchen_train_s0_07c9deb2"
