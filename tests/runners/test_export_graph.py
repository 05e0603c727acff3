"""skipstep export --to onnx, and docs/how-to/export.md, whose code runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from policies import save_policy
from runners.commands import exporting
from tests.helpers.places import PROJECT
from tests.helpers.stock import small_policy

ONNX = all(map(find_spec, ("onnx", "onnxruntime")))
needs_onnx = pytest.mark.skipif(not ONNX, reason="not installed: onnx, onnxruntime")
(CODE,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs/how-to/export.md").read_text(), re.S)


@pytest.fixture
def ours(tmp_path: Path) -> str:
    save_policy(small_policy(steps=3), tmp_path / "ours", torch.float32)
    return str(tmp_path / "ours")


@needs_onnx
def test_a_graph_by_settings(ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "out" / "graph.onnx")
    settings = ["sampler=ddpm", "sampler.steps=4", "cache=uniform", "cache.steps=2"]
    assert exporting.run(["--to", "onnx", ours, target, *settings, "--batch", "2"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        rf"\d\.\d MiB in {target}\nwhat it is: .*graph\.json\nchecked: onnxruntime \S+ gives the "
        r"policy's actions to \S+ \(normalised\) on 4 queries\n",
        said,
    ), said
    sidecar = json.loads(Path(target).with_suffix(".json").read_text())
    assert (sidecar["batch"], sidecar["plan"]["steps"]) == (2, 4)
    assert sidecar["plan"]["method"].startswith("uniform steps=2")


REFUSED = {
    "--to onnx {ours} {out}.onnx task=lift": "export --to onnx takes cache=, quant=, sampler=, "
    "calibration=, plugins=, got task=lift",
    "--to onnx {ours} {out}.onnx cache=unifrm": "cache must be one of .*; did you mean uniform?",
    "--to onnx {ours} {out}.onnx uniform": "uniform: a setting is written uniform=VALUE",
    "--to onnx {ours} {out}.onnx cache=teacache": "cache=teacache decides at run time .*",
    "--to onnx {ours} {out}.onnx cache=first_block": "cache=first_block decides at run time .*",
    "--to onnx {ours} {out}.onnx calibration.n_queries=8": "export --to onnx plays no episodes: "
    "calibration.path= .*, got calibration.n_queries=8",
    "--to openvino {ours} {out}.xml quant=rtn": "to=openvino has no quantised weights: .*",
    "--to onnx {ours} {out}.pt": "the file of to=onnx must end in .onnx, got out.pt",
    "{ours} {out}.ckpt cache=uniform": "cache=uniform goes with --to onnx or --to openvino, got "
    "--to diffusion_policy",
    "{ours} {out}.ckpt --batch 2": "--batch goes with --to onnx or --to openvino, .*",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_is_refused_is_one_line(
    typed: str, ours: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert exporting.run(typed.format(ours=ours, out=out).split()) == 2
    said = capsys.readouterr().err
    wanted = ".*".join(re.escape(part) for part in REFUSED[typed].split(".*"))
    assert re.fullmatch(f"error: {wanted}\n", said), said
    assert {path.name for path in tmp_path.iterdir()} == {"ours"}


@needs_onnx
def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    source = str(PROJECT / "checkpoints/kitchen")
    words = ["--to", "onnx", source, str(tmp_path / "kitchen.onnx"), "sampler=ddpm"]
    assert exporting.run([*words, "sampler.steps=2"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 8, 9)"
