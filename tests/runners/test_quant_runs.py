"""Quantised runs on the command line: statistics made once, codes kept, all of it told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from accel import QUANTIZERS, Statistics
from accel.quant import native_linear
from runners.cli import run
from runners.formatting import quantisation_words
from runners.report.page import markdown, parts
from runners.report.top import top
from runners.studies.comparisons import ReportConfig, findings
from runners.studies.study import read_study
from tests.helpers.places import FIXTURES, PROJECT
from tests.helpers.study_folder import KITCHEN as STARTER_RUN
from tests.helpers.study_folder import change_result, copy_starter

KITCHEN = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
SMALL = [
    f"task.checkpoint={KITCHEN}",
    "task.max_steps=16",
    "sampler=ddim",
    "sampler.steps=6",
    "n_episodes=2",
    "n_envs=2",
    "threads=1",
    "videos=0",
    "logger=none",
    "latency.repeats=0",
    "calibration.n_queries=8",
    "calibration.n_episodes=4",
]
QUANT = ["quant=duquant", "quant.min_features=8", "quant.weight_bits=4"]
HASH_AB = ["cache=hash_ab", "cache.steps=3"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one quantised run has ended."""
    folder = tmp_path_factory.mktemp("quant")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run.py", *SMALL, *QUANT, *HASH_AB])
        assert run([*SMALL, *QUANT, *HASH_AB]) == 0
    return folder


