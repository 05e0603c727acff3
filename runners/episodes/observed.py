"""Observations on their way to a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skipstep.observations import Arrays, each


def tensors(obs: Arrays) -> Arrays:
    """Observations of numpy as tensors: numbers float32, images uint8."""
    return each(_tensor, obs)


def _tensor(array: Any) -> Tensor:
    found = torch.from_numpy(array)
    return found if found.dtype == torch.uint8 else found.float()


def remembers(policy: Any) -> bool:
    """Whether a policy takes a `memory`: frames that it encoded, or the last chunk."""
    return sees_images(policy) or bool(getattr(policy, "keeps_memory", False))


def sees_images(policy: Any) -> bool:
    """Whether a policy has an encoder to feed, and so `encode`, `denoise` and a `memory`."""
    spec = getattr(policy, "obs_spec", None)
    return bool(spec is not None and spec.images)
