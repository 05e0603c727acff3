"""The run folder, and the numbers in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runners.metrics import paired, tango, wilson
from runners.store.folder import MAX_OBSERVATIONS, RunStore, StoreError, read_episodes


def episode(seed: int, status: str = "ok") -> dict[str, Any]:
    return {"seed": seed, "status": status, "success": status == "ok"}


def store(folder: Path, fingerprint: str = "a", **kwargs: Any) -> RunStore:
    return RunStore(folder, {"fingerprint": fingerprint}, **kwargs)


def test_a_cut_off_line_is_not_a_record_and_is_not_glued_to_the_next(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.append(episode(1))
    first.close()
    with (tmp_path / "episodes.jsonl").open("a") as file:
        file.write('{"seed": 2, "stat')
    second = store(tmp_path)
    assert second.missing([1, 2]) == [2]
    second.append(episode(2))
    assert read_episodes(tmp_path) == {1: episode(1), 2: episode(2)}
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2


def test_errors_are_tried_again_and_the_newest_record_counts(tmp_path: Path) -> None:
    run = store(tmp_path)
    run.append(episode(1, "error"))
    assert run.missing([1]) == [1]
    run.append(episode(1))
    assert run.missing([1]) == []
    assert read_episodes(tmp_path)[1]["status"] == "ok"


def test_another_run_and_another_process_are_refused(tmp_path: Path) -> None:
    first = store(tmp_path)
    with pytest.raises(StoreError, match="another process is running"):
        store(tmp_path)
    first.close()
    with pytest.raises(StoreError, match="fingerprints differ"):
        store(tmp_path, "b")


def test_episodes_of_one_folder_ran_under_one_plan(tmp_path: Path) -> None:
    run = store(tmp_path)
    run.keep_to_plan("a plan")
    run.keep_to_plan("another")  # nothing ran yet
    run.append(episode(1))
    run.keep_to_plan("another")
    with pytest.raises(StoreError, match=r"the plan another, which is a third now .*force"):
        run.keep_to_plan("a third")
    run.close()
    anew = store(tmp_path, force=True)
    anew.keep_to_plan("a third")
    anew.close()
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "result.json").write_text(json.dumps({"stats": {"plan": "old"}}))
    run = store(earlier)
    run.append(episode(1))
    with pytest.raises(StoreError, match="the plan old, which is new now"):
        run.keep_to_plan("new")


def test_force_starts_anew_and_loses_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        run = store(tmp_path, force=True)
        assert run.missing([1]) == [1]
        run.append(episode(1))
        run.close()
    kept = sorted(tmp_path.glob("previous/*/episodes.jsonl"))
    assert [json.loads(p.read_text())["seed"] for p in kept] == [1, 1]


def test_the_status_says_how_a_run_ended(tmp_path: Path) -> None:
    run = store(tmp_path)

    def status() -> str:
        return str(json.loads((tmp_path / "status.json").read_text())["status"])

    with run.running():
        assert status() == "running"
    assert status() == "finished"
    with pytest.raises(KeyboardInterrupt), run.running():
        raise KeyboardInterrupt
    assert status() == "interrupted"
    assert not (tmp_path / "traceback.txt").exists()
    with pytest.raises(ZeroDivisionError), run.running():
        raise ZeroDivisionError("told")
    assert status() == "failed"
    assert "told" in (tmp_path / "traceback.txt").read_text()


def test_observations_are_kept_up_to_a_limit(tmp_path: Path) -> None:
    run = store(tmp_path)
    assert len(run.observations()) == 0
    for i in range(5):
        run.add_observations(np.full((50, 2, 3), i, dtype=np.float32))
    kept = run.observations()
    assert kept.shape == (MAX_OBSERVATIONS, 2, 3)
    assert kept[0, 0, 0] == 0
    assert kept[-1, 0, 0] == 2


def test_wilson_on_published_examples() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_pairs_are_the_seeds_that_both_arms_have() -> None:
    arm = {1: True, 2: True, 3: False, 4: True, 9: True}
    baseline = {1: True, 2: False, 3: True, 4: False, 7: False}
    result = paired(arm, baseline)
    assert result is not None
    assert (result.n, result.wins, result.losses) == (4, 2, 1)
    assert result.difference == 0.25
    assert result.p_value == 1.0
    assert paired({1: True}, {2: True}) is None
    ten = paired(dict.fromkeys(range(10), True), dict.fromkeys(range(10), False))
    assert ten is not None
    assert ten.p_value == pytest.approx(2 * 0.5**10)


@pytest.mark.parametrize(("wins", "losses", "n"), [(0, 0, 50), (5, 0, 50), (0, 7, 7), (12, 3, 40)])
def test_the_paired_interval_holds_the_estimate_and_mirrors(wins: int, losses: int, n: int) -> None:
    low, high = tango(wins, losses, n)
    assert -1 <= low <= (wins - losses) / n <= high <= 1
    assert tango(losses, wins, n) == pytest.approx((-high, -low), abs=1e-6)
    assert low < high


def test_the_paired_interval_on_a_published_example() -> None:
    """Fagerland, Lydersen & Laake 2014, airway hyper-responsiveness: 1, 1, 7, 12 of 21."""
    assert tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
