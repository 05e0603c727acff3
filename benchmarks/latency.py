"""python benchmarks/latency.py: a query of the policy, every way of running it in turn."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import numpy as np
import torch

from accel import BacConfig, HashAbConfig, query_flops
from benchmarks import others, ours, peers
from benchmarks.rounds import beside, interleave
from benchmarks.setting import HEAD_WIDTH, Arm, Setting, Unavailable, observations, policy_of_width
from benchmarks.stock import stock, stock_ddim
from benchmarks.writing import check, keep, machine, markdown
from policies import DiffusionPolicy

ARMS: dict[str, Callable[[Setting], Arm]] = {
    "stock": stock,
    "reference none": ours.reference_none,
    "fused none": ours.accelerated_arm,
    "fused none, float32": ours.fused_float32,
    "fused bf16": ours.fused_bf16,
    "fused uniform": ours.fused_uniform,
    "fused bac": ours.fused_calibrated(BacConfig, "first layers more often"),
    "fused bac, block layout": ours.fused_calibrated(BacConfig, "as published", layout="block"),
    "fused hash_ab": ours.fused_calibrated(HashAbConfig, "first layers more often, forecasts"),
    "fused duquant W8A8": ours.fused_duquant(8),
    "fused duquant W4A8": ours.fused_duquant(4),
    "fused ddim": ours.fused_ddim,
    "fused first-layer": ours.fused_first_layer,
    "stock ddim": stock_ddim,
    "torch.compile": others.compiled,
    "OpenVINO": peers.openvino_arm(),
    "OpenVINO, live": peers.openvino_arm(live=True),
    "OpenVINO bf16": peers.openvino_arm("bf16"),
    "OpenVINO bf16, live": peers.openvino_arm("bf16", live=True),
    "cache-dit": others.cache_dit,
    "diffusers TaylorSeer": others.taylorseer,
    "diffusers FirstBlock": others.first_block,
    "diffusers PAB, FasterCache": others.attention_only,
}
BASELINES = ("stock", "reference none")
HEADER = ("", "p10", "p50", "p90 ms", "times as fast", "FLOPs", "live", "max |d|", "")
NOTE = """
times as fast: median of the baseline over median of the arm, 95 % bootstrap interval over rounds;
of CPU time where the note says so, which is where wall time disagrees with it by more than 20 %.
FLOPs: share of the plain policy's, as papers count it; live: what the arm really computes. Neither
is a speed-up. max |d|: largest difference of an action from the baseline's, normalised units."""


def parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(prog="benchmarks/latency.py", description=__doc__)
    words.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows of a query")
    words.add_argument("--width", type=int, nargs="+", default=[256, 768], help="256 is shipped")
    words.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch")
    words.add_argument("--layers", type=int, default=8)
    words.add_argument("--steps", type=int, default=10, help="S of the caches and of ddim")
    words.add_argument("--rounds", type=int, default=30, help="timed calls of each arm")
    words.add_argument("--warmup", type=int, default=3, help="rounds before them")
    words.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    words.add_argument("--out", type=Path, default=Path("multirun/latency"), help="folder")
    return words


def refuse(options: argparse.Namespace) -> None:
    """Raise ValueError where an option is wrong."""
    check(options, batch=1, threads=1, layers=1, steps=2, rounds=2, warmup=0)
    if unknown := [name for name in options.arms if name not in ARMS]:
        raise ValueError(f"--arms must be among {', '.join(ARMS)}, got {unknown[0]!r}")
    if not set(options.arms) & set(BASELINES):
        said = ", ".join(options.arms)
        raise ValueError(f"--arms must name {' or '.join(BASELINES)} to compare with, got {said}")
    for width in options.width:
        if width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ValueError(f"--width must be a multiple of {HEAD_WIDTH}, got {width}")


