"""What models are told apart by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and contents."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content.update(data.numpy().data)
    return content.hexdigest()


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model's state."""
    return {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}


def fingerprint(model: nn.Module) -> str:
    """Of everything that a model stores."""
    return sha256(stored(model))


def identity(model: nn.Module) -> str:
    """A policy's own fingerprint, which knows of its sampler too; else `fingerprint`."""
    own = getattr(model, "fingerprint", None)
    return str(own()) if callable(own) else fingerprint(model)
