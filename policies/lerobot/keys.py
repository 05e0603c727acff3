"""The names of weights in a LeRobot file, from ours: what is not in this table is unexpected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

WEIGHTS = "model.safetensors"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = "num_batches_tracked"
COMPILED = "._orig_mod"  # torch.compile puts it into the names of what it compiled

STATISTICS = ("running_mean", "running_var", COUNTS)
OF_BATCHES = (
    ": only norms of batches have it, and use_group_norm in config.json says which are here"
)

RENAMED: tuple[tuple[str, str], ...] = (
    (r"^model\.", "diffusion.unet."),
    (r"^encoder\.nets\.", "diffusion.rgb_encoder."),
    (r"\.blocks\.0\.block\.", ".conv1.block."),
    (r"\.blocks\.1\.block\.", ".conv2.block."),
    (r"\.(down|up)_modules\.(\d+)\.2\.conv\.", r".\1_modules.\2.2."),
)


def theirs(key: str, shared_encoder: bool = False) -> str:
    """LeRobot's name of a weight of ours.

    Args:
        key: in the state dict of a `DiffusionPolicy`.
        shared_encoder: one network for all cameras, which is not numbered.

    Example:
        >>> theirs("model.up_modules.0.2.conv.bias")
        'diffusion.unet.up_modules.0.2.bias'
    """
    for pattern, name in RENAMED:
        key = re.sub(pattern, name, key)
    return (
        key.replace("diffusion.rgb_encoder.0.", "diffusion.rgb_encoder.") if shared_encoder else key
    )


def without_compiled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names from before torch.compile.

    Raises:
        ValueError: two weights have one name then.
    """
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.replace(COMPILED, "")
        if name in found:
            raise ValueError(f"{WEIGHTS}: {name} is there twice, with and without {COMPILED}")
        found[name] = value
    return found


def renamed(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    name_of: Callable[[str], str],
) -> dict[str, Tensor]:
    """What is in the file, under our names; every weight once, and nothing else.

    Args:
        state: of the file.
        wanted: {our name: shape}.
        name_of: our name -> theirs.

    Raises:
        ValueError: a key that is missing, unexpected, or of another shape or type, in one line.
    """
    names = {name_of(ours): ours for ours in wanted}
    for problem, keys in (
        ("is missing", [key for key in names if key not in state]),
        ("is unexpected", [key for key in state if key not in names]),
    ):
        if keys:
            hint = OF_BATCHES if keys[0].endswith(STATISTICS) else ""
            raise ValueError(f"{WEIGHTS}: {keys[0]} {problem}{_more(keys[1:])}{hint}")
    for key, ours in names.items():
        check_shape(WEIGHTS, key, state[key], wanted[ours])
        if state[key].dtype not in FLOATS and not key.endswith(COUNTS):
            raise ValueError(
                f"{WEIGHTS}: {key} must be floating-point numbers of 16 to 64 bits, "
                f"got {state[key].dtype}"
            )
    return {ours: state[key] for key, ours in names.items()}


def check_shape(file: str, key: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than config.json asks for."""
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{file}: {key} must have shape {list(shape)} by config.json, got {list(value.shape)}"
        )


def _more(keys: Iterable[str]) -> str:
    found = list(keys)
    return (
        f" ({len(found)} more: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        if found
        else ""
    )
