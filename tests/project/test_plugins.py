"""Plug-ins: the package of docs/how-to/plugins.md, outside the tree, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from accel import CACHES
from envs import TASKS
from policies import DiffusionPolicy, NetworkConfig, PolicyConfig, SamplerConfig, TaskInfo
from policies import save_policy as save
from policies.sampling.samplers import KINDS
from runners import plugins
from runners.cli import job_of, run
from runners.errors import UserError
from runners.loggers import LOGGERS
from runners.registry import RUNNERS
from runners.report import build
from tests.helpers.fake_episodes import FIXTURE
from tests.helpers.places import PROJECT

FILE = re.compile(r"^`(my_lab/\S+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUICK = ("threads=1", "logger=none", "videos=0", "latency.repeats=0", "engine=reference")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's package, and a policy of its task."""
    folder = tmp_path_factory.mktemp("lab")
    page = (PROJECT / "docs/how-to/plugins.md").read_text()
    for name, text in FILE.findall(page):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "my_lab/__init__.py").touch()
    torch.manual_seed(0)
    network = NetworkConfig(2, 2, 8, 2, cond_dim=3, n_layer=1, n_head=2, n_emb=16)
    config = PolicyConfig(
        network,
        obs_dim=3,
        action_dim=2,
        n_action_steps=4,
        sampler=SamplerConfig(steps=6, num_train_timesteps=6),
        task=TaskInfo("point"),
    )
    save(DiffusionPolicy(config), folder / "policy")
    return folder


def child(lab: Path, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "run.py"), *words]
    env = {**os.environ, "PYTHONPATH": str(lab)}
    return subprocess.run(command, cwd=where, env=env, capture_output=True, text=True)


def test_the_page_has_two_files_for_each_thing() -> None:
    names = [name for name, _ in FILE.findall((PROJECT / "docs/how-to/plugins.md").read_text())]
    for kind, thing in zip(
        ("cache", "task", "sampler", "runner"),
        ("every", "point", "ddpm_mean", "cells"),
        strict=True,
    ):
        assert [n for n in names if Path(n).stem == thing] == [
            f"my_lab/{thing}.py",
            f"my_lab/conf/{kind}/{thing}.yaml",
        ]


def test_a_family_is_one_file_and_what_makes_a_checkpoint() -> None:
    names = [name for name, _ in FILE.findall((PROJECT / "docs/how-to/plugins.md").read_text())]
    assert [n for n in names if "mlp" in n] == ["my_lab/mlp.py", "my_lab/save_mlp.py"]


