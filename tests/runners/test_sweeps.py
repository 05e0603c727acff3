"""Studies from one command: experiments, jobs that fail, and what a sweep says at its end."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from runners.cli import CONF, validate
from runners.errors import UserError
from runners.launch import sweeps as sweep
from runners.launch.sweeps import sweeps_of, unaccelerated, with_params
from tests.helpers import fake_episodes
from tests.helpers.fake_episodes import FIXTURE
from tests.helpers.places import PROJECT

PARAMS = {"task": "lift,kitchen", "cache": "uniform", "cache.steps": "5,10"}
ONE_TASK = ("task=kitchen", f"task.checkpoint={FIXTURE}")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "swept"),
    [
        ([], ["task=lift,kitchen", "cache=uniform", "cache.steps=5,10"]),
        (["task=lift"], ["cache=uniform", "cache.steps=5,10"]),
        (["task.max_steps=9"], ["task=lift,kitchen", "cache=uniform", "cache.steps=5,10"]),
        (["cache=none"], ["task=lift,kitchen"]),
        (["cache.steps=3"], ["task=lift,kitchen", "cache=uniform"]),
    ],
)
def test_what_is_typed_replaces_what_an_experiment_sweeps(
    typed: list[str], swept: list[str]
) -> None:
    assert with_params(typed, PARAMS) == [*swept, *typed]


ALSO = [{"cache": "none", "sampler": "ddim", "n_episodes": 9}, {"task": "lift", "n_episodes": 8}]
DDIM = ["task=lift,kitchen", "cache=none", "sampler=ddim"]
LIFT = ["cache=uniform", "cache.steps=5,10", "task=lift"]


@pytest.mark.parametrize(
    ("typed", "further"),
    [
        ([], [[*DDIM, "n_episodes=9"], [*LIFT, "n_episodes=8"]]),
        (["n_episodes=3"], [DDIM, LIFT]),
        (["cache=bac"], [["task=lift", "n_episodes=8"]]),
        (["task=kitchen"], [["cache=none", "sampler=ddim", "n_episodes=9"]]),
    ],
)
def test_further_sweeps_of_an_experiment(typed: list[str], further: list[list[str]]) -> None:
    first, *rest = sweeps_of(typed, PARAMS, ALSO)
    assert first == with_params(typed, PARAMS)
    assert rest == [[*words, *typed] for words in further]


def test_the_unaccelerated_sweep_keeps_everything_but_the_method() -> None:
    words = ["task=lift,kitchen", "cache=uniform", "+cache.steps=5", "sampler=ddim", "n_episodes=3"]
    assert unaccelerated(words) == [
        "task=lift,kitchen",
        "n_episodes=3",
        "cache=none",
        "quant=none",
        "sampler=checkpoint",
        "warm=none",
        "realtime.enabled=false",
    ]


def sizes(*words: str) -> list[int]:
    launches = validate(words)
    folders = [folder for launch in launches for folder in launch.folders]
    assert len(set(folders)) == len(folders), "two jobs of a study are the same run"
    return [len(launch.folders) for launch in launches]


@pytest.mark.parametrize(
    ("name", "n_jobs"),
    [
        ("ablation", [4, 1]),
        ("reference", [4, 1]),
        ("uniform_all", [1, 8]),
        ("bac_all", [1, 12]),
        ("dit_caches", [3, 1, 1, 1, 1]),
    ],
)
def test_an_experiment_is_a_whole_study(name: str, n_jobs: list[int]) -> None:
    names = {path.stem for path in CONF.glob("experiment/*.yaml")}
    sweeps = {"ablation", "reference", "quantised", "uniform_all", "bac_all", "dit_caches"}
    assert names == {*sweeps, "frontier"}  # whose arms are commands of their own
    assert sizes("-m", f"experiment={name}", *ONE_TASK) == n_jobs
    words = ("cache=none", "threads=1", *ONE_TASK)
    (*_, launch) = validate([f"experiment={name}", *words])
    assert launch.folders == validate([f"study={name}", *words])[0].folders


def test_published_studies_have_their_seeds() -> None:
    launches = validate(["experiment=reference"])
    assert [len(launch.folders) for launch in launches] == [4, 1, 1, 4, 1, 2, 3, 1, 1]
    hundred = [("n_episodes=100" in launch.argv) for launch in launches]
    assert hundred == [False] * 3 + [True] * 4 + [False] * 2
    assert [len(launch.folders) for launch in validate(["experiment=quantised"])] == [6, 3]
    both = validate(["experiment=dit_caches"])  # thresholds belong to a task
    assert [len(launch.folders) for launch in both] == [6, 2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_settings_of_a_swept_cache_are_left_to_the_jobs() -> None:
    (launch,) = validate(["-m", *ONE_TASK, "cache=uniform,bac", "cache.steps=5"])
    assert "cache.steps=choice(5)" in launch.argv  # Hydra would look for it in cache=none
    assert len(launch.folders) == 2


@pytest.mark.parametrize("name", ["submitit_local", "submitit_slurm"])
def test_launchers_are_configured(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"hydra/launcher={name}", "study=s"], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.startswith(sweep.PLUGINS["submitit"][0])
    assert launcher.submitit_folder == "multirun/s/.submitit/%j"


def test_workers_of_ray_import_ours_and_go_to_the_folder_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", sweep.FOLDER, "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")
    sweep.let_children_import(["hydra/launcher=ray"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["hydra/launcher=ray"], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.startswith(sweep.PLUGINS["ray"][0])
    given = launcher.ray.init.runtime_env
    module, _, name = given.worker_process_setup_hook.rpartition(".")
    for key, value in given.env_vars.items():
        monkeypatch.setenv(key, value)
    assert str(PROJECT) in given.env_vars.PYTHONPATH.split(os.pathsep)
    monkeypatch.chdir("/")
    getattr(import_module(module), name)()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra/launcher=joblib"], "submitit_local, submitit_slurm or ray, got joblib: joblib's"),
        (["hydra/launcher=ray"], 'needs hydra-ray-launcher: pip install "skipstep[ray]"'),
        (["hydra/launcher=submitit_slurm"], 'pip install "skipstep[slurm]"'),
    ],
)
def test_launchers_that_cannot_work_are_refused(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        validate(["-m", *words])
    assert said in str(error.value)


def test_fail_fast_is_refused_where_jobs_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="fail_fast=true needs hydra/launcher=basic"):
        validate(["-m", "hydra/launcher=submitit_local", "fail_fast=true"])


def status(name: str) -> Any:
    (folder,) = Path("multirun/main").glob(f"kitchen_{name}_*")
    return json.loads((folder / "status.json").read_text())["status"]


def broken(policy: Any, seed: int) -> None:
    if policy.plan.method.startswith("uniform") and seed == 100002:
        raise RuntimeError("the simulator caught fire")


SWEEP = ("-m", "n_episodes=4", "cache=uniform,none")


def test_a_job_that_fails_is_shown_and_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = fake_episodes.fake(monkeypatch, broken)
    assert fake_episodes.run(monkeypatch, *SWEEP) == 1
    assert played == [100000, 100001, 100000, 100001, 100002, 100003]
    assert (status("uniform"), status("none")) == ("failed", "finished")
    said = capsys.readouterr()
    assert "1 of 2 jobs finished" in said.out
    assert "failed: RuntimeError: the simulator caught fire" in said.out
    own = said.out[said.out.index("Traceback (most recent call last)") :]
    assert "in broken" in own
    assert "hydra" not in own
    assert "HYDRA_FULL_ERROR" not in said.err

    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *SWEEP) == 0
    assert played == [100002, 100003]  # what had not run
    lines = capsys.readouterr().out.splitlines()
    table = lines[lines.index("multirun/main: 2 of 2 jobs finished") :]
    assert "Traceback" not in "".join(table)
    (uniform,) = (line for line in table if line.startswith("kitchen: uniform "))
    (none,) = (line for line in table if line.startswith("kitchen: none "))
    assert "0.75 [0.30, 0.95] of 4  +0.00 [-0.49, +0.49]" in uniform
    assert none.split("  ")[-1] == "finished"
    assert "the baseline" in none


def test_fail_fast_ends_the_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = fake_episodes.fake(monkeypatch, broken)
    assert fake_episodes.run(monkeypatch, *SWEEP, "fail_fast=true") == 1
    assert played == [100000, 100001]
    assert "not started" in capsys.readouterr().out


def test_the_baseline_runs_first_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    words = ("n_episodes=4", "cache=uniform", "cache.steps=7", "baseline=true")
    assert fake_episodes.run(monkeypatch, *words) == 0
    assert status("none") == "finished"
    assert "against the unaccelerated policy on 4 seeds" in capsys.readouterr().out
    assert sys.argv[1:][-1] == "baseline=true"
    (folder,) = Path("multirun/main").glob("kitchen_none_*")
    command = json.loads((folder / "result.json").read_text())["command"]
    assert command.startswith("python run.py task.checkpoint=")
    assert "choice(" not in command


def test_only_jobs_that_finished_make_a_sweep_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(policy: Any, seed: int) -> None:
        raise KeyboardInterrupt

    fake_episodes.fake(monkeypatch, interrupted)
    assert fake_episodes.run(monkeypatch, *SWEEP) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert status("uniform") == "interrupted"


def test_training_seeds_are_an_axis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each checkpoint is a stratum with a baseline of its own."""
    fake_episodes.fake(monkeypatch)
    checkpoints = f"task.checkpoint={FIXTURE},{CONF.parent / 'checkpoints/kitchen'}"
    words = ("-m", "n_episodes=4", "cache=none,uniform", checkpoints)
    assert fake_episodes.run(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    table = out[out.index("multirun/main: 4 of 4 jobs finished") :].splitlines()[3:]
    assert len(table) == 4
    strata = [line.partition(":")[0] for line in table]
    assert all("checkpoint" in stratum for stratum in strata)
    assert len(set(strata)) == 2
    assert sum("the baseline" in line for line in table) == 2
    assert sum("+0.00 [" in line for line in table) == 2
    assert len(list(Path("multirun/main").glob("kitchen_*"))) == 4
