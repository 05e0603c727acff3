"""Checkpoints of two libraries, said in the words of one: real-stanford/diffusion_policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from .reader import CheckpointError, read_reference, read_robomimic
from .robomimic import reference_cfg, reference_state


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The cfg and the state dicts of a .ckpt of diffusion_policy, or of a .pth of robomimic.

    Raises:
        CheckpointError: a file that is neither, or would run something; UnsupportedPolicy: policies
            of robomimic that are not run here.
    """
    found = read_robomimic(path)
    if found is None:
        checkpoint = read_reference(path)
        return checkpoint.cfg, checkpoint.state_dicts
    try:
        cfg = reference_cfg(found.said)
        states = {
            {"nets": "model", "ema": "ema_model"}[name]: reference_state(state, cfg, found.said)
            for name, state in found.state_dicts.items()
        }
    except AttributeError as error:
        raise CheckpointError(f"{path}: its config is malformed ({error})") from None
    return cfg, states