@pytest.mark.timeout(600)
def test_a_sweep_of_a_cache_on_a_task_with_a_sampler(lab: Path, tmp_path: Path) -> None:
    """Everything of it is of the package; its environments are in two workers."""
    done = child(
        lab,
        tmp_path,
        "-m",
        "plugins=[my_lab.every,my_lab.point,my_lab.ddpm_mean]",
        "cache=every",
        "cache.interval=2,3",
        "task=point",
        f"task.checkpoint={lab / 'policy'}",
        "sampler=ddpm_mean",
        "sampler.steps=5",
        "n_episodes=2",
        "n_envs=2",
        *QUICK,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 jobs finished" in done.stdout
    steps = {"interval: 2": [0, 2, 4], "interval: 3": [0, 3]}
    for folder in (tmp_path / "multirun/main").glob("point_every_none_s0_*"):
        result = json.loads((folder / "result.json").read_text())
        assert (result["task"], result["n_episodes"], result["n_errors"]) == ("point", 2, 0)
        config = (folder / "config.yaml").read_text()
        assert "kind: ddpm_mean" in config
        (said,) = (words for words in steps if words in config)
        computed = torch.tensor(result["stats"]["computed"]).reshape(5, -1)
        assert computed.any(dim=1).nonzero().flatten().tolist() == steps.pop(said)
    assert not steps


def test_a_runner(lab: Path, tmp_path: Path) -> None:
    words = ("plugins=[my_lab.cells,my_lab.every,my_lab.point]", "runner=cells", "cache=every")
    policy = ("task=point", f"task.checkpoint={lab / 'policy'}")
    done = child(lab, tmp_path, *words, *policy, *QUICK)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cells_point_every_none_s0_\w+: 6 of 18 cells are computed", done.stdout)


@pytest.fixture(scope="module")
def mlp(lab: Path) -> Path:
    """A checkpoint of the page's family, which gives no FLOPs."""
    command = [sys.executable, "-m", "my_lab.save_mlp", str(lab / "mlp")]
    env = {**os.environ, "PYTHONPATH": f"{lab}{os.pathsep}{PROJECT}"}
    subprocess.run(command, cwd=lab, env=env, check=True)
    return lab / "mlp"


def test_a_family_without_flops_is_evaluated_and_reported(
    lab: Path, mlp: Path, tmp_path: Path
) -> None:
    words = ("plugins=[my_lab.mlp,my_lab.point]", "task=point", f"task.checkpoint={mlp}")
    timed = (*QUICK[:3], "latency.repeats=2", "latency.warmup=1", "cache=none", "n_episodes=2")
    done = child(lab, tmp_path, "-m", *words, *timed, "sampler=ddim", "sampler.steps=3,6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 jobs finished" in done.stdout
    folders = sorted((tmp_path / "multirun/main").glob("point_none_none_s0_*"))
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        assert (result["task"], result["n_episodes"], result["n_errors"]) == ("point", 2, 0)
        assert set(result["flops"].values()) == {None}
        assert result["stats"]["flops"] is None
        assert result["latency"]["times_as_fast"] > 0
    again = child(lab, tmp_path, *words, *timed, "sampler=ddim", "sampler.steps=3")
    assert re.search(r"^FLOPs +-\n +as run here +-$", again.stdout, re.MULTILINE), again.stdout
    assert build.run([str(tmp_path / "multirun/main")]) == 0
    report = (tmp_path / "multirun/main/report/report.md").read_text()
    assert "or the FLOPs of the policy's family are not known" in report
    assert "nan" not in report


def test_what_a_family_cannot_do_is_a_mistake(lab: Path, mlp: Path, tmp_path: Path) -> None:
    words = ("plugins=[my_lab.mlp,my_lab.point]", "task=point", f"task.checkpoint={mlp}", *QUICK)
    for more, needs in (("cache=interval", "cache=interval needs sites"), ("runner=show", "sites")):
        done = child(lab, tmp_path, *words, more)
        assert done.returncode == 2, done.stderr
        assert needs in done.stderr
        assert done.stderr.strip().endswith("the policy is an MLP (caches that run it: none)")


def test_settings_of_a_plug_in_are_validated(lab: Path, tmp_path: Path) -> None:
    """In this process, which then has it; others are not disturbed by what they do not choose."""
    plain = job_of([f"task.checkpoint={FIXTURE}", "logger=none"])
    code = (
        f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {str(lab)!r}]\n"
        "from runners.cli import job_of, run\n"
        "words = ['plugins=[my_lab.every]', 'logger=none', 'cache=every']\n"
        "print(run([*words, 'cache.interval=0']), run([*words, 'cache.budget=3']))\n"
        f"task = 'task.checkpoint={FIXTURE}'\n"
        "print(job_of([words[0], 'logger=none', task]).fingerprint)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "2", plain.fingerprint], done.stderr
    assert "error: cache.interval must be at least 1, got 0" in done.stderr
    assert "cache.budget: unknown key, allowed: name, interval" in done.stderr
    assert not list(tmp_path.iterdir())


BROKEN = {
    "plugins=[my_lab.nothing]": "plugins: my_lab.nothing cannot be imported: ModuleNotFoundError",
    "plugins=[broken]": "broken.py:2)",
    "plugins=[taken]": "'uniform' is taken in accel.CACHES: taken are none, uniform, bac",
    "plugins=[other]": "an entry of accel.CACHES must be a Method, got 3 for 'other' (",
    "plugins=[leaves]": "plugins: leaves cannot be imported: SystemExit: 3 (",
    "plugins=[my_lab/every.py]": "got 'my_lab/every.py': a module name such as my_lab.every",
    "plugins=my_lab.every": "plugins must be a list of modules, as in [my_lab.plugin], got my_lab",
    "plugins=[[a]]": "plugins must be a list of modules",
    "plugins=null": "plugins must be a list of modules, as in [my_lab.plugin], got None",
    "plugins=[a],[b]": "plugins cannot be swept, got plugins=[a],[b]",
    "plugins=[a": "plugins: no viable alternative at input",
}


@pytest.mark.parametrize("word", BROKEN)
def test_a_plug_in_that_cannot_be_had_is_a_mistake(
    word: str,
    lab: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.py").write_text("\nraise RuntimeError('two\\nlines')\n")
    (tmp_path / "taken.py").write_text(
        "from skipstep.accel import CACHES\n"
        "from skipstep.runners.plugins import register\n"
        "register(CACHES, 'uniform', CACHES['none'])\n"
    )
    (tmp_path / "other.py").write_text(
        "from skipstep.accel import CACHES\n"
        "from skipstep.runners.plugins import register\n"
        "register(CACHES, 'other', 3)\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(lab)
    before = set(lab.rglob("*"))
    assert run([word]) == 2
    said = capsys.readouterr().err
    assert BROKEN[word] in said
    assert said.count("\n") == 1
    assert set(lab.rglob("*")) == before


WRONG = {
    "a tuple of 2 that begins with a class": (TASKS, 3),
    "a Method": (CACHES, lambda: None),
    "a function": (KINDS, 3),
    "a class": (LOGGERS, 3),
    'a Runner or "module:name"': (RUNNERS, 3),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_entry_is_of_the_kind_of_the_others(kind: str) -> None:
    table, entry = WRONG[kind]
    before = dict(table)
    with pytest.raises(TypeError, match=f"must be {kind}, got "):
        plugins.register(table, "new", entry)
    assert table == before


def test_a_choice_without_its_file_names_the_file(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "from skipstep.accel import CACHES\n"
        "from skipstep.runners.plugins import register\n"
        "register(CACHES, 'bare', CACHES['none'])\n"
    )
    done = child(tmp_path, tmp_path, "plugins=[bare]", "cache=bare")
    assert done.returncode == 2
    assert done.stderr.startswith("error: cache=bare needs a file conf/cache/bare.yaml")
    done = child(lab, tmp_path, "-m", "plugins=[my_lab.every]", "cache=never,every")
    assert done.returncode == 2
    assert re.search(
        "cache must be one of .*, every, .*, got 'never'; did you mean every[?]$", done.stderr
    )


def test_conf_names_plug_ins_too_and_a_later_place_replaces_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("plugins: [json]\n")
    assert plugins._named([], tmp_path) == ["json"]
    (tmp_path / "local").mkdir()
    (tmp_path / "local/default.yaml").write_text("# @package _global_\nplugins: [csv]\n")
    assert plugins._named(["cache=none"], tmp_path) == ["csv"]
    assert plugins._named(["plugins=[a.b, c]"], tmp_path) == ["a.b", "c"]
    assert plugins._named(["plugins=[]"], tmp_path) == []


def _loaded_anew() -> None:
    plugins._installed.cache_clear()
    try:
        plugins.load([])
    finally:
        plugins._installed.cache_clear()


def test_an_entry_point_is_always_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "other_lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[skipstep.plugins]\nother = other_lab_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"the entry point other in skipstep\.plugins: other_lab_p"):
        _loaded_anew()
    (tmp_path / "other_lab_plugin.py").write_text("LOADED = True\n")
    _loaded_anew()
    assert plugins.LOADED["other_lab_plugin"].LOADED
