"""Trainings on images from the command line: losses, crops, averages, kills, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from envs import TASKS
from envs.worker import PLUGINS
from policies import load_policy
from policies.encoders import encoder as encoders
from runners import plugins
from runners.cli import job_of, run
from runners.jobs.demonstrations import demonstrated
from runners.jobs.settings import CalibrationChoice
from runners.train.observing import EncoderChoice
from runners.train.state import load_state, save_state
from runners.train.trainer import Trainer
from skipstep.observations import ObservationSpec, each
from tests.helpers.image_files import Arrays, episodes, write_lerobot, write_robomimic
from tests.helpers.picture import picture
from tests.helpers.places import PROJECT
from tests.helpers.train_files import write_robomimic as write_lift

PLUGIN = "tests.helpers.picture_plugin"
SHAPE, FPS = (3, 36, 40), 10
SMALL = [
    *(f"plugins=[{PLUGIN}]", "runner=train", "task=picture", "threads=1", "logger=none"),
    *("runner.unet.down_dims=[16,32]", "runner.unet.n_groups=4", "runner.num_train_timesteps=20"),
    *("runner.unet.kernel_size=3", "runner.unet.diffusion_step_embed_dim=16"),
    *("runner.encoder.feature_dim=8", "runner.encoder.n_keypoints=8"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    yield
    if PLUGIN in plugins.LOADED:  # other tests say which tasks there are
        sys.modules[PLUGIN].widths(sys.modules[PLUGIN].USUAL)
        del plugins.LOADED[PLUGIN], sys.modules[PLUGIN], TASKS["picture"]
        plugins.ADDED.discard(("TASKS", "picture"))
        PLUGINS.remove(PLUGIN)


def demonstrations(lengths: tuple[int, ...] = (9, 7, 12)) -> list[Arrays]:
    """What is done shows in the picture alone: the state has nothing to do with it."""
    rng = np.random.default_rng(0)
    found = []
    for n in lengths:
        hidden = rng.uniform(-1, 1, (n, 3))
        images = np.stack([picture(x, SHAPE) for x in hidden]).transpose(0, 2, 3, 1)
        found.append(
            {
                "action": np.tanh(2 * hidden[:, :2]).astype(np.float32),
                "state": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
                "image.top": images,
            }
        )
    return found


def train(*overrides: str) -> Path:
    before = set(Path.cwd().glob("multirun/main/*"))
    assert run([*SMALL, *overrides]) == 0
    (folder,) = set(Path.cwd().glob("multirun/main/*")) - before
    return folder


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def observed(n: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (n, 2, *SHAPE), generator=generator, dtype=torch.uint8)
    return {"state": torch.zeros(n, 2, 3), "image.top": image}


def act(policy: Any) -> torch.Tensor:
    return policy.act(observed(), [torch.Generator().manual_seed(i) for i in range(2)])


def test_a_policy_of_images_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_lerobot(Path("set"), demonstrations(), "v2.1")
    folder = train(f"runner.data={data}", "runner.n_steps=3")
    assert metrics(folder)[-1]["val_loss"] > 0
    policy = load_policy(folder / "policy")
    assert policy.obs_spec == ObservationSpec.of({"state": 3, "image.top": SHAPE}, 10)
    assert policy.sizes.family == "unet"
    encoder = policy.config.encoder
    assert (encoder.backbone, encoder.norm, encoder.crop) == ("resnet18", "group", [32, 36])
    assert act(policy).isfinite().all()
    result = json.loads((folder / "result.json").read_text())
    assert result["policy_fingerprint"] == policy.fingerprint()
    parameters = [*policy.model.parameters(), *policy.encoder.parameters()]
    assert result["n_parameters"] == sum(p.numel() for p in parameters)
    assert "task.checkpoint=" in capfd.readouterr().out


def colours() -> list[Arrays]:
    """What is done is how red and how green the picture is."""
    episodes = demonstrations()
    for arrays in episodes:
        seen = arrays["image.top"] = np.zeros_like(arrays["image.top"])
        seen[..., :2] = (127.5 * (1 + arrays["action"]))[:, None, None]
        arrays["state"][:] = 0
    return episodes


def test_what_is_learnt_is_seen() -> None:
    write_lerobot(Path("set"), colours())
    words = ["runner.lr=0.001", "runner.prediction_type=sample", "runner.encoder.pool=average"]
    training = trainer(*words, "runner.n_steps=40", "runner.val_ratio=0")
    windows = training.job.train

    def loss() -> float:
        training.policy.eval()
        numbers = np.arange(len(windows))
        with torch.no_grad():
            found = [training.loss(training.policy, windows, numbers, 9, i) for i in range(5)]
        training.policy.train()
        return float(torch.stack(found).mean())

    before = loss()
    for step in range(40):
        training.update(step)
    after = loss()
    assert after < 0.65 * before
    images = windows.data.obs["image.top"][:]
    windows.data.obs["image.top"] = images[np.random.default_rng(0).permutation(len(images))]
    assert loss() > 1.2 * after


FORMATS = {
    "stills": lambda folder: write_lerobot(folder, demonstrations(), "v3.0"),
    "videos": lambda folder: write_lerobot(folder, demonstrations(), "v3.0", "video"),
    "robomimic": lambda folder: write_robomimic(folder.with_suffix(".hdf5"), demonstrations()),
}


def test_the_format_does_not_change_a_weight(tmp_path: Path) -> None:
    """Videos without loss."""
    weights = []
    for name, write in FORMATS.items():
        data = write(tmp_path / name)
        folder = train(f"runner.data={data}", "runner.n_steps=3", "runner.warmup=0")
        weights.append(load_file(folder / "policy/weights.safetensors"))
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())


VARIANTS = {
    "transformer": (
        *("runner.family=transformer", "runner.n_layer=1", "runner.n_head=2", "runner.n_emb=16"),
        *("~runner.unet.down_dims", "~runner.unet.n_groups", "~runner.unet.kernel_size"),
        "~runner.unet.diffusion_step_embed_dim",
    ),
    "imagenet, no crop, the mean of features": (
        *("runner.encoder.normalizer=imagenet", "runner.encoder.crop_ratio=1"),
        *("runner.encoder.pool=average", "runner.encoder.feature_dim=null"),
    ),
    "batch norm, resized": ("runner.encoder.norm=batch", "runner.encoder.resize=[24,24]"),
    "bf16": ("runner.precision=bf16", "runner.encoder.crop=[20,30]"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str) -> None:
    data = write_lerobot(Path("set"), demonstrations((9,)))
    small = [word for word in SMALL if variant != "transformer" or "unet" not in word]
    words = [word for word in VARIANTS[variant] if not word.startswith("~")]
    assert (
        run([*small, f"runner.data={data}", "runner.n_steps=2", "runner.val_ratio=0", *words]) == 0
    )
    (folder,) = Path().glob("multirun/main/*")
    policy = load_policy(folder / "policy")
    assert act(policy).isfinite().all()
    params = policy.normalizer.params("image.top")
    scale = [1 / 0.229, 1 / 0.224, 1 / 0.225] if "imagenet" in variant else [2.0] * 3
    torch.testing.assert_close(params["scale"].flatten(), torch.tensor(scale))


def test_a_unet_of_numbers_alone() -> None:
    data = write_lift(Path("a.hdf5"), lengths=(24, 30))
    words = [word for word in SMALL if "encoder" not in word and "picture" not in word]
    words += ["task=lift", f"runner.data={data}", "runner.n_steps=20", "runner.lr=0.003"]
    words += ["runner.family=unet", "runner.horizon=16", "runner.log_every=10"]
    assert run([*words, "runner.batch_size=8"]) == 0
    (folder,) = Path().glob("multirun/main/*")
    policy = load_policy(folder / "policy")
    assert str(policy.sizes) == "UNet of widths 16, 32"
    assert metrics(folder)[-1]["loss"] < metrics(folder)[0]["loss"]
    generator = torch.Generator().manual_seed(0)
    assert policy.act(torch.zeros(1, 2, 19), generator).shape == (1, 8, 7)


def test_numbers_of_two_arrays(capfd: pytest.CaptureFixture[str]) -> None:
    """PushT's corners: an encoder without weights, which puts them side by side."""
    spec = ObservationSpec.of({"state": 2, "environment_state": 16}, 10)
    data = write_lerobot(Path("set"), episodes(spec, (20, 24)))
    words = ["runner=train", "task=pusht", "task.obs=corners", "threads=1", "logger=none"]
    words += ["runner.n_layer=1", "runner.n_head=2", "runner.n_emb=16", "runner.batch_size=8"]
    words += [f"runner.data={data}", "runner.num_train_timesteps=20", "runner.n_steps=4"]
    assert run(words) == 0
    (folder,) = Path().glob("multirun/main/*")
    policy = load_policy(folder / "policy")
    assert policy.obs_spec == spec
    assert (policy.sizes.family, policy.n_encoder_parameters) == ("transformer", 0)
    low = policy.normalizer.params("environment_state")["input_stats"]["min"]
    assert low.shape == (16,)
    noise = [torch.Generator()]
    obs = {name: torch.zeros(1, 2, *spec[name].shape) for name in spec}
    assert policy.act(obs, noise).shape == (1, 8, 2)
    said = refused(capfd, *words, "runner.encoder.norm=batch")
    assert "runner.encoder is of images, task=pusht shows state, environment_state alone" in said


