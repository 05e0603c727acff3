"""What bad input gets: exit code 2, one line, nothing written."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest

from runners.cli import run, validate
from tests.helpers.places import FIXTURES

FIXTURE = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"

TASKS = "can, kitchen, libero, lift, metaworld, pusht, square, tool_hang, transport"
NO_EXPERT = "runner.source=expert is there for task=lift, can, square, metaworld,"
MISTAKES = {
    "cache=hashab": "cache must be one of bac, deepcache, first_block, hash_ab, inter",
    "cache=bac cache.metric=l3": "cache.metric must be one of cos, mse, l1, l2, got 'l3'",
    "cache=bac cache.steps=101": "cache.steps must be at most 100 (the steps of the sampler)",
    "cache=hash_ab cache.forecast=abm": "cache.forecast=abm is not offered: it is implicit",
    "cache=hash_ab cache.order=5": "cache.order must be from 1 to 4, got 5",
    "cache=hash_ab cache.scope=some": "cache.scope must be one of bu, all, got 'some'",
    "cache=uniform cache.budget=3": "cache.budget: unknown key, allowed: name, steps, spacing",
    "cache=uniform +cache.budget=3": "cache.budget: unknown key, allowed: name, steps, spacing",
    "nonsense=1": "nonsense: unknown key, allowed: task, cache",
    "cache=uniform cache.steps=abc": "cache.steps must be a whole number, got 'abc'",
    "n_episodes=x": "n_episodes must be a whole number, got 'x'",
    "n_envs=0": "n_envs must be 'auto' or a number from 1 to max_envs=16, got 0",
    "n_envs=1000": "n_envs must be 'auto' or a number from 1 to max_envs=16, got 1000",
    "n_envs=many": "n_envs must be auto or a number, got 'many'",
    "n_episodes=0": "n_episodes must be at least 1, got 0",
    "policy_batch=0": "policy_batch must be at least 1, got 0",
    "latency.repeats=-1": "latency.repeats must be at least 0",
    "latency.warmup=-1": "latency.warmup must be at least 0, got -1",
    "latency.max_s=0": "latency.max_s must be above 0, got 0.0",
    "latency.max_s=nan": "latency.max_s must be above 0, got nan",
    "latency.precision=1": "and below 1, got 1.0",
    "latency.precision=-0.1": "latency.precision must be at least 0",
    "cache=uniform cache.steps=0": "cache.steps must be at least 1, got 0",
    "cache=uniform cache.steps=101": "cache.steps must be at most 100 (the steps of the sampler)",
    "cache=uniform cache.steps=17 sampler=ddim sampler.steps=16": "cache.steps must be at most 16",
    "cache=uniform cache.spacing=cubic": "cache.spacing must be one of even, quadratic, power",
    "sampler=ddim sampler.steps=101": "sampler.steps must be from 1 to 100",
    "sampler=ddim sampler.steps=0": "sampler.steps must be at least 1, got 0",
    "sampler=ddim sampler.variance_type=fixed_large": "sampler.variance_type exists for ddpm only",
    "sampler=ddpm sampler.variance_type=learned": "sampler.variance_type must be one of fixed",
    "device=tpu": "device must be cpu or cuda[:n], got 'tpu'",
    "device=cuda:99": "device cuda:99 is not there",
    "study=a/b": "study must be a folder name, got 'a/b'",
    "task.checkpoint=nowhere": "task.checkpoint: no checkpoint at nowhere; ",
    "calibration=nowhere cache=bac": "calibration.path: no calibration at nowhere/calibration.json",
    "task=lift task.checkpoint=checkpoints/kitchen": "was trained for kitchen_lowdim",
    "task.abs_action=false": "task.abs_action=False contradicts the checkpoint",
    "task.success_tasks=8": "task.success_tasks must be 1 to 7, got 8",
    "task.weights=best": "weights must be one of auto, ema, model, got 'best'",
    "task.pick=newest": "task.pick must be best or latest, got 'newest'",
    "task.checkpoint=a=b.ckpt": "task.checkpoint: a value with an = is quoted twice",
    "hydra.run.dir=/proc/nowhere": "cannot write to /proc/nowhere",
    "logger=wandb": "logger=wandb needs a key",
    "runner=colect": "runner must be one of calibrate, collect, evaluate, search",
    "runner=collect": f"{NO_EXPERT} got task=kitchen",
    "runner=collect task=lift cache=uniform": "cache must be none with runner.source=expert",
    "runner=collect task=lift task.abs_action=true": "runner.source=expert acts relatively",
    "runner=collect task=lift runner.source=human": "runner.source must be one of expert, policy",
    "runner=collect task=lift runner.format=zarr": "runner.format must be one of robomimic, lerob",
    "runner=collect task=lift runner.noise=-1": "runner.noise must be at least 0, got -1.0",
    "runner=collect task=lift runner.valid_share=1": "runner.valid_share must be from 0 to below 1",
    "runner=collect task=lift runner.start_seed=99951": "seeds 99951 to 100000 reach the test seed",
    "runner=collect task=lift runner.start_seed=-1": "runner.start_seed must be at least 0, got -1",
    "runner=collect task=lift runner.sigma=1": "runner.sigma: unknown key, allowed: name, source",
    "runner=collect task=lift runner.out=/proc/no/a.hdf5": "cannot write to /proc/no",
    "-m cache=none,uniform task=lift,oven": f"task must be one of {TASKS}, got 'oven'",
    "task=transport": "task.checkpoint must be text, got null: the folder or file of a policy",
    "-m task=lift,transport": "task.checkpoint must be text, got null: the folder or file of a",
    "task=pusht task.checkpoint=checkpoints/lift": "trained for lift_lowdim, not for task=pusht",
    "task=pusht task.obs=pixels task.checkpoint=nowhere": "task.checkpoint: no checkpoint at",
    "runner=collect task=pusht": f"{NO_EXPERT} got task=pusht",
    "runner=train task=pusht task.obs=pixels": "task.obs must be one of auto, keypoints, state, c",
    "runner=train task=pusht task.image_size=big": "task.image_size must be a whole number or null",
    "-m cache=uniform cache.steps=10,0": "cache.steps must be at least 1, got 0",
    "sampler=null": "sampler must be one of checkpoint, ddim, ddpm, dpmpp, euler, rk4, got null",
    "cache=null": "cache must be one of bac, deepcache, first_block, hash_ab",
    "task=null": f"task must be one of {TASKS}, got null",
    "quant=null": "quant must be one of duquant, none, rtn, smooth, got null",
    "engine=null": "engine must be one of fused, reference, got null",
    "logger=null": "logger must be one of none, offline, wandb, got null",
    "runner=null": "runner must be one of calibrate, collect, evaluate",
    "experiment=null": "experiment must be one of ablation",
    "-m cache=none,null": "cache must be one of bac",
    "-m cache=nope,none": "uniform, got 'nope'",
    "experiment=nope": "experiment must be one of ablation, bac_all",
    "also=3": "also is set by an experiment, not on the command line, got 3",
    "also=[3]": "also is set by an experiment, not on the command line, got [3]",
    "also={a:1}": "also is set by an experiment, not on the command line, got {a:1}",
    "-m also=null": "also is set by an experiment, not on the command line, got null",
    "cache=uniform,none": "cache=uniform,none: several values need -m",
    "sampler=ddim sampler.steps=5,10": "sampler.steps=5,10: several values need -m",
    "-m experiment=frontier,ablation": "experiment cannot be swept, got frontier,ablation",
    "film=3": "film must be a list of whole numbers or null, got 3",
    "film=[a]": "film must be a list of whole numbers or null, got ['a']",
    "film={a:1}": "film must be a list of whole numbers or null, got {'a': 1}",
    "latency=null": "latency must be a mapping of warmup, repeats, max_s, precision, got null",
    "latency.max_s=abc": "latency.max_s must be a number, got 'abc'",
    "+latency.often=3": "latency.often: unknown key, allowed: warmup, repeats",
    "task.checkpoint=null": "task.checkpoint must be text, got null",
    "+realtime.x=3": "realtime.x: unknown key, allowed: enabled, latency_ms, from",
    "baseline=3": "baseline must be true or false, got 3",
    "realtime=3": "realtime.enabled must be true, false or null, got 3",
    "calibration.force=1": "calibration.force must be true or false, got 1",
    "quant=8": "quant must be one of duquant, none, rtn, smooth, got 8",
    "hydra.job.chdir=true": "hydra.job.chdir must be false, got true",
    "-m hydra.job.chdir=true": "hydra.job.chdir must be false, got true",
    "cache=uniform cache.steps=${sampler.stepz}": "Interpolation key 'sampler.stepz' not found",
    "cache=uniform cache.steps=${study}": "cache.steps must be a whole number, got 'main'",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # no W&B key of this user
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = set(Path.cwd().rglob("*"))
    assert run(argv) == 2
    assert set(Path.cwd().rglob("*")) == before
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MISTAKES[command] in refused(command.split(), capsys)


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_setting_of_one_group_may_stand_for_one_of_another(multirun: list[str]) -> None:
    words = [*multirun, "cache=uniform", "cache.steps=${sampler.steps}", "sampler=ddim"]
    (launch,) = validate([*words, "sampler.steps=20"])
    (same,) = validate(
        [*multirun, "cache=uniform", "cache.steps=20", *words[-1:], "sampler.steps=20"]
    )
    assert launch.folders == same.folders


def test_a_truncated_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cut.ckpt").write_bytes(FIXTURE.read_bytes()[:50_000])
    assert "cut.ckpt" in refused(["task.checkpoint=cut.ckpt"], capsys)


def test_a_checkpoint_that_would_run_code(capsys: pytest.CaptureFixture[str]) -> None:
    class Gadget:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("touch ran",)

    with zipfile.ZipFile("evil.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"cfg": Gadget(), "state_dicts": {}}, 2))
        archive.writestr("archive/byteorder", "little")
    line = refused(["task.checkpoint=evil.ckpt"], capsys)
    assert "system" in line
    assert not Path("ran").exists()


def test_a_folder_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    Path("half").mkdir()
    Path("half/policy.yaml").write_text("schema: skipstep-policy/1\n")
    assert "half" in refused(["task.checkpoint=half"], capsys)


def test_missing_ema_weights(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["task.weights=model", "task.checkpoint=checkpoints/kitchen"], capsys)
    assert "weights=model" in line
