"""Runs whose episodes are in the repository."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from runners.cli import validate
from runners.places import RESULTS
from runners.store.published import Entry, read_list, write_list
from tests.helpers import fake_episodes
from tests.helpers.places import PROJECT
from tests.helpers.study_folder import STARTER

LISTS = RESULTS / "studies"
STUDIES = {
    path.stem: yaml.safe_load(path.read_text())["study"]
    for path in sorted((PROJECT / "conf/experiment").glob("*.yaml"))
}
PUBLISHED = [name for name, study in STUDIES.items() if (LISTS / f"{study}.yaml").exists()]
WORDS = ("n_episodes=4", "cache=uniform", "cache.steps=7")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run as it would be committed: episodes, result and settings."""
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    return publish(tmp_path / "project/results", monkeypatch)


def publish(results: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Move the only run there is into `results`, and have that be what is published."""
    (ran,) = Path("multirun/main").iterdir()
    monkeypatch.setattr("runners.evaluate.accepted.RESULTS", results)
    target = results / "runs" / ran.name
    target.mkdir(parents=True)
    (results / "studies").mkdir()
    write_list(results / "studies/main.yaml", {ran.name: Entry(4)})
    for name in ("episodes.jsonl", "result.json", "config.yaml"):
        shutil.copyfile(ran / name, target / name)
    shutil.rmtree("multirun")
    return target


def result(committed: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads(
        (Path("multirun/main") / committed.name / "result.json").read_text()
    )
    return read


def test_they_are_done(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    assert played == []
    assert result(committed) == json.loads((committed / "result.json").read_text())


def test_an_arm_is_compared_with_a_baseline_that_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, "n_episodes=4", "cache=none") == 0
    plain = publish(tmp_path / "project/results", monkeypatch)
    found = []
    for more in ([], ["accept=null", "force=true"]):
        assert fake_episodes.run(monkeypatch, *WORDS, *more) == 0
        (arm,) = Path("multirun/main").iterdir()
        found.append(json.loads((arm / "result.json").read_text())["baseline"])
    assert (found[0]["folder"], found[0]["n"]) == (plain.name, 4)
    assert found[1]["folder"] is None
    assert "cache=none" in found[1]["command"]


@pytest.mark.parametrize("layout", ["runs and lists", "studies"])
def test_a_folder_of_runs_is_relative_to_where_the_command_is_given(
    committed: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(committed.parent.parent, "kept")
    if layout == "studies":
        shutil.rmtree("kept/studies")
        Path("kept/runs").rename("kept/main")
    shutil.rmtree(committed.parent.parent)
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, "accept=kept") == 0
    assert played == []


def test_the_study_has_its_own_result_and_the_fields_of_its_time(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {**json.loads((committed / "result.json").read_text()), "wall_s": 12345.0}
    lists = committed.parent.parent / "studies"
    (lists / "main").mkdir()
    (lists / "main" / f"{committed.name}.result.json").write_text(json.dumps(own))
    write_list(lists / "main.yaml", {committed.name: Entry(4, ("machine",))})
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    assert result(committed)["wall_s"] == 12345.0
    lines = (Path("multirun/main") / committed.name / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert not any("machine" in json.loads(line) for line in lines)


def test_where_no_runs_are_published_all_are_played(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from an installed wheel."""
    shutil.rmtree(committed.parent.parent)
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    assert len(played) == 4


def test_a_folder_that_is_not_there_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, "accept=nowhere") == 2
    said = capsys.readouterr().err
    assert "accept must be published, null or a folder of runs, got 'nowhere'" in said


@pytest.mark.parametrize("shard", [[], ["shard=1/1"]])
def test_they_are_extended(
    committed: Path, shard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, "n_episodes=6", *shard) == 0
    assert played == [100004, 100005]
    assert result(committed)["n_episodes"] == 6


def test_fewer_of_them_keep_what_was_counted(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their observations are not there, so there is no query to count again."""
    before = json.loads((committed / "result.json").read_text())
    before["stats"] |= {"flops": 7 * 10**9, "n_queries": 40}
    (committed / "result.json").write_text(json.dumps(before))
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, "n_episodes=3") == 0
    assert played == []
    found = result(committed)
    assert (found["n_episodes"], found["stats"]) == (3, before["stats"])
    assert found["flops"]["query"] == 7 * 10**9  # type: ignore[index]


def test_flops_of_an_older_version_are_counted_again(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were what the engine ran, over the plain policy with the run's own sampler."""
    now = json.loads((committed / "result.json").read_text())
    older = {"query": now["flops"]["query"], "plain": 7, "share": now["flops"]["query"] / 7}
    (committed / "result.json").write_text(json.dumps({**now, "flops": older}))
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    assert result(committed) == now
    assert f"{now['flops']['share']:.1%} of the checkpoint's" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["accept=null"], ["force=true"], ["study=other"]])
def test_they_run_anew_where_they_are_not_accepted(
    committed: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, *words) == 0
    assert len(played) == 4


def test_another_run_under_their_name_is_refused(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = committed / "config.yaml"
    path.write_text(path.read_text().replace("fingerprint: ", "fingerprint: x"))
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 2
    assert played == []
    assert "holds another run" in capsys.readouterr().err


def test_another_plan_is_refused(
    committed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = committed / "result.json"
    ran = json.loads(path.read_text())
    ran["stats"]["plan"] = "another"
    path.write_text(json.dumps(ran))
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS, "n_episodes=6") == 2
    assert played == []
    assert "ran under the plan another" in capsys.readouterr().err


def test_some_experiments_are_published() -> None:
    assert {"reference", "quantised", "dit_caches"} <= set(PUBLISHED)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_an_experiment_finds_its_published_runs(experiment: str) -> None:
    """Whatever the defaults have become."""
    launches = validate([f"experiment={experiment}"])
    folders = [folder.name for launch in launches for folder in launch.folders]
    assert folders
    assert set(folders) <= read_list(LISTS / f"{STUDIES[experiment]}.yaml").keys()


def test_the_commands_of_the_starter_study_find_its_runs() -> None:
    """They name what was a default when they ran. (The task Lift has other settings by now.)"""
    text = (
        (PROJECT / "docs/results/starter.md")
        .read_text()
        .partition("## Commands")[2]
        .partition("##")[0]
    )
    common = shlex.split(text.partition("C=")[2].partition("\n")[0])[0]
    lines = [line for line in text.splitlines() if "task=kitchen" in line]
    words = [line.replace("$C", common).split()[2:] for line in lines]
    found = {folder.name for w in words for launch in validate(w) for folder in launch.folders}
    assert found == {name for name in read_list(STARTER) if name.startswith("kitchen_")}