def trainer(*overrides: str) -> Trainer:
    data = write_lerobot(Path("set"), demonstrations()) if not Path("set").exists() else "set"
    return Trainer(job_of([*SMALL, f"runner.data={data}", "runner.warmup=0", *overrides]))


def test_crops_are_random_in_training_and_central_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places: dict[str, list[tuple[int, int]]] = {"random": [], "center": []}

    def watched(kind: str, crop: Any) -> Any:
        def cut(images: torch.Tensor, size: list[int]) -> torch.Tensor:
            _, _, height, width = images.shape
            grid = torch.arange(float(height * width)).reshape(1, 1, height, width)
            first = crop(torch.cat([grid.expand(len(images), -1, -1, -1), images], 1), size)
            places[kind] += [divmod(int(x), width) for x in first[:, 0, 0, 0]]
            return first[:, 1:]

        return cut

    for kind in places:
        name = f"{kind}_crop"
        monkeypatch.setattr(encoders, name, watched(kind, getattr(encoders, name)))
    training = trainer()
    training.update(0)
    assert len(places["random"]) == 16  # 8 windows of 2 steps
    assert len(set(places["random"])) > 8
    assert {0 <= top <= 4 and 0 <= left <= 4 for top, left in places["random"]} == {True}
    assert not places["center"]
    training.validate()
    act(training.ema.policy)
    assert set(places["center"]) == {(2, 2)}
    first = list(places["random"])
    trainer().update(0)
    assert places["random"] == 2 * first  # by the seed and the step alone
    trainer("runner.seed=1").update(0)
    assert places["random"][32:] != first


