"""Images by both ways: the same ones arrive, and what is said follows from the times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.observations import Album, Piped, main
from envs.pool import EnvPool


def test_both_ways_bring_the_same_images() -> None:
    found = []
    for kind, has_frames in ((EnvPool, True), (Piped, False)):
        with kind(Album(8), 1) as pool:
            assert (pool._slots[0].frames is not None) == has_frames
            pool.reset(0, 0)
            pool.wait()
            pool.step(0, np.zeros((3, 2)))
            (event,) = pool.wait()
            found.append(event.obs["image.top"])
    assert found[0].shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(*found)


def test_it_says_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sizes", "16", "--steps", "3", "--rounds", "3", "--warmup", "1"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "observations.json").read_text())["16"]
    assert found["megabytes"] == pytest.approx(3 * 3 * 16 * 16 / 1e6)
    said = capsys.readouterr().out
    assert f"{found['shared memory']['cpu_ratio']:.2f} [" in said
    assert "3 of 3 x 16 x 16" in said
    assert main(["--rounds", "1"]) == 2
    assert "--rounds must be at least 2, got 1" in capsys.readouterr().err
