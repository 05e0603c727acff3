"""Read the environment arguments that a robomimic HDF5 records beside its demonstrations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROBOSUITE_TYPE = 1
PHYSICS = {
    "controller_configs",
    "control_freq",
    "gripper_types",
    "initialization_noise",
    "table_full_size",
    "table_friction",
}
# how the data was filmed, rewarded or cut does not change what a step does
IRRELEVANT = {
    *("robots", "env_configuration", "horizon", "ignore_done", "hard_reset"),
    *("reward_scale", "reward_shaping", "use_object_obs", "use_camera_obs"),
    *("has_renderer", "has_offscreen_renderer", "renderer", "renderer_config"),
    *("render_camera", "render_collision_mesh", "render_visual_mesh", "render_gpu_device_id"),
    *("camera_names", "camera_heights", "camera_widths", "camera_depths"),
    "camera_segmentations",
}


def read_lift_arguments(path: str) -> dict[str, Any]:
    """Return the arguments for robosuite's Lift that `data.attrs["env_args"]` asks for.

    Raises:
        ValueError: the file does not describe Lift with one Panda under OSC_POSE control.
    """
    recorded = _read(path)
    environment = (recorded.get("env_name"), recorded.get("type"))
    if environment != ("Lift", ROBOSUITE_TYPE):
        raise _wrong(path, f"name env_name 'Lift' of type 1 (robosuite), got {environment}")
    arguments: dict[str, Any] = recorded.get("env_kwargs", {})
    unknown = sorted(arguments.keys() - PHYSICS - IRRELEVANT)
    if unknown:
        raise _wrong(path, f"have only arguments known here, got {', '.join(unknown)}")
    robots = arguments.get("robots", "Panda")
    if robots not in ("Panda", ["Panda"]):
        raise _wrong(path, f"name one robot, Panda, got {robots!r}")
    controller = arguments.get("controller_configs")
    if not isinstance(controller, dict) or controller.get("type") != "OSC_POSE":
        got = controller.get("type") if isinstance(controller, dict) else controller
        raise _wrong(path, f"have a controller of type OSC_POSE, got {got!r}")
    if not isinstance(controller.get("control_delta"), bool):
        got = controller.get("control_delta")
        raise _wrong(path, f"say control_delta true or false in its controller, got {got!r}")
    impedance = controller.get("impedance_mode", "fixed")
    if impedance != "fixed":
        raise _wrong(path, f"have a controller of impedance_mode 'fixed', got {impedance!r}")
    return {key: value for key, value in arguments.items() if key in PHYSICS}


def _read(path: str) -> dict[str, Any]:
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
    if not isinstance(recorded, dict):
        raise _wrong(path, f"be a dictionary, got {recorded!r}")
    return recorded


def _wrong(path: str, rest: str) -> ValueError:
    return ValueError(f"task.env_args must {rest} in {path}")
