"""A run in shards is the run of one process."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from runners.store.folder import RunStore, StoreError
from runners.store.names import MERGING
from runners.store.shards import Shard, merge
from tests.helpers import fake_episodes
from tests.runners.test_runs import command, run

MEASURED = ("latency", "stats", "wall_s", "finished", "time", "peak_memory_mb", "command")
RUN = ("cache=uniform", "n_episodes=8")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder_of(study: str) -> Path:
    (folder,) = Path(f"multirun/{study}").glob("*_uniform_*")
    return folder


def content(study: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What does not depend on the machine; episodes in the order of their seeds."""
    folder = folder_of(study)
    text = (folder / "result.json").read_text().replace(f"study={study}", "study=s")
    result = json.loads(text)
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    episodes = [{**json.loads(line), "seconds": 0} for line in lines]
    assert len({e["seed"] for e in episodes}) == len(episodes)
    kept = {k: v for k, v in result.items() if k not in MEASURED}
    return kept, sorted(episodes, key=lambda e: e["seed"])


def test_shares_are_a_partition_and_stay_when_a_run_is_extended() -> None:
    shares = [Shard(i, 3).share(range(10)) for i in (1, 2, 3)]
    assert sorted(seed for share in shares for seed in share) == list(range(10))
    assert set(Shard(2, 3).share(range(4))) <= set(Shard(2, 3).share(range(10)))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3"])
def test_a_shard_is_one_of_n(text: str) -> None:
    with pytest.raises(ValueError, match="shard must be i/n with i from 1 to n, got"):
        Shard.parse(text)


def test_the_last_shard_makes_what_one_process_makes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *RUN, "study=one") == 0
    capsys.readouterr()
    for shard, done in (("3/3", 2), ("1/3", 5)):
        played = fake_episodes.fake(monkeypatch)
        assert fake_episodes.run(monkeypatch, *RUN, "study=three", f"shard={shard}") == 0
        assert len(played) == (2 if shard == "3/3" else 3)
        assert f"{done} of 8 episodes, in shards" in capsys.readouterr().out
        assert not (folder_of("three") / "result.json").exists()
    assert fake_episodes.run(monkeypatch, *RUN, "study=three", "shard=2/3") == 0
    said = capsys.readouterr().out
    assert "success" in said
    assert ["files", str(folder_of("three"))] in [line.split() for line in said.splitlines()]
    assert content("three") == content("one")
    config = [(folder_of(study) / "config.yaml").read_text() for study in ("one", "three")]
    assert config[0].replace("study: one", "study: three") == config[1]

    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *RUN, "study=three") == 0
    assert not played
    assert fake_episodes.run(monkeypatch, "-m", *RUN[:1], "n_episodes=11", "study=three",
                             "shard=1/2,2/2") == 0  # fmt: skip
    assert sorted(played) == [100008, 100009, 100010]
    assert "2 of 2 jobs finished" in capsys.readouterr().out
    assert len(content("three")[1]) == 11


def test_one_process_finishes_what_shards_began(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *RUN, "study=both", "shard=2/2") == 0
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *RUN, "study=both") == 0
    assert played == [100000, 100002, 100004, 100006]
    assert fake_episodes.run(monkeypatch, *RUN, "study=one") == 0
    assert content("both") == content("one")
    seconds = json.loads((folder_of("both") / "time.json").read_text())
    merge(store := RunStore(folder_of("both"), {"fingerprint": folder_of("both").name[-8:]}))
    store.close()
    assert json.loads((folder_of("both") / "time.json").read_text()) == seconds


def test_a_shard_and_the_whole_run_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, *RUN, "study=both", "shard=2/2") == 0
    folder = folder_of("both")
    whole = RunStore(folder, {"fingerprint": folder.name[-8:]})
    assert fake_episodes.run(monkeypatch, *RUN, "study=both", "shard=1/2") != 0
    assert "another process is running" in capsys.readouterr().err
    whole.close()


def test_merging_waits_for_who_is_merging(tmp_path: Path) -> None:
    first = RunStore(tmp_path, {"fingerprint": "a"}, lock=MERGING)
    order: list[str] = []

    def second() -> None:
        RunStore(tmp_path, {"fingerprint": "a"}, lock=MERGING).close()
        order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.2)
    order.append("first")
    first.close()
    thread.join(10)
    assert order == ["first", "second"]


def test_shards_of_different_plans_are_refused(tmp_path: Path) -> None:
    for name in ("1of2", "2of2"):
        (tmp_path / "shards" / name).mkdir(parents=True)
        (tmp_path / "shards" / name / "plan.txt").write_text(name)
    store = RunStore(tmp_path, {"fingerprint": "a"})
    with pytest.raises(StoreError, match="different plans"):
        merge(store)
    store.close()


def test_shards_that_run_at_once_make_what_one_process_makes(tmp_path: Path) -> None:
    words = ("n_episodes=6", "task.max_steps=10", "n_envs=1", "logger=none", "latency.repeats=1")
    run(tmp_path, *words, "study=one")
    shards = [
        subprocess.Popen(
            command(*words, "study=three", f"shard={i}/3"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in (1, 2, 3)
    ]
    said = [shard.communicate()[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0, 0], said
    assert content("three") == content("one")
    assert (folder_of("three") / "videos/100000.mp4").exists()
