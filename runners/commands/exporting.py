"""skipstep export: a policy of ours to diffusion_policy, LeRobot, or one graph (ONNX, OpenVINO).

To a graph goes the whole query, as settings make it: skipstep export --to onnx checkpoints/kitchen
kitchen.onnx sampler=ddpm sampler.steps=5 cache=uniform cache.steps=3 quant=duquant
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..arguments import Parser, guarded
from ..errors import UserError


def run(words: Sequence[str]) -> int:
    """0: written; 2: a mistake of the user."""
    parser = Parser("skipstep export", description=__doc__)
    parser.add_argument("source", help="the policy: what task.checkpoint takes")
    parser.add_argument("target", type=Path, help="the file, or LeRobot's folder, to write")
    parser.add_argument(
        "settings", nargs="*", help="of a graph: cache=, quant=, sampler=, calibration=, plugins="
    )
    parser.add_argument("--to", choices=tuple(FORMATS), default=next(iter(FORMATS)))
    parser.add_argument(
        "--state-dim",
        type=int,
        help="of LeRobot, where the policy sees one array: how many of its numbers are "
        "observation.state (the others become observation.environment_state)",
    )
    parser.add_argument("--batch", type=int, help="of a graph: rows of a query (default 1)")
    return guarded(parser, words, _export)


def _export(said: argparse.Namespace) -> int:
    extra = [*([] if said.batch is None else ["--batch"]), *said.settings]
    if extra and FORMATS[said.to] is not _graph:
        raise UserError(f"{extra[0]} goes with --to onnx or --to openvino, got --to {said.to}")
    if said.state_dim is not None and said.to != "lerobot":
        raise UserError("--state-dim goes with --to lerobot")
    for line in FORMATS[said.to](said):
        print(line)
    return 0


def _reference(said: argparse.Namespace) -> list[str]:
    from envs import reference_runner
    from policies import export_reference, load_policy

    policy = load_policy(said.source)
    export_reference(policy, said.target, reference_runner(asdict(policy.config.task)))
    return [_size([said.target], said.target)]


def _lerobot(said: argparse.Namespace) -> list[str]:
    from policies import export_lerobot, load_policy

    export_lerobot(load_policy(said.source), said.target, said.state_dim)
    return [_size(said.target.iterdir(), said.target)]


def _graph(said: argparse.Namespace) -> list[str]:
    from accel import CACHES
    from accel.graphs import FORMATS as GRAPHS
    from accel.graphs import export_graph
    from accel.graphs.export import checked_format
    from accel.graphs.query import check_fixed
    from accel.robot import accelerate
    from policies import load_policy

    from ..launch.method import method_of

    batch = 1 if said.batch is None else said.batch
    method = method_of(said.settings, f"export --to {said.to}")
    check_fixed(method.cache.name, CACHES[method.cache.name].decides)
    checked_format(said.to, said.target, batch, method.quant.name != "none")
    policy = method.sampled(load_policy(said.source))
    with accelerate(policy, method.cache, method.quant, **method.rests_on()) as robot:
        made = export_graph(robot.fast, said.target, said.to, batch)
    runtime, checked = GRAPHS[said.to].runtime, made.checked
    lines = [_size(made.files, said.target), f"what it is: {said.target.with_suffix('.json')}"]
    if checked is None:
        return [*lines, f"not checked: {runtime} is not installed (pip install {runtime})"]
    return [
        *lines,
        f"checked: {checked.runtime} gives the policy's actions to {checked.error:.1g} "
        f"(normalised) on {checked.queries} queries",
    ]


def _size(files: Iterable[Path], target: Path) -> str:
    n_bytes = sum(file.stat().st_size for file in files)
    return f"{n_bytes / 2**20:.1f} MiB in {target}"


FORMATS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "diffusion_policy": _reference,
    "lerobot": _lerobot,
    "onnx": _graph,
    "openvino": _graph,
}
"""--to -> how it is written, and what is then said."""
