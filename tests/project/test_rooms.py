"""The house: which room may import which, and that nothing runs back up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import PROJECT

# lowest first; a room imports only itself and what stands before it
ORDER = {
    "accel": [
        ["protocol", "action_errors", "kernels"],
        ["persist", "families"],
        ["plans"],
        ["quant"],
        ["engines"],
        ["calibration"],
        ["caches"],
        ["forecast_noise", "chosen", "joining"],
        ["warm_config"],
        ["warm"],
        ["accelerated_policy"],
        ["api", "attach"],
        ["robot", "graphs", "vla"],
    ],
    "policies": [
        ["typed"],
        [
            "sampling",
            "data",
            "denoiser",
            "family",
            "fingerprints",
            "undrawn",
            "observed",
            "initial_weights",
            "folder_digest",
        ],
        ["transformer", "unet", "dit", "encoders"],
        ["families"],
        ["config"],
        ["clipping", "encoding"],
        ["policy"],
        ["lerobot", "reference", "losses", "weights"],
        ["training"],
        ["checkpoint"],
    ],
    "envs": [
        ["limits", "video", "motion", "robomimic_args", "frames", "pictures"],
        ["task"],
        ["film"],
        ["robosuite", "kitchen", "pusht", "metaworld", "worker"],
        ["libero", "processes"],
        ["pool"],
    ],
    "runners": [
        ["errors", "metrics", "formatting", "overrides", "machine"],
        ["statistics", "html", "plugins", "places", "arguments", "progress"],
        ["svg"],
        ["store"],
        ["studies"],
        ["loggers", "episodes", "wandb_values"],
        ["jobs"],
        ["acceleration"],
        ["evaluate"],
        ["calibrate", "search", "collect", "train", "show", "serve"],
        ["report", "launch"],
        ["registry"],
        ["commands", "sync"],
        ["cli"],
    ],
}
MAY_IMPORT = {"accel": set(), "policies": set(), "envs": set(), "runners": set(ORDER)}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def name_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Modules of ours that a file names, those for type checkers and inside functions too."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path.parent)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(up if node.level else []), *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in ORDER}


def arrows_up(top: str) -> list[str]:
    floor = {room: i for i, rooms in enumerate(ORDER[top]) for room in rooms}
    wrong = []
    for path in sorted((PROJECT / top).rglob("*.py")):
        here = room_of(name_of(path))
        if not here:  # the package itself, which shows what is inside
            continue
        for name in imported(path):
            there = room_of(name)
            if name.split(".")[0] != top:
                if name.split(".")[0] not in MAY_IMPORT[top]:
                    wrong.append(f"{path}: {name}")
            elif there not in floor:
                wrong.append(f"{path}: {name} is of the package, not of a room")
            elif there != here and floor[there] >= floor[here]:
                wrong.append(f"{path}: {name}")
    return wrong


@pytest.mark.parametrize("top", ORDER)
def test_every_room_imports_only_rooms_below_it(top: str) -> None:
    rooms = {p.stem if p.is_file() else p.name for p in (PROJECT / top).iterdir()}
    rooms -= {"__init__", "__pycache__"}
    assert rooms == {room for floor in ORDER[top] for room in floor}
    assert not arrows_up(top)


@pytest.mark.parametrize(
    "words",
    [
        "import accel.attach.plans; from accel import attach; assert attach.__name__ == 'attach'",
        "from accel import attach; import accel.attach.search; "
        "from accel import attach as again; assert again is attach and callable(attach)",
        "import runners.evaluate.run; from runners.evaluate import evaluate; "
        "assert evaluate.__name__ == 'evaluate'",
        "from runners.evaluate import evaluate; import runners.evaluate.shards; "
        "from runners.evaluate import evaluate as again; assert again is evaluate",
    ],
)
def test_a_room_may_share_its_name_with_what_it_is_for(words: str) -> None:
    subprocess.run([sys.executable, "-c", words], cwd=PROJECT, check=True)