def built(name: str, setting: Setting) -> Arm | str:
    """An arm that has run once, or why there is none."""
    try:
        arm = ARMS[name](setting)
        arm.query()
    except Unavailable as error:
        return str(error)
    except Exception as error:
        if ARMS[name].__module__ != others.__name__:  # another library may fail, ours may not
            raise
        return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
    return arm


def held() -> dict[object, int]:
    """{storage: bytes} of every tensor that Python holds; a packed weight has none of its own."""
    found: dict[object, int] = {}
    for thing in gc.get_objects():
        if type(thing) not in (torch.Tensor, torch.nn.Parameter) or thing.is_meta:
            continue
        if thing.layout != torch.strided:
            found["packed", id(thing)] = thing.numel() * thing.element_size()
        elif thing.untyped_storage().nbytes():
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return found


def linears(policy: DiffusionPolicy, batch: int) -> Callable[[], None]:
    """The linear layers of one computed step, packed by oneDNN, with nothing between them."""
    model, dim, rows = policy.model, policy.sizes.n_emb, batch * policy.n_live
    weights: list[Any] = [model.input_emb.weight, model.head.weight]
    for layer in model.decoder.layers:
        own, cross = layer.self_attn, layer.multihead_attn
        weights += [own.in_proj_weight, own.out_proj.weight]
        weights += [cross.in_proj_weight[:dim], cross.out_proj.weight]  # keys come from the memory
        weights += [layer.linear1.weight, layer.linear2.weight]
    pack, run = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
    with torch.inference_mode():
        calls = [
            (
                torch.randn(rows, w.shape[1]),
                pack(w.detach().contiguous(), rows),
                torch.zeros(len(w)),
            )
            for w in weights
        ]

    @torch.inference_mode()
    def step() -> None:
        for x, weight, bias in calls:
            run(x, weight, bias, "none", [], "")

    return step


