"""Damaged files of a run: it goes on, and a report shows the others."""

from __future__ import annotations

import csv
import json
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from runners.launch.summary import summary
from runners.report.build import write_report
from runners.report.markdown import fenced
from runners.store.files import DamagedFileError, StoreError, read_lines
from runners.store.folder import RunStore, film_of
from runners.store.reading import UNREADABLE, read_run
from runners.studies.comparisons import ReportConfig
from runners.studies.study import read_study
from skipstep.plain_files import parse_yaml
from tests.helpers import fake_episodes
from tests.helpers.damage import DEEP, TORN, as_json, changed, flipped
from tests.helpers.study_folder import KITCHEN, SLOWER, copy_starter, time_it

N = 12  # episodes of a run
WORDS = ("n_episodes=4", "cache=uniform", "cache.steps=7")


def heard(caplog: pytest.LogCaptureFixture) -> str:
    said = "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    caplog.clear()
    return said


# -- a run goes on


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run."""
    monkeypatch.chdir(tmp_path)
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    (folder,) = Path("multirun/main").iterdir()
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    """What of a result does not depend on the hour."""
    result = json.loads((folder / "result.json").read_text())
    timed = ("wall_s", "finished", "time", "peak_memory_mb", "latency")
    return {k: v for k, v in result.items() if k not in timed}


MADE_AGAIN = ("result.json", "time.json", "observations.npz", "config.yaml", "plan.txt")


@pytest.mark.parametrize("file", MADE_AGAIN)
@pytest.mark.parametrize("damage", ["empty", "garbage"])
def test_what_a_run_can_make_again_counts_as_absent(
    file: str,
    damage: str,
    ran: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, path = outcome(ran), ran / file
    path.write_bytes(TORN[damage](path.read_bytes()))
    capsys.readouterr()
    played = fake_episodes.fake(monkeypatch)
    words = WORDS if file == "result.json" else (*WORDS, "n_episodes=5")
    assert fake_episodes.run(monkeypatch, *words) == 0
    said = "".join(capsys.readouterr())
    assert f"{path.resolve()} is damaged: " in said
    assert ("is written anew" if file == "config.yaml" else "it counts as absent") in said
    assert len(played) == (file != "result.json")
    if file == "result.json":
        assert outcome(ran) == before
    assert fake_episodes.run(monkeypatch, *words) == 0
    assert "damaged" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("line", ["{", "[]", '{"seed": 5}', '{"seed": 1, "status": "ok"}', DEEP])
def test_a_bad_line_is_named_and_its_episode_is_played_again(
    line: str,
    ran: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, path = outcome(ran), ran / "episodes.jsonl"
    lines = path.read_text().splitlines()
    lost = json.loads(lines[1])["seed"]
    whole, lines[1] = path.read_text(), line
    path.write_text("\n".join(lines) + "\n")
    torn = path.read_text()
    played = fake_episodes.fake(monkeypatch)
    capsys.readouterr()
    assert fake_episodes.run(monkeypatch, *WORDS) == 0
    assert played == [lost]
    said = "".join(capsys.readouterr())
    assert "episodes.jsonl is damaged: line 2: " in said
    assert outcome(ran) == before
    assert sorted(path.read_text().splitlines()) == sorted(whole.splitlines())
    assert (ran / "previous/0/episodes.jsonl").read_text() == torn
    fake_episodes.run(monkeypatch, *WORDS)
    assert "damaged" not in "".join(capsys.readouterr())


def test_a_folder_whose_run_cannot_be_told_is_not_written_to(tmp_path: Path) -> None:
    run = RunStore(tmp_path, {"fingerprint": "a"})
    run.append({"seed": 1, "status": "ok", "success": True})
    run.close()
    for content in ("", "[1]", "a: [", "fingerprint: *a"):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(StoreError, match=r"config\.yaml is damaged: .*force=true sets"):
            RunStore(tmp_path, {"fingerprint": "a"})
    RunStore(tmp_path, {"fingerprint": "a"}, force=True).close()
    assert (tmp_path / "previous/0/episodes.jsonl").exists()


def test_a_settings_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(StoreError, match="fingerprints differ"):
        RunStore(tmp_path, {"fingerprint": "a"})
    assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".result.json.123.tmp").write_text("half")
    RunStore(tmp_path, {"fingerprint": "a"}).close()
    assert not list(tmp_path.glob(".*.tmp"))


BOMBS: dict[str, Callable[[Path], None]] = {
    "objects": lambda path: np.savez(path, obs=np.array([{}, None])),
    "text": lambda path: np.savez(path, obs=np.array(["a"])),
    "no arrays": lambda path: np.savez(path),
    "another name": lambda path: np.savez(path, other=np.zeros((2, 3))),
    "infinite": lambda path: np.savez(path, obs=np.full((2, 3), np.inf)),
    "lengths": lambda path: np.savez(path, **{"obs/a": np.zeros((2, 3)), "obs/b": np.ones((1, 3))}),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_observations_of_another_kind_count_as_absent(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BOMBS[kind](tmp_path / "observations.npz")
    store = RunStore(tmp_path, {"fingerprint": "a"})
    assert len(store.observations()) == 0
    assert "observations.npz is damaged: " in heard(caplog)
    store.add_observations(np.zeros((2, 3)))
    assert store.observations().shape == (2, 3)


# -- a report shows the others


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two timed runs, 12 episodes each."""
    full = copy_starter(tmp_path_factory.mktemp("full"))
    study = tmp_path_factory.mktemp("small")
    for name in (KITCHEN, SLOWER):
        folder = Path(shutil.copytree(full / name, study / name))
        lines = (folder / "episodes.jsonl").read_text().splitlines()
        lines = sorted(lines, key=lambda line: json.loads(line)["seed"])[:N]
        (folder / "episodes.jsonl").write_text("\n".join(lines) + "\n")
        config = (folder / "config.yaml").read_text().replace("n_episodes: 100", f"n_episodes: {N}")
        (folder / "config.yaml").write_text(config)
        time_it(folder, 10.0)
        (folder / "status.json").write_text('{"status": "finished"}')
    return study


