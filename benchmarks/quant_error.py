"""python benchmarks/quant_error.py: how far actions of a quantised policy are from the plain."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from benchmarks.questions import answered, ask, jobs_of, parser_of, scores
from benchmarks.writing import keep, machine, markdown
from runners.acceleration.quantization import quantised_of
from runners.jobs.prepare import MISTAKES
from runners.jobs.settings import UserError

METHODS = {  # arm: quant.method
    **{"rtn": "rtn", "smooth": "smooth", "duquant": "duquant"},
    "best of the three": "auto",
}
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
HEADER = ("bits", "method", "error", "95 %", "median", "p95", "flips", "layer error", "of layers")
KINDS = ("inputs of", "layers", "crest before", "most", "crest after", "most", "drift")


def overrides(bits: str, method: str) -> list[str]:
    weight, activation = BITS[bits]
    words = ["quant=duquant", f"quant.weight_bits={weight}", f"quant.activation_bits={activation}"]
    return [*words, f"quant.method={METHODS[method]}"]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Actions by row, then the inputs of the layers under the forced duquant."""
    said = [markdown(HEADER, [_cells(row) for row in rows])]
    if transformed := [row for row in rows if row["method"] == "duquant"]:
        said.append(markdown(KINDS, _kinds(transformed[0]["layers"])))
    return "\n\n".join(said)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = row["error_interval"]
    chosen = Counter(layer["method"] for layer in row["layers"])
    return (
        *(row["bits"], row["method"], f"{row['error_mean']:.4f}", f"{low:.4f}-{high:.4f}"),
        *(f"{row['error_p50']:.4f}", f"{row['error_p95']:.4f}", f"{row['flips']:.0%}"),
        f"{median(layer['error'] for layer in row['layers']):.2%}",
        ", ".join(f"{n} {method}" for method, n in chosen.most_common()),
    )


def _kinds(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    lines = []
    kinds = [layer["name"].partition(".layers.")[2].partition(".")[2] for layer in layers]
    for kind in dict.fromkeys(kinds):
        mine = [layer for layer, its in zip(layers, kinds, strict=True) if its == kind]
        crests = [[layer[f"crest_{w}"] for layer in mine] for w in ("before", "after")]
        cells = [f"{f(crest):.1f}" for crest in crests for f in (mean, max)]
        lines.append((kind, str(len(mine)), *cells, f"{max(x['drift'] for x in mine):.1f}"))
    return lines


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is made."""
    words = parser_of("quant_error", __doc__, noises=4)
    words.add_argument("--sampler", default="ddpm", help="ddpm, ddim or such with steps (ddim16)")
    words.add_argument("--bits", nargs="+", default=list(BITS), choices=list(BITS))
    words.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = words.parse_args(argv)
    out: Path = options.out or Path("multirun/quant_error") / options.task
    arms = [(bits, method) for bits in options.bits for method in options.methods]
    try:
        jobs = {arm: jobs_of(options, options.sampler, *overrides(*arm)) for arm in arms}
    except (UserError, *MISTAKES) as error:
        print(f"error: {UserError(error)}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    path = out / "quant_error.json"
    rows: dict[str, Any] = json.loads(path.read_text())["rows"] if path.exists() else {}
    about = {"machine": machine(), "threads": options.threads, "command": list(argv)}
    for (bits, method), (job, reporting) in jobs.items():
        key = f"{options.sampler} {bits} {method}"
        if key not in rows:
            copy, _ = quantised_of(job)
            asked = answered(reporting, options.noises, out)
            actions, _ = ask(asked, job.policy, None, copy)
            layers = [asdict(layer) for layer in copy.layers]
            rows[key] = {**scores(actions, asked), "layers": layers, "bits": bits, "method": method}
            keep(out, "quant_error", {"about": about, "rows": rows})
    keep(out, "quant_error", {"about": about, "rows": rows}, as_markdown(list(rows.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