def test_the_encoder_is_trained_decays_and_is_averaged() -> None:
    training = trainer("runner.ema.min_value=0.5", "runner.weight_decay=0.25")
    network, encoder = training.optimizer.param_groups
    assert (network["weight_decay"], encoder["weight_decay"]) == (0.25, 1e-6)
    assert network["betas"] == encoder["betas"] == (0.95, 0.999)
    assert {id(p) for p in encoder["params"]} == {
        id(p) for p in training.policy.encoder.parameters()
    }
    expected = {k: v.clone() for k, v in training.policy.encoder.state_dict().items()}
    for step in range(4):
        training.update(step)
        decay = training.ema.config.decay(step)
        for name, value in training.policy.encoder.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    averaged = training.ema.policy.encoder.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name], value, atol=1e-6, rtol=1e-5)
    moved = (
        training.policy.encoder.nets[0].backbone[0].weight - averaged["nets.0.backbone.0.weight"]
    )
    assert moved.abs().max() > 1e-6


def test_norms_over_batches_keep_their_own_statistics() -> None:
    training = trainer("runner.encoder.norm=batch", "runner.ema.min_value=0.9")
    for step in range(3):
        training.update(step)
    ours, theirs = (p.encoder.state_dict() for p in (training.ema.policy, training.policy))
    norms = [name for name in ours if ".bn1." in name]
    assert any("running_mean" in name for name in norms)
    assert all(torch.equal(ours[name], theirs[name]) for name in norms)
    assert not torch.equal(ours["nets.0.backbone.0.weight"], theirs["nets.0.backbone.0.weight"])


