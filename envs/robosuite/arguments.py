"""The arguments of a world of robosuite that a robomimic HDF5 records beside its demonstrations.

They are read to make the environment anew (task.env_args), and compared with a task wherever such a
file is trained on or calibrated with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..robomimic_args import ROBOSUITE_TYPE, parsed
from .made import Made

ROBOTS = {"robots", "env_configuration"}
# how the data was filmed, rewarded or cut does not change what a step does
IRRELEVANT = {
    *("horizon", "ignore_done", "hard_reset"),
    *("reward_scale", "reward_shaping", "use_object_obs", "use_camera_obs"),
    *("has_renderer", "has_offscreen_renderer", "renderer", "renderer_config"),
    *("render_camera", "render_collision_mesh", "render_visual_mesh", "render_gpu_device_id"),
    *("camera_names", "camera_heights", "camera_widths", "camera_depths"),
    "camera_segmentations",
}


VERSION = re.compile(r"v?(\d+)\.(\d+)(?:[.+a-z-]|$)")
NEWEST, OLDEST = (1, 4), (1, 0)  # from 1.5 on, three numbers of the observation have another sign
# robosuite swallows keys that it does not know, so that 0.2 would be taken for the standard 1
OLD_NAMES = {"damping": ("damping_ratio", 1), "damping_limits": ("damping_ratio_limits", [0, 10])}
CONTROLLER = {
    *("type", "input_max", "input_min", "output_max", "output_min", "kp", "kp_limits"),
    *("damping_ratio", "damping_ratio_limits", "impedance_mode", "position_limits"),
    *("orientation_limits", "uncouple_pos_ori", "control_delta", "interpolation", "ramp_ratio"),
}


def read_arguments(path: str, made: Made) -> dict[str, Any]:
    """Return the arguments of a world that `data.attrs["env_args"]` asks for.

    Raises:
        ValueError: the file does not describe this world with Pandas under OSC_POSE control, of a
            robosuite that sees what robosuite 1.4 sees.
    """
    return arguments_in(_read(path), "task.env_args", path, made)


def arguments_in(recorded: Any, setting: str, path: str, made: Made) -> dict[str, Any]:
    """Return what `recorded`, an env_args of robomimic (text, or what it holds), says of physics.

    Args:
        recorded: what the file holds.
        setting: to be named in messages.
        path: of the file.
        made: the world that it must describe.

    Raises:
        ValueError: as `read_arguments`.
    """

    def wrong(rest: str) -> ValueError:
        return ValueError(f"{setting} must {rest} in {path}")

    recorded = parsed(recorded, setting, path)
    environment = (recorded.get("env_name"), recorded.get("type"))
    if environment != (made.env_name, ROBOSUITE_TYPE):
        raise wrong(f"name env_name {made.env_name!r} of type 1 (robosuite), got {environment}")
    version = recorded.get("env_version")
    if version is not None and not OLDEST <= _numbers(version) <= NEWEST:
        raise wrong(
            f"name an env_version of robosuite up to 1.4 (from 1.5 on, observations have other "
            f"signs and controllers other settings), got {version!r}"
        )
    arguments = recorded.get("env_kwargs", {})
    if not isinstance(arguments, dict):
        raise wrong(f"have a dictionary of env_kwargs, got {arguments!r}")
    unknown = sorted(arguments.keys() - made.physics_keys - IRRELEVANT - ROBOTS)
    if unknown:
        raise wrong(f"have only arguments known here, got {', '.join(unknown)}")
    _check_robots(arguments, made, wrong)
    _check_controller(arguments.get("controller_configs"), wrong)
    return {key: value for key, value in arguments.items() if key in made.physics_keys}


def _check_robots(
    arguments: Mapping[str, Any], made: Made, wrong: Callable[[str], ValueError]
) -> None:
    robots = arguments.get("robots", made.robots)
    named = [robots] if isinstance(robots, str) else robots
    if named != ["Panda"] * made.n_arms:
        count = "one robot, Panda" if made.n_arms == 1 else f"{made.n_arms} robots, all Panda"
        raise wrong(f"name {count}, got {robots!r}")
    stand = arguments.get("env_configuration")
    if made.n_arms > 1 and stand not in (None, made.env_configuration):
        raise wrong(f"have env_configuration {made.env_configuration!r}, got {stand!r}")


def _check_controller(controller: Any, wrong: Callable[[str], ValueError]) -> None:
    if not isinstance(controller, dict) or controller.get("type") != "OSC_POSE":
        got = controller.get("type") if isinstance(controller, dict) else controller
        raise wrong(f"have a controller of type OSC_POSE, got {got!r}")
    if not isinstance(controller.get("control_delta"), bool):
        got = controller.get("control_delta")
        raise wrong(f"say control_delta true or false in its controller, got {got!r}")
    impedance = controller.get("impedance_mode", "fixed")
    if impedance != "fixed":
        raise wrong(f"have a controller of impedance_mode 'fixed', got {impedance!r}")
    for old, (name, standard) in OLD_NAMES.items():
        if old in controller and controller[old] != standard:
            raise wrong(
                f"not have {old} in its controller but {name} (robosuite 1.4 ignores {old} and "
                f"takes {standard}), got {old}: {controller[old]!r}"
            )
    unknown = sorted(controller.keys() - CONTROLLER - OLD_NAMES.keys())
    if unknown:
        raise wrong(
            f"have only controller settings that robosuite 1.4 knows (it ignores others), got "
            f"{', '.join(f'{key}: {controller[key]!r}' for key in unknown)}"
        )


def unsure(recorded: Any, path: str) -> str | None:
    """What cannot be known of a file's robosuite, in one sentence; `recorded` None: no env_args."""
    if recorded is None:
        return (
            f"{path} has no env_args: whether it was recorded with robosuite 1.4, and how, is not "
            "known (from 1.5 on, observations have other signs)"
        )
    version = parsed(recorded, "env_args", path).get("env_version")
    if version is None:
        return f"{path} does not say which robosuite it was recorded with (env_version)"
    if _numbers(version) < NEWEST:
        return f"{path} was recorded with robosuite {version}: its physics is not quite that of 1.4"
    return None


def differences(
    recorded: Mapping[str, Any], used: Mapping[str, Any], standard: Mapping[str, Any]
) -> list[str]:
    """Settings of physics that a file and a task have both, and not the same.

    Whether actions are changes is left out: converted files keep the recorded controller's.

    Args:
        recorded: arguments of the file.
        used: arguments of the task.
        standard: robosuite's, where a file or a task says nothing.
    """
    theirs, ours = ({**standard, **arguments} for arguments in (recorded, used))
    found = [
        f"{key} {theirs[key]} (task: {ours[key]})"
        for key in sorted(standard)
        if _plain(theirs[key]) != _plain(ours[key])
    ]
    there, here = theirs.get("controller_configs", {}), ours.get("controller_configs", {})
    return found + [
        f"controller's {key} {there[key]} (task: {here[key]})"
        for key in sorted(there.keys() & here.keys() - {"control_delta"})
        if _plain(there[key]) != _plain(here[key])
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _numbers(version: Any) -> tuple[int, ...]:
    found = VERSION.match(version) if isinstance(version, str) else None
    return tuple(map(int, found.groups())) if found else ()


def _read(path: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError('task.env_args needs h5py: pip install "skipstep[sim]"') from error
    if not Path(path).is_file():
        raise ValueError(f"task.env_args must be a robomimic HDF5, got {path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            recorded = json.loads(file["data"].attrs["env_args"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"task.env_args must be an HDF5 with JSON in data.attrs['env_args'], got {path}"
        ) from error
    return recorded
