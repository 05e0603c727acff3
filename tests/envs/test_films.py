"""Films of chosen seeds, also of episodes that were played before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runners.store.folder import read_episodes
from tests.helpers import fake_episodes


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def films(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "videos").glob("*"))


def run_folder() -> Path:
    (folder,) = Path("multirun/main").iterdir()
    return folder


def test_chosen_seeds_are_filmed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    played = fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, "n_episodes=4", "film=[100002]") == 0
    assert played == [100000, 100001, 100002, 100003]
    folder = run_folder()
    assert films(folder) == ["100000.mp4", "100002.mp4"]
    before = read_episodes(folder)

    again = ("n_episodes=4", "film=[100002,100003]")
    assert fake_episodes.run(monkeypatch, *again) == 0
    assert played[4:] == [100003]
    after = read_episodes(folder)
    assert after[100003].pop("video") == "videos/100003.mp4"
    assert before[100003].pop("video") is None
    assert after == before
    assert fake_episodes.run(monkeypatch, *again) == 0
    (folder / "videos/100003.mp4").unlink()
    assert fake_episodes.run(monkeypatch, *again) == 0
    assert played[5:] == [100003]


def test_an_episode_that_ends_otherwise_is_no_film_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_episodes.fake(monkeypatch)
    assert fake_episodes.run(monkeypatch, "n_episodes=2", "videos=0") == 0
    before = (run_folder() / "episodes.jsonl").read_bytes()
    honest = fake_episodes.result

    def other(seed: int, policy: Any) -> Any:
        return replace(honest(seed, policy), n_steps=9)

    monkeypatch.setattr(fake_episodes, "result", other)
    assert fake_episodes.run(monkeypatch, "n_episodes=2", "videos=0", "film=[100001]") == 1
    assert "seed 100001 ended otherwise when it was filmed" in capsys.readouterr().err
    assert (run_folder() / "episodes.jsonl").read_bytes() == before
    assert json.loads((run_folder() / "status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["film=[7]"], "film must name seeds of the run, 100000 to 100049, got [7]"),
        (["film=[100000]", "runner=show"], "film needs runner=evaluate, got runner=show"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fake_episodes.run(monkeypatch, *words) == 2
    assert said in capsys.readouterr().err
    assert not Path("multirun").exists()