def test_initial_weights_of_an_encoder() -> None:
    first, again = trainer().policy.encoder, trainer().policy.encoder
    other = trainer("runner.seed=1").policy.encoder
    for (name, ours), (_, same), (_, others) in zip(
        first.named_parameters(), again.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(ours, same), name
        if ours.ndim == 1 and "backbone" in name:
            assert torch.equal(ours, torch.full_like(ours, float(name.endswith("weight")))), name
            continue
        assert not torch.equal(ours, others), name
    for layer in (first.nets[0].backbone[0], first.nets[0].backbone[7][0].conv1):
        weight = layer.weight.detach()
        assert weight.std() == pytest.approx((2 / weight[:, 0].numel()) ** 0.5, rel=0.05)
    out = first.nets[0].out.weight.detach()
    assert 0.2 < out.abs().max() <= 0.25  # 1 / sqrt(16 numbers)


def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_lerobot(tmp_path / "set", demonstrations())
    options = [*SMALL, f"runner.data={data}", "runner.n_steps=20", "runner.checkpoint_every=5"]
    options += ["runner.log_every=3", "runner.batch_size=4"]
    calm, cut = tmp_path / "calm", tmp_path / "cut"
    for folder in (calm, cut):
        folder.mkdir()
    command = [sys.executable, str(PROJECT / "run.py"), *options]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=cut, stderr=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 120
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
    assert (folders[1] / "run.log").read_text().count(" to 20") == 2


def test_a_state_has_the_statistics_of_norms_over_batches(tmp_path: Path) -> None:
    words = ["runner.encoder.norm=batch", "runner.n_steps=9"]
    first, second = trainer(*words), trainer(*words)
    for step in range(3):
        first.update(step)
    save_state(tmp_path / "state", first.policy, first.ema.policy, first.optimizer, 3)
    taken = load_state(tmp_path / "state", second.policy, second.ema.policy, second.optimizer)
    assert taken == (3, [])
    for training in (first, second):
        training.update(3)
    for ours, theirs in ((first.policy, second.policy), (first.ema.policy, second.ema.policy)):
        there = theirs.state_dict()
        assert all(torch.equal(value, there[name]) for name, value in ours.state_dict().items())


def test_what_changes_the_weights_changes_the_folder() -> None:
    data = write_lerobot(Path("set"), demonstrations((9,)))
    job = [*SMALL, f"runner.data={data}", "runner.n_steps=1", "runner.val_ratio=0"]
    names = {
        words: job_of([*job, *words.split()]).name
        for words in (
            *("", "runner.cache_mb=1", "runner.family=unet", "runner.encoder.norm=batch"),
            *("runner.encoder.crop_ratio=0.8", "runner.encoder.normalizer=imagenet"),
            *("runner.unet.n_groups=8", "runner.weight_decay=1e-3", "runner.encoder.crop=[32,36]"),
        )
    }
    same = {"", "runner.cache_mb=1", "runner.family=unet"}
    assert {names[words] for words in same} == {names[""]}
    assert len(set(names.values())) == 1 + len(names) - len(same)


@pytest.mark.parametrize("form", ["robomimic", "lerobot"])
def test_collected_trained_on_calibrated_and_played(form: str) -> None:
    """The whole way on the command line, in worlds that show pictures."""
    words = [f"plugins=[{PLUGIN}]", "task=picture", "threads=1", "logger=none", "videos=0"]
    words += ["latency.repeats=0", "n_envs=2"]
    collect = ["runner=collect", f"runner.format={form}", "runner.success_only=false"]
    assert run([*words, *collect, "n_episodes=3"]) == 0
    rollouts = ["runner.rollout_every=2", "runner.rollout_episodes=1", "runner.rollout_steps=2"]
    assert run([*SMALL, "runner.n_steps=2", *rollouts]) == 0  # on what this study collected
    (policy,) = Path().glob("multirun/main/picture_train_*/policy")
    (data,) = [json.loads(p.read_text())["dataset"] for p in Path().glob("multirun/*/coll*/res*")]
    played = [*words, f"task.checkpoint={policy}", "n_episodes=2", "cache=deepcache"]
    played += ["cache.compute_interval=2", "sampler=ddim", "sampler.steps=4", "engine=reference"]
    assert run(played) == 0
    (result,) = Path().glob("multirun/main/picture_deepcache_*/result.json")
    found = json.loads(result.read_text())
    assert (found["n_episodes"], found["n_errors"]) == (2, 0)
    loaded, job = load_policy(policy), job_of([*SMALL])
    demos = demonstrated(CalibrationChoice(data=data), loaded, job.task)
    assert demos.queries(2, 9).obs["image.top"].shape == (9, 2, *SHAPE)


def test_a_rate_in_env_args_is_compared(capfd: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, "runner.n_steps=1"]
    for name, hz in (("other", 20), ("same", 10.0)):
        data = write_robomimic(Path(f"{name}.hdf5"), demonstrations())
        with h5py.File(data, "a") as file:
            file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": hz}})
    said = refused(capfd, *words, "runner.data=other.hdf5")
    assert said.endswith(
        "other.hdf5: env_args.env_kwargs.control_freq must be 10 as the task's control rate, got 20"
    )
    assert run([*words, "runner.data=same.hdf5"]) == 0


def test_a_calibration_of_demonstrations_sees_their_images(tmp_path: Path) -> None:
    data = write_lerobot(Path("set"), demonstrations())
    policy = load_policy(train(f"runner.data={data}", "runner.n_steps=1") / "policy")
    job = job_of([*SMALL, f"runner.data={data}"])
    found = demonstrated(CalibrationChoice(data=str(data), demos=[2, 0]), policy, job.task)
    queries = found.queries(policy.n_obs_steps, 12)
    assert set(queries.seeds.tolist()) == {0, 2}
    assert queries.obs["image.top"].shape == (12, 2, *SHAPE)
    assert queries.obs["image.top"].dtype == np.uint8
    episodes = demonstrations()
    for i, (episode, step) in enumerate(zip(queries.seeds, queries.numbers, strict=True)):
        steps = [max(0, step - 1), step]
        images = episodes[episode]["image.top"][steps].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(queries.obs["image.top"][i], images)
        np.testing.assert_array_equal(queries.obs["state"][i], episodes[episode]["state"][steps])
    assert policy.act(each(torch.from_numpy, queries.obs), queries.noise(0)).isfinite().all()


def test_init_goes_on_from_a_policy_that_sees() -> None:
    data = write_lerobot(Path("set"), demonstrations((9, 7)))
    options = [f"runner.data={data}", "runner.val_ratio=0", "runner.n_steps=1"]
    start = train(*options, "runner.warmup=0") / "policy"
    stays = train(*options, "runner.warmup=1", f"runner.init={start}") / "policy"
    assert load_policy(stays).fingerprint() == load_policy(start).fingerprint()
    moved = train(*options, "runner.warmup=0", f"runner.init={start}") / "policy"
    ours, theirs = (load_policy(f).state_dict() for f in (moved, start))
    assert not torch.equal(ours["encoder.nets.0.out.weight"], theirs["encoder.nets.0.out.weight"])
    assert torch.equal(
        ours["normalizer.params_dict.state.scale"], theirs["normalizer.params_dict.state.scale"]
    )


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert run([*words]) == 2
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.strip()]
    return line


