"""skipstep doctor: what this machine has for a run, what is missing, and what brings it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..arguments import Parser, guarded
from ..machine import cpu, load
from ..places import PROJECT

SIMULATORS = {  # package -> what it is for, the extra that brings it
    "mujoco": ("simulators", "sim"),
    "robosuite": ("lift, can, square, transport, tool_hang", "sim"),
    "gymnasium_robotics": ("kitchen", "sim"),
    "gym_pusht": ("pusht", "sim"),
    "metaworld": ("metaworld", "sim"),
    "libero": ("libero", "libero"),
    "h5py": ("datasets of robomimic", "data"),
    "pyarrow": ("datasets of LeRobot", "data"),
    "av": ("films, and videos of datasets", "data"),
}
GB = 2**30
LITTLE_GB = 2  # of disk
RENDER_S = 60


def run(words: Sequence[str]) -> int:
    """0: what a run needs is there; 1: something is missing; 2: a mistake of the user."""
    parser = Parser("skipstep doctor", description=__doc__)
    return guarded(parser, words, _examine)


def _examine(said: argparse.Namespace) -> int:
    missing = False
    for check in CHECKS:
        for name, found, way_out in check():
            missing = missing or bool(way_out)
            print(f"{'!' if way_out else ' '} {name:12} {found}")
            if way_out:
                print(f"{'':15}{way_out}")
    return int(missing)


Found = Iterator[tuple[str, str, str]]
"""(what, what was found, what to do about it: empty where it is well)."""


def _machine() -> Found:
    yield "CPU", f"{cpu()}, {os.cpu_count()} cores, load {load():.1f}", ""
    yield "Python", f"{platform.python_version()}, {sys.executable}", ""


def _torch() -> Found:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    yield "torch", f"{torch.__version__}, {capability}, {cuda}", ""


def _engine() -> Found:
    from accel.kernels.compiled import has_compiler
    from accel.kernels.native import library

    if not has_compiler():
        words = "no C compiler: engine=fused runs through torch, which is slower"
        yield "engine", words, "apt-get install -y gcc"
        return
    there = library() is not None
    words = "C, compiled" if there else "the C code does not compile or does not agree with torch"
    yield "engine", words, "" if there else "python run.py says why; engine=reference needs none"


def _simulators() -> Found:
    for package, (purpose, extra) in SIMULATORS.items():
        try:
            name = package.replace("_", "-")
            found = version(name) if find_spec(package) else ""
        except PackageNotFoundError:
            found = "there"
        optional = extra == "libero"
        words = f"{found or 'not installed'}, for {purpose}"
        yield package, words, "" if found or optional else f"pip install 'skipstep[{extra}]'"


def _films() -> Found:
    if not find_spec("mujoco"):
        return
    backend = os.environ.get("MUJOCO_GL", "egl")
    made = subprocess.run(
        [sys.executable, "-c", "import mujoco; mujoco.GLContext(64, 64).make_current()"],
        env={**os.environ, "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        timeout=RENDER_S,
        check=False,
    )
    said = (made.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    problem = "" if made.returncode == 0 else f"MUJOCO_GL={backend} renders nothing: {said}"
    yield "films", problem or f"rendered with {backend}", problem and _APT


_APT = "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri; without them runs film nothing"


def _files() -> Found:
    policies = sorted(p.name for p in PROJECT.glob("checkpoints/*") if p.is_dir())
    clone = "policies are in the repository: run in a clone of it, or give task.checkpoint=PATH"
    yield "policies", ", ".join(policies) or "none are shipped here", "" if policies else clone
    free = shutil.disk_usage(Path.cwd()).free / GB
    words = f"{free:.1f} GB free in {Path.cwd()}"
    yield "disk", words, "" if free > LITTLE_GB else "a run may need a gigabyte"


CHECKS: tuple[Callable[[], Found], ...] = (
    _machine,
    _torch,
    _engine,
    _simulators,
    _films,
    _files,
)