def measure(setting: Setting, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """All arms of a row in one process, ready for JSON."""
    policy, arms, costs = setting.policy, dict[str, Arm](), dict[str, dict[str, Any]]()
    for name in options.arms:
        before, start = held(), time.perf_counter()
        arm = built(name, setting)
        if isinstance(arm, str):
            costs[name] = {"unavailable": arm}
            continue
        costs[name] = {"build_s": time.perf_counter() - start}
        costs[name]["bytes"] = sum(size for key, size in held().items() if key not in before)
        arms[name] = arm
    baseline = next(name for name in (*BASELINES, *arms) if name in arms)
    n_steps = policy.n_inference_steps
    probes = {f"reusing {n}": ours.reusing(setting, n).query for n in (n_steps, n_steps // 2)}
    calls = {**{name: arm.query for name, arm in arms.items()}, **probes}
    calls["linears"] = linears(policy, len(setting.obs))
    times = interleave(calls, options.rounds, options.warmup)
    plain, expected = query_flops(policy, setting.full()), arms[baseline].query()
    scale = policy.normalizer.params_dict["action"]["scale"]
    for name, arm in arms.items():
        costs[name] |= {
            **beside(times[baseline], times[name], threads),
            "flops_share": arm.flops / plain,
            "live_flops_share": arm.live_flops / plain,
            "deviation": float(((arm.query() - expected) * scale).detach().abs().max()),
            "note": arm.note,
            "samples_ms": [round(x, 4) for x in times[name].wall_ms],
            "samples_cpu_ms": [round(x, 4) for x in times[name].cpu_ms],
        }
    samples = {name: np.array(found.wall_ms) for name, found in times.items()}
    return {
        "setting": {
            **{"batch": len(setting.obs), "width": policy.sizes.n_emb, "threads": threads},
            **{"n_layer": policy.sizes.n_layer, "n_head": policy.sizes.n_head},
            "sampler": f"{policy.config.sampler.kind}-{n_steps}",
            **{"steps": setting.steps, "rounds": options.rounds, "baseline": baseline},
        },
        "arms": costs,
        "step": step_costs(samples, n_steps, setting.steps),
        "weight_bytes": sum(p.nbytes for p in policy.model.parameters()),
    }


def step_costs(samples: Mapping[str, np.ndarray], n_steps: int, steps: int) -> dict[str, float]:
    """What one step costs, from differences of whole queries of the same rounds.

    A fully cached step is (query of N steps, one computed - query of N/2, one computed) / (N/2); a
    computed one costs (query without cache - query with S computed) / (N - S) more.
    """
    half = n_steps // 2
    cached = np.median(samples[f"reusing {n_steps}"] - samples[f"reusing {half}"])
    costs = {"linears_ms": float(np.median(samples["linears"]))}
    costs["cached_us"] = 1000 * float(cached) / (n_steps - half)
    if {"fused none", "fused uniform"} <= samples.keys():
        more = float(np.median(samples["fused none"] - samples["fused uniform"]))
        computed = costs["cached_us"] / 1000 + more / (n_steps - steps)
        costs |= {
            "computed_ms": computed,
            "computed_over_linears": computed / costs["linears_ms"],
        }
    return costs


def render(row: Mapping[str, Any]) -> str:
    """A row as Markdown; an arm that could not run says why."""
    made, lines = row["setting"], []
    for name, arm in row["arms"].items():
        if "unavailable" in arm:
            lines.append((name, *[""] * 7, f"not available: {arm['unavailable']}"))
            continue
        low, high = arm["times_as_fast_interval"]
        ms = (f"{arm[f'p{p}_ms']:.1f}" for p in (10, 50, 90))
        fast = f"{arm['times_as_fast']:.2f} [{low:.2f}, {high:.2f}]"
        shares = (f"{arm['flops_share']:.1%}", f"{arm['live_flops_share']:.1%}")
        note = "; ".join(filter(None, [arm["clock"] == "cpu" and "by CPU time", arm["note"]]))
        lines.append((name, *ms, fast, *shares, f"{arm['deviation']:.1e}", note))
    return "\n".join(
        [
            f"\n## batch {made['batch']}, width {made['width']} ({made['n_layer']} layers, "
            f"{made['n_head']} heads), threads {made['threads']}, {made['sampler']}, S = "
            f"{made['steps']}, {made['rounds']} rounds, against {made['baseline']}\n",
            markdown(HEADER, lines),
            f"\n{step_words(row)}",
        ]
    )


def step_words(row: Mapping[str, Any]) -> str:
    step, fused = row["step"], row["arms"].get("fused none", {})
    said = [f"fully cached step {step['cached_us']:.0f} us"]
    if "computed_ms" in step:
        said.append(
            f"computed step {step['computed_ms']:.3f} ms = {step['computed_over_linears']:.2f} "
            f"times its packed linears alone ({step['linears_ms']:.3f} ms)"
        )
    if "bytes" in fused:
        build_s = max(0.0, fused["build_s"] - 2 * fused["p50_ms"] / 1000)  # asked twice in it
        said.append(
            f"program {fused['bytes'] / 2**20:.1f} MB beside {row['weight_bytes'] / 2**20:.1f} MB "
            f"of weights, built in {build_s:.2f} s"
        )
    return "; ".join(said)


def main(argv: Sequence[str]) -> int:
    """0: done; 2: a wrong option, before anything is measured."""
    options = parser().parse_args(argv)
    try:
        refuse(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for width, batch, threads in itertools.product(options.width, options.batch, options.threads):
        torch.set_num_threads(threads)
        policy = policy_of_width(width, options.layers)
        setting = Setting(policy, observations(policy, batch), options.steps)
        with setting.stack:
            rows.append(measure(setting, options, threads))
        keep(options.out, "latency", {"rows": rows, "machine": machine()})
    text = "\n".join([*map(render, rows), NOTE])
    keep(options.out, "latency", {"rows": rows, "machine": machine()}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