def test_init_of_a_policy_that_sees_something_else_is_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = write_lerobot(Path("set"), demonstrations((9, 7)))
    options = [*SMALL, f"runner.data={data}", "runner.val_ratio=0", "runner.n_steps=1"]
    assert run(options) == 0
    (folder,) = Path().glob("multirun/main/*")
    init = f"runner.init={folder}/policy"
    said = refused(capfd, *options, init, "runner.encoder.norm=batch")
    assert "has encoder.norm=group, this training has batch: both must be the same" in said
    other = shutil.copytree(folder / "policy", "other")
    yaml = (other / "policy.yaml") if isinstance(other, Path) else Path(other) / "policy.yaml"
    lines = yaml.read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("digest:"))
    yaml.write_text(text.replace("control_hz: 10.0", "control_hz: 20.0"))
    said = refused(capfd, *options, "runner.init=other")
    assert "runner.init=other sees something else: it is seen 20 times a second, not 10" in said


SETTINGS = {
    "runner.family=mlp": "runner.family must be null or one of transformer, unet, dit, got 'mlp'",
    "runner.n_layer=3": "runner.n_layer is of runner.family=transformer, this training is of "
    "runner.family=unet",
    "runner.encoder.crop_ratio=0": "runner.encoder.crop_ratio must be above 0 and at most 1, got 0",
    "runner.encoder.normalizer=limits": "must be one of range, imagenet, got 'limits'",
    "runner.encoder.crop=[50,50]": "crop must fit into image.top, which is 36 x 40, got 50 x 50",
    "runner.encoder.backbone=vit": "backbone must be one of resnet18, resnet34, resnet50",
    "runner.obs_as_cond=false": "an encoder needs a network with observations as a condition",
    "runner.horizon=9": "horizon must be a multiple of 2 for a UNet of widths 16, 32",
    "runner.cache_mb=-1": "runner.cache_mb must be at least 0, got -1",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_are_refused_by_name(setting: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_lerobot(Path("set"), demonstrations((9, 7)))
    assert SETTINGS[setting] in refused(capfd, *SMALL, f"runner.data={data}", setting)
    assert not Path("multirun").exists()


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (
            {"crop": [64, 64], "crop_ratio": 0.5},
            ["crop_ratio=0.5 does nothing with runner.enco"],
        ),
        (
            {"pool": "average", "n_keypoints": 8},
            ["n_keypoints=8 does nothing with runner.encoder.pool=average"],
        ),
        ({"resize": [32, 32]}, ["of image.top of 29 x 29 px runner.encoder.pool=spatial_softmax"]),
        ({"resize": [32, 32], "pool": "average"}, []),
        ({"resize": [40, 40]}, []),
        ({}, []),
    ],
)
def test_what_does_nothing_is_said(
    choice: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    spec = ObservationSpec.of({"state": 2, "image.top": (3, 96, 96)})
    EncoderChoice(**choice).config(spec)
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert words in message


def test_settings_of_images_where_there_are_none(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_lift(Path("a.hdf5"))
    lift = ["runner=train", "task=lift", f"runner.data={data}"]
    said = refused(capfd, *lift, "runner.encoder.backbone=resnet34")
    assert "runner.encoder is of images, task=lift shows state alone" in said
    said = refused(capfd, *lift, "runner.unet.n_groups=4")
    assert "runner.unet is of runner.family=unet, this training is of runner.family=transf" in said


def test_datasets_that_do_not_fit_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_lerobot(Path("set"), demonstrations())
    words = [*SMALL, f"runner.data={data}"]
    said = refused(capfd, *words, "task.size=40")
    assert said.endswith(
        "set/meta/info.json: observation.images.top must be of 3 x 40 x 44 pixels, "
        "got 3 x 36 x 40 pixels"
    )
    keys = {"image.top": "observation.images.front"}
    data = write_lerobot(Path("front"), demonstrations(), keys=keys)
    said = refused(capfd, *SMALL, f"runner.data={data}")
    assert "front: no observation.images.top in it for image.top of 3 x 36 x 40 pixels" in said
    data = write_lerobot(Path("fast"), demonstrations(), fps=20)
    said = refused(capfd, *SMALL, f"runner.data={data}")
    assert "fast/meta/info.json: fps must be 10 as the task's control rate, got 20" in said
    assert not Path("multirun").exists()


def test_an_image_that_breaks_a_step_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    data = write_lerobot(Path("set"), demonstrations(), "v2.1", "video")
    file = data / "videos/chunk-000/observation.images.top/episode_000002.mp4"
    content = bytearray(file.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 20000 : start + 40000] = bytes(20000)
    file.write_bytes(content)
    capfd.readouterr()
    assert run([*SMALL, f"runner.data={data}", "runner.val_ratio=0"]) == 1
    said = capfd.readouterr().err
    assert f"{file}: the " in said
    assert "cannot be decoded (" in said
    assert "Traceback" not in said


def test_cameras_of_several_sizes_need_a_size() -> None:
    spec = ObservationSpec.of({"image.a": (3, 40, 40), "image.b": (3, 20, 30)})
    with pytest.raises(
        ValueError, match=r"crop_ratio=0\.9 needs images of one size, got 20 x 30 and"
    ):
        EncoderChoice().config(spec)
    assert EncoderChoice(resize=[30, 30]).config(spec).crop == [27, 27]
    assert EncoderChoice(crop_ratio=1).config(spec).crop is None
    assert EncoderChoice(crop=[20, 20]).config(spec).crop == [20, 20]