@pytest.fixture
def study(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "study"))


def reported(study: Path) -> tuple[list[str], str]:
    """The runs that have numbers, and report.md."""
    write_report(study, ReportConfig())
    with (study / "report/arms.csv").open() as file:
        return [row["run"] for row in csv.DictReader(file)], (
            study / "report/report.md"
        ).read_text()


def set_line(folder: Path, **values: Any) -> None:
    path = folder / "episodes.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[2]) | values
    lines[2] = json.dumps({k: v for k, v in record.items() if v != "gone"})
    path.write_text("\n".join(lines) + "\n")


Damage = Callable[[Path], object]
DAMAGED: dict[str, tuple[str, Damage]] = {
    "a list": ("result.json", lambda run: (run / "result.json").write_text("[1]")),
    "deep": ("result.json", lambda run: (run / "result.json").write_text(DEEP)),
    "no latency": ("result.json", lambda run: (run / "result.json").write_text('{"a": 1}')),
    "empty": ("result.json", lambda run: (run / "result.json").write_text("")),
    "bad settings": ("config.yaml", lambda run: (run / "config.yaml").write_text("a: [")),
    "no settings": ("config.yaml", lambda run: (run / "config.yaml").write_text("a: 1")),
    "a tag": (
        "config.yaml",
        lambda run: (run / "config.yaml").write_text("a: !!python/name:os.system x"),
    ),
    "no seed": ("episodes.jsonl", lambda run: set_line(run, seed="gone")),
    "success 5": ("episodes.jsonl", lambda run: set_line(run, success=5)),
    "a list of videos": ("episodes.jsonl", lambda run: set_line(run, video=[1])),
    "a video elsewhere": ("episodes.jsonl", lambda run: set_line(run, video="../../../etc/passwd")),
    "no score": ("episodes.jsonl", lambda run: set_line(run, score="gone")),
    "NaN": ("episodes.jsonl", lambda run: set_line(run, score=float("nan"))),
    "bytes": ("episodes.jsonl", lambda run: (run / "episodes.jsonl").write_bytes(b"\xff\n\n")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_run_is_listed_and_the_others_are_shown(damage: str, study: Path) -> None:
    file, change = DAMAGED[damage]
    change(study / SLOWER)
    assert read_run(study / SLOWER).status == UNREADABLE
    arms, text = reported(study)
    assert arms == [KITCHEN]
    assert f"| {SLOWER} | unreadable |" in text
    assert f"{SLOWER}/{file} is damaged: " in text
    table, whole = summary([study / KITCHEN, study / SLOWER])
    assert not whole
    assert f"unreadable: {study / SLOWER / file} is damaged: " in table
    assert "1 of 2 jobs finished" in table


def test_a_damaged_status_takes_no_number_away(study: Path) -> None:
    for content in ("", "[]", '{"status": 5}', DEEP):
        (study / SLOWER / "status.json").write_text(content)
        arms, text = reported(study)
        assert arms == [KITCHEN, SLOWER]
        assert f"| {SLOWER} | unreadable | {N} of {N} |" in text
        assert "status.json is damaged: " in text


def test_a_damaged_baseline_leaves_its_arms_without_a_comparison(study: Path) -> None:
    (study / KITCHEN / "result.json").write_text("{")
    arms, text = reported(study)
    assert arms == [SLOWER]
    assert "no baseline" in text


@pytest.mark.parametrize("part", range(4))
def test_any_damage_leaves_a_report(part: int, small: Path, tmp_path: Path) -> None:
    """Of bytes and of values: a run is read as it is written, or listed as unreadable."""
    rng = random.Random(part)
    files = ("result.json", "result.json", "episodes.jsonl", "config.yaml", "status.json")
    for round_ in range(6):
        study = Path(shutil.copytree(small, tmp_path / str(round_)))
        path = study / rng.choice((KITCHEN, SLOWER)) / rng.choice(files)
        if rng.random() < 0.3:
            path.write_bytes(flipped(path.read_bytes(), rng))
        elif path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(changed(parse_yaml(path.read_text()), rng)))
        elif path.suffix == ".json":
            path.write_text(as_json(changed(json.loads(path.read_text()), rng)))
        else:
            lines = path.read_text().splitlines()
            at = rng.randrange(len(lines))
            lines[at] = as_json(changed(json.loads(lines[at]), rng))
            path.write_text("\n".join(lines) + "\n")
        _, text = reported(study)
        unreadable = [run for run in read_study(study).runs if run.status == UNREADABLE]
        assert ("unreadable" in text) == bool(unreadable)
        summary([study / KITCHEN, study / SLOWER])


def test_readers_name_the_file_and_the_line(study: Path) -> None:
    set_line(study / SLOWER, status="won")
    found = read_lines(study / SLOWER)
    assert len(found.records) == N - 1
    assert found.damaged == ["line 3: status must be 'ok' or 'error', got 'won'"]
    (study / SLOWER / "result.json").unlink()
    (study / SLOWER / "result.json").mkdir()
    run = read_run(study / SLOWER)
    assert (run.status, "cannot be read (Is a directory)" in run.error) == (UNREADABLE, True)
    assert issubclass(DamagedFileError, StoreError)


# -- what a report may show


def test_a_film_is_inside_of_its_run(tmp_path: Path) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret.mp4"
    (run / "videos").mkdir(parents=True)
    secret.write_bytes(b"film")
    (run / "videos/1.mp4").write_bytes(b"film")
    (run / "videos/2.mp4").symlink_to(secret)
    (run / "videos/3.mp4").mkdir()
    assert film_of(run, {"video": "videos/1.mp4"}) == run / "videos/1.mp4"
    for video in ("videos/2.mp4", "videos/3.mp4", "../secret.mp4", str(secret), "", None):
        assert film_of(run, {"video": video}) is None


def test_texts_of_a_run_are_no_formulas_markup_or_code(study: Path) -> None:
    path = study / SLOWER / "result.json"
    result = json.loads(path.read_text())
    evil = "=cmd|x <script>a</script> ![x](http://y) `c\n```\n# d"
    path.write_text(json.dumps(result | {"cache": evil, "command": evil, "versions": {evil: evil}}))
    write_report(study, ReportConfig())
    with (study / "report/arms.csv").open() as file:
        cells = [row["cache"] for row in csv.DictReader(file)]
    assert cells == ["none", f"'{evil}"]
    text, html = ((study / f"report/report.{kind}").read_text() for kind in ("md", "html"))
    assert "<script>a" not in html
    outside = text.partition("````sh\n")[0] + text.partition("\n````\n")[2]
    assert r"\<script>a\</script> ![x]\(http://y) \`c \`\`\` # d" in outside
    assert "<script>" not in outside.replace(r"\<", "")
    assert fenced(["a ```` b"], "sh") == ["`````sh", "a ```` b", "`````"]


# -- how runs end


def test_a_full_disk_ends_a_run_in_one_line_and_a_true_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def full(policy: Any, seed: int) -> None:
        raise OSError(28, "No space left on device", "multirun/x")

    fake_episodes.fake(monkeypatch, full)
    assert fake_episodes.run(monkeypatch, *WORDS) == 1
    said = capsys.readouterr().err
    assert "No space left on device: multirun/x; run the same command again, when there" in said
    assert "Traceback" not in said
    (folder,) = Path("multirun/main").iterdir()
    assert json.loads((folder / "status.json").read_text())["status"] == "failed"
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *WORDS) == 0


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_a_disk_that_is_full_before_the_job_is_one_line_too(
    multirun: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Hydra writes the settings into the folder, and its own reports are tracebacks."""
    monkeypatch.chdir(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", ".hydra/config.yaml")

    fake_episodes.fake(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("hydra.core.utils._save_config", full)
        assert fake_episodes.run(monkeypatch, *multirun, *WORDS) == 1
    said = capsys.readouterr().err
    line = "No space left on device: .hydra/config.yaml; run the same command again, when there"
    assert said.count(line) == 1
    assert "Traceback" not in said
    assert fake_episodes.run(monkeypatch, *multirun, *WORDS) == 0


@pytest.mark.parametrize("content", ["", '{"status": "running"}', '{"status": "failed"}'])
def test_a_finished_run_is_finished_whatever_its_status_said(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, "-m", *WORDS) == 0
    (folder,) = (path.parent for path in Path("multirun/main").glob("*/result.json"))
    (folder / "status.json").write_text(content)
    assert fake_episodes.run(monkeypatch, "-m", *WORDS) == 0


def test_a_status_is_written_over_where_there_is_no_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    store = RunStore(tmp_path, {"fingerprint": "a"})
    run = store.running()
    run.__enter__()
    monkeypatch.setattr("runners.store.status.write_whole", full)
    error = OSError(28, "No space left on device")
    assert not run.__exit__(OSError, error, None)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"
    (tmp_path / "status.json").unlink()
    with store.running():
        assert not (tmp_path / "status.json").exists()  # and none that is wrong


def test_sigterm_is_taken_as_ctrl_c(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from runners import cli\n"
        "cli._run = lambda argv: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(cli.run([]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said = "interrupted: run the same command again to go on\n"
    assert (done.returncode, done.stderr) == (130, said)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (f"study={'a' * 300}", "study must be a folder name of at most 250 bytes, got 300: 'aaa"),
        (f"hydra.run.dir=/tmp/{'a' * 300}", "File name too long"),
        (f"task.checkpoint={'a' * 300}", "File name too long"),
    ],
)
def test_names_that_are_too_long_are_a_mistake(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fake_episodes.run(monkeypatch, word) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
