"""python benchmarks/quant_error.py: how far actions of a quantised policy are from the plain."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

METHODS: dict[str, str] = {  # arm: quant.method
    "rtn": "rtn",
    "smooth": "smooth",
    "duquant": "duquant",
    "best of the three": "auto",
}
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
HEADER = ("bits", "method", "error", "95 %", "median", "p95", "flips", "layer error", "of layers")
KINDS = ("layers", "crest before", "most", "crest after", "most", "drift")


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/quant_error.py", description=__doc__)
    words.add_argument("--task", default="kitchen")
    words.add_argument("--checkpoint", help="as task.checkpoint= (the task's own)")
    words.add_argument("--sampler", default="ddpm", help="ddpm, ddim or such with steps (ddim16)")
    words.add_argument("--bits", nargs="+", default=list(BITS), choices=list(BITS))
    words.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    words.add_argument("--queries", type=int, default=64, help="to fit to, and to report on")
    words.add_argument("--episodes", type=int, default=8, help="of the queries to fit to")
    words.add_argument("--noises", type=int, default=4, help="other noises per reported query")
    words.add_argument("--threads", type=int, default=2, help="as threads=")
    words.add_argument("--n-envs", default="auto", help="as n_envs=")
    words.add_argument("--min-features", type=int, default=64, help="as quant.min_features=")
    words.add_argument("--out", type=Path, help="folder (multirun/quant_error/TASK)")
    return words


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    from accel.quant.selection import choose, linears, usual_attentions
    from benchmarks.actions.questions import Asked, prepare
    from benchmarks.latency import machine
    from runners.jobs.prepare import MISTAKES
    from runners.jobs.settings import UserError
    from runners.store.folder import write_whole

    options = parser().parse_args(argv)
    out: Path = options.out or Path("multirun/quant_error") / options.task
    try:
        asked = Asked(
            task=options.task,
            checkpoint=options.checkpoint,
            n_queries=options.queries,
            n_episodes=options.episodes,
            n_noises=options.noises,
            threads=options.threads,
            n_envs=options.n_envs,
        )
        jobs = prepare(asked, options.sampler)
        policy = jobs.calibrating.policy
        configs = list(settings(options))
        choose(linears(policy, usual_attentions(policy)), configs[0][2])
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    path = out / "quant_error.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    about = {"machine": machine(), "threads": asked.threads, "command": list(argv)}
    for bits, name, config in configs:
        key = f"{options.sampler} {bits} {name}"
        if key not in rows:
            rows[key] = measured(jobs, config, asked, out) | {"bits": bits, "method": name}
            write_whole(path, json.dumps({"about": about, "rows": rows}))
            print(f"{key}: {rows[key]['error_mean']:.4f}", flush=True)
    write_whole(out / "quant_error.md", as_markdown(list(rows.values())))
    print(as_markdown(list(rows.values())))
    return 0


def settings(options: argparse.Namespace) -> Sequence[tuple[str, str, Any]]:
    """(bits, arm, config) of every row."""
    from accel import DuQuantConfig

    return [
        (
            bits,
            name,
            DuQuantConfig(
                weight_bits=BITS[bits][0],
                activation_bits=BITS[bits][1],
                method=METHODS[name],
                min_features=options.min_features,
            ),
        )
        for bits in options.bits
        for name in options.methods
    ]


def measured(jobs: Any, config: Any, asked: Any, out: Path) -> dict[str, Any]:
    """Fit on the calibration's queries, act on the others."""
    import torch

    from benchmarks.actions.measure import Program, actions_of, scores
    from benchmarks.actions.questions import answered
    from runners.acceleration.calibration import locked, queries_of
    from runners.acceleration.quantization import quantised_of

    torch.set_num_threads(asked.threads)
    copy, _ = quantised_of(replace(jobs.calibrating, quant=config))
    with locked(jobs.reporting.recipe.folder):
        queries = queries_of(jobs.reporting)
    questions = answered(jobs.reporting, queries, asked.n_noises, out)
    program = Program(jobs.calibrating.policy, None, copy)
    actions = actions_of(program, questions.obs, questions.noise(), str(config.method))
    return {**scores(actions, questions), "layers": [asdict(layer) for layer in copy.layers]}


def kind_of(layer: str) -> str:
    """self_attn.in_proj of model.decoder.layers.3.self_attn.in_proj."""
    return layer.partition(".layers.")[2].partition(".")[2]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Actions by row, then the inputs of the layers under the forced duquant."""
    table = [HEADER, ("---",) * len(HEADER), *map(_cells, rows)]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    transformed = [row for row in rows if row["method"] == "duquant"]
    if transformed:
        head = ("inputs of", *KINDS)
        lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += _kinds(transformed[0]["layers"])
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["error_interval"]
    chosen = Counter(layer["method"] for layer in row["layers"])
    return (
        row["bits"],
        row["method"],
        f"{row['error_mean']:.4f}",
        f"{low:.4f}-{high:.4f}",
        f"{row['error_p50']:.4f}",
        f"{row['error_p95']:.4f}",
        f"{row['flips']:.0%}",
        f"{median(layer['error'] for layer in row['layers']):.2%}",
        ", ".join(f"{n} {method}" for method, n in chosen.most_common()),
    )


def _kinds(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(kind_of(layer["name"]) for layer in layers):
        mine = [layer for layer in layers if kind_of(layer["name"]) == kind]
        crests = [[layer[f"crest_{w}"] for layer in mine] for w in ("before", "after")]
        cells = [kind, str(len(mine))]
        cells += [f"{f(crest):.1f}" for crest in crests for f in (mean, max)]
        cells += [f"{max(layer['drift'] for layer in mine):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def run() -> int:
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted: the rows that were finished are in the folder", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run())