@pytest.fixture
def inside(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return here


def result(folder: Path, pattern: str = "main/kitchen_hash_ab_duquant_*") -> dict[str, Any]:
    (path,) = (folder / "multirun").glob(f"{pattern}/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_result_says_everything_of_its_quantisation(here: Path) -> None:
    found = result(here)
    quantisation = found["quantisation"]
    assert found["quant"] == "duquant"
    assert (quantisation["weight_bits"], quantisation["activation_bits"]) == (4, 8)
    assert len(quantisation["layers"]) == 12
    for layer in quantisation["layers"]:
        assert layer["kernel"] == ("native" if native_linear.works() else "torch")
        assert layer["simulated"] == "4-bit weights, multiplied as 8-bit integers"
        assert layer["error"] == min(layer["errors"].values())
        assert layer["bytes_after"] < layer["bytes_before"]
        assert layer["crest_before"] > 1
    assert 0.5 < quantisation["share"] < 1
    (folder,) = (here / "multirun/calibrations").iterdir()
    statistics = Statistics.load(folder)
    assert quantisation["statistics"]["digest"] == statistics.digest()
    assert statistics.source["seeds"][0] == 300000
    assert found["calibration"]["path"].startswith(f"multirun/calibrations/{folder.name}")
    (run_folder,) = (here / "multirun/main").glob("kitchen_hash_ab_duquant_*")
    config: Any = OmegaConf.load(run_folder / "config.yaml")
    assert config.statistics == folder.name.partition("_")[2]
    plan, codes, kernels = (run_folder / "plan.txt").read_text().split("-")
    assert (plan, codes) == (found["stats"]["plan"], quantisation["digest"])
    assert len(kernels) == 16


def test_the_same_seeds_end_the_same_whatever_runs_beside_them(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (next((inside / "multirun/main").glob("*")) / "episodes.jsonl").read_text()
    assert run([*SMALL, *QUANT, *HASH_AB, "study=alone", "n_envs=1"]) == 0
    alone = (next((inside / "multirun/alone").glob("*")) / "episodes.jsonl").read_text()

    def outcomes(text: str) -> dict[int, Any]:
        episodes = [json.loads(line) for line in text.splitlines()]
        kept = ("score", "n_steps", "n_queries", "details")
        return {e["seed"]: [e[k] for k in kept] for e in episodes}

    assert outcomes(alone) == outcomes(first)
    said = capsys.readouterr().out
    assert "quant=duquant" in said
    assert "12 layers" in said
    assert "4-bit weights, multiplied as 8-bit integers (12 layers)" in said
    assert run([*SMALL, *QUANT, *HASH_AB]) == 0
    assert "finished already" in "".join(capsys.readouterr())


def test_codes_of_other_statistics_are_not_used(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = (inside / "multirun/calibrations").iterdir()
    (copy,) = folder.glob("quant_*.safetensors")
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run([*SMALL, *QUANT, *HASH_AB, "study=damaged", "n_episodes=1"]) == 0
    said = "".join(capsys.readouterr())
    assert "digest does not match the content: to be made anew" in said
    assert copy.read_bytes() == content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quant.weight_bits=9"], "quant.weight_bits must be 2 to 8, or 16 for none, got 9"),
        (["quant.include=[typo]"], "quant.include: 'typo' matches none of"),
        (["quant.layer_bits={typo: 4}"], "quant.layer_bits: 'typo' matches none of 12"),
        (["quant.min_features=999"], "matches none of 0 layers of at least 999 features"),
        (["quant.unknown=1"], "unknown"),
        (["calibration.start_seed=100000"], "are among the test seeds"),
        (["calibration.path=multirun"], "no calibration at multirun/calibration.json"),
    ],
)
def test_a_mistake_is_one_line(
    inside: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p for p in inside.rglob("*") if p.is_dir())
    assert run([*SMALL, *QUANT, "study=mistakes", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in line
    assert sorted(p for p in inside.rglob("*") if p.is_dir()) == before


def test_statistics_may_be_named(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (inside / "multirun/calibrations").iterdir()
    named = [f"calibration.path={folder}"]
    without = [w for w in SMALL if not w.startswith("calibration.")]
    assert run([*without, *QUANT, *named, "study=named", "n_episodes=1"]) == 0
    config: Any = OmegaConf.load(next((inside / "multirun/named").glob("*/config.yaml")))
    assert config.statistics == Statistics.load(folder).digest()
    capsys.readouterr()
    assert run([*without, "sampler.steps=5", *QUANT, *named]) == 2  # another sampler
    assert "calibration.path" in capsys.readouterr().err
    bare = inside / "bare"
    bare.mkdir()
    for name in ("calibration.json", "calibration.safetensors"):
        (bare / name).write_bytes((folder / name).read_bytes())
    assert run([*without, *QUANT, f"calibration.path={bare}"]) == 2
    assert "has no statistics.safetensors" in capsys.readouterr().err


def test_every_yaml_has_the_settings_of_its_config() -> None:
    for name, (config, _) in QUANTIZERS.items():
        node: Any = OmegaConf.to_container(OmegaConf.load(PROJECT / f"conf/quant/{name}.yaml"))
        assert config(**node) == config()
        assert node.keys() == vars(config()).keys()


def quantised_run(folder: Path, bits: int, warnings: list[str]) -> None:
    """A finished run of the starter study, as if it had been quantised."""
    path = folder / "config.yaml"
    config: Any = OmegaConf.load(path)
    config.quant = {"name": "duquant", "weight_bits": bits, "activation_bits": 8, "block": 16}
    OmegaConf.save(config, path)
    layer = {
        "method": "duquant",
        "error": 0.01,
        "crest_before": 12.0,
        "crest_after": 3.1,
        "kernel": "native",
        "simulated": "4-bit weights, multiplied as 8-bit integers" if bits == 4 else "",
    }
    found = {
        "weight_bits": bits,
        "activation_bits": 8,
        "warnings": warnings,
        "bytes_before": 100,
        "bytes_after": 26,
        "share": 0.9,
        "layers": [layer, layer | {"method": "rtn", "error": 0.03}],
    }
    change_result(folder, quant="duquant", quantisation=found, baseline={"folder": None})


def test_a_report_tells_quantised_arms_apart_and_shows_them(tmp_path: Path) -> None:
    study = copy_starter(tmp_path / "study")
    uniform = sorted(study.glob("kitchen_uniform_*"))
    quantised_run(uniform[0], 8, [])
    quantised_run(uniform[1], 4, ["noise is loud"])
    read = read_study(study)
    arms = {arm.run.name: arm for arm in findings(read, ReportConfig())}
    assert "duquant W8A8" in arms[uniform[0].name].label
    assert "duquant W4A8" in arms[uniform[1].name].label
    assert "block" not in arms[uniform[0].name].label
    assert "duquant" not in arms[STARTER_RUN].label
    found = list(arms.values())
    text = markdown(top(read, found, 0.05), parts(read, found, 0.05, study / "report"))
    (row,) = [line for line in text.splitlines() if "W4A8 |" in line]
    for words in (
        "| 1 duquant, 1 rtn | 1.00% to 3.00% | 12.0 | 3.1 | 0.26x | 90% | 2 native |",
        "4-bit weights, multiplied as 8-bit integers (2 layers) | noise is loud |",
    ):
        assert words in row
    (row,) = [line for line in text.splitlines() if "W8A8 |" in line]
    assert "| nothing |" in row
    said = quantisation_words(arms[uniform[1].name].run.result["quantisation"])
    assert (
        said[0]
        == "2 layers, 90% of the multiply-adds, W4A8: 1 duquant, 1 rtn; 0.26x of their bytes"
    )
    assert said[-1] == "warning: noise is loud"
