"""Subcommands, --help, and slips of the shell: what a newcomer types first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runners.cli import CONF, run
from runners.commands import COMMANDS, bench
from runners.launch.composing import compose_checked
from runners.launch.helping import GROUPS
from runners.launch.mistakes import check_words
from runners.launch.yaml_comments import about, settings_in
from tests.helpers.places import FIXTURES
from tests.helpers.study_folder import copy_starter

SLIPS = {  # what is typed -> what is said
    "cache uniform": "cache uniform: a setting is written with an =, cache=uniform",
    "cache = uniform": "cache =uniform: no spaces around an =, cache=uniform",
    "cache= uniform": "cache= uniform: no spaces around an =, cache=uniform",
    "-m cache=none, uniform": "cache=none, uniform: no spaces around a comma, cache=none,uniform",
    "-m cache=none,": "cache=none,: no spaces around a comma, cache=none",
    "--cache=uniform": "--cache=uniform: settings have no dashes, cache=uniform",
    "--n_episodes 3": "--n_episodes 3: settings have no dashes, n_episodes=3",
    "--multirn task=lift": "--multirn: unknown option; did you mean --multirun?",
    "reprt multirun/main": "reprt multirun/main: a setting is written with an =, "
    "reprt=multirun/main",
    "reprt": "reprt: unknown command; did you mean report?",
    "task.checkpoint=a/epoch=02.ckpt": "task.checkpoint: a value with an = is quoted twice, "
    "\"task.checkpoint='a/epoch=02.ckpt'\"",
    "cache=unifrm": "got 'unifrm'; did you mean uniform?",
    "n_episode=3": "n_episode: unknown key, allowed: .*; did you mean n_episodes?",
    "task.checkpnt=x": "task.checkpnt: unknown key, .*; did you mean task.checkpoint?",
    "film=100003": "film must be a list of whole numbers or null, got 100003; write film=[100003]",
}


@pytest.mark.parametrize("typed", SLIPS)
def test_a_slip_of_the_shell_is_one_sentence(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(typed.split()) == 2
    said = capsys.readouterr().err
    wanted = ".*".join(re.escape(part) for part in SLIPS[typed].split(".*"))
    assert re.search(f"^error: (.*)?{wanted}$", said.strip()), said


LEFT = (
    ["task.checkpoint='a=b.ckpt'", "--cfg", "job"],
    ["-m", "task=lift,kitchen", "cache.steps=choice(3,4)"],
    ["~experiment", "--multirun"],
    ["hydra.sweeper.params={task: 'a=b'}", "+new=[a,b]"],
    ["--config-name", "config", "task=lift"],
    ["-sc", "install=bash"],
    ["study="],
)


@pytest.mark.parametrize("words", LEFT)
def test_what_hydra_takes_is_left_to_it(words: list[str]) -> None:
    check_words(words, COMMANDS)


def test_help_has_examples_then_every_choice_with_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.index("run.py cache=hash_ab task=kitchen") < said.index("\ntask=\n")
    for name, (_, words) in COMMANDS.items():
        assert f"  {name} " in said
        assert words.partition(":")[0] in " ".join(said.split())
    for group in GROUPS:
        for path in (CONF / group).glob("*.yaml"):
            assert about(path), f"{path} does not say what it is"
            assert f"  {path.stem}" in said
    assert "n_episodes=50 " in said
    assert "latency.repeats=100 " in said


def test_help_of_a_choice_has_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runner=train", "cache=uniform", "--help"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"runner\.n_steps=null +updates", said)
    assert re.search(r"runner\.unet\.kernel_size=5 +odd", said)
    assert re.search(r"cache\.steps=20 +update steps S", said)
    assert "task.checkpoint" not in said
    assert run(["cache=unifrm", "-h"]) == 0
    assert "cache=unifrm: no such choice of ours; there are bac, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}={p.stem}"
)
def test_the_settings_shown_are_those_that_are_composed(path: Path) -> None:
    group = path.parent.name
    if group not in GROUPS or group == "experiment":
        pytest.skip("not a group of settings")
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_checked([f"{group}={path.stem}"])
    shown = {s.key: s.value for s in settings_in(path, group) if s.value}
    assert shown[f"{group}.name"] == path.stem
    for key, value in shown.items():
        found = OmegaConf.select(cfg, key)
        assert OmegaConf.create({"value": found}) == OmegaConf.create(f"value: {value}"), key


def test_show_and_report_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = copy_starter(tmp_path / "starter")
    assert run(["show", str(study)]) in (0, 1)
    assert "jobs finished" in capsys.readouterr().out
    assert run(["report", str(study)]) == 0
    assert (study / "report/report.html").exists()
    assert run(["show", str(tmp_path / "none")]) == 2
    assert "there is none in" in capsys.readouterr().err


def test_import_makes_a_folder_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from policies import load_policy

    source = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
    assert run(["import", str(source), str(tmp_path / "ours")]) == 0
    assert load_policy(tmp_path / "ours").obs_dim == 60
    assert " MiB in " in capsys.readouterr().out
    assert run(["import", str(source), str(tmp_path / "ours")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["import", str(tmp_path / "no.ckpt"), str(tmp_path / "new")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


def test_doctor_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor"])
    said = capsys.readouterr().out
    assert code == int(any(line.startswith("!") for line in said.splitlines()))
    for name in ("CPU", "torch", "engine", "robosuite", "films", "policies", "disk"):
        assert re.search(rf"^. {name} ", said, re.M), name


def test_doctor_names_what_brings_a_thing_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from runners.commands import doctor

    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "PROJECT", tmp_path)
    assert run(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "! robosuite    not installed" in said
    assert "pip install 'skipstep[sim]'" in said
    assert "  libero       not installed" in said  # optional
    assert "run in a clone of it, or give task.checkpoint=PATH" in said


def test_bench_times_every_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "QUICK_STEPS", 10)
    assert run(["bench", "--quick", "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    for arm in bench.ARMS:
        assert re.search(rf"^{arm} +\d+\.\d +\d+\.\d +\d+\.\dx$", said, re.M), said
    assert run(["bench", "--batch", "0"]) == 2
    assert capsys.readouterr().err == "error: --batch must be at least 1, got 0\n"
    assert run(["bench", "--slow"]) == 2
    assert "unrecognized arguments: --slow" in capsys.readouterr().err
