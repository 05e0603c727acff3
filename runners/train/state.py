"""The state of a training in one file, written by rename: a killed run goes on from it exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from policies import DiffusionPolicy
from skipstep.whole_files import replacing

from ..store.folder import StoreError

MOMENTS = ("exp_avg", "exp_avg_sq")
LOSSES = "losses"
ENCODER = "obs_encoder."  # before the names of an encoder's weights; "encoder" is a transformer's


def save_state(
    path: Path,
    policy: DiffusionPolicy,
    average: DiffusionPolicy,
    optimizer: torch.optim.AdamW,
    n_updates: int,
    losses: Sequence[Tensor] = (),
) -> None:
    """Weights, their average, AdamW's moments, an encoder's statistics, the number of updates.

    Args:
        path: the file.
        policy: as it is trained.
        average: of its weights.
        optimizer: of the training.
        n_updates: that were made.
        losses: of the last ones, which no row of metrics has yet.
    """
    tensors: dict[str, Tensor] = {}
    for (name, parameter), (_, mean) in zip(_weights(policy), _weights(average), strict=True):
        tensors |= {f"model.{name}": parameter.detach(), f"ema.{name}": mean.detach()}
        tensors |= {f"{m}.{name}": optimizer.state[parameter][m] for m in MOMENTS}
    for kind, held in (("model", policy), ("ema", average)):
        tensors |= {f"{kind}.{name}": buffer for name, buffer in _statistics(held)}
    if losses:
        tensors[LOSSES] = torch.stack([*losses])
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {k: v.cpu().contiguous() for k, v in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={"n_updates": str(n_updates)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


@torch.no_grad()
def load_state(
    path: Path, policy: DiffusionPolicy, average: DiffusionPolicy, optimizer: torch.optim.AdamW
) -> tuple[int, list[Tensor]]:
    """Put a saved state into the objects of a fresh training.

    Returns:
        the number of updates, 0 without a file, and the losses that were saved with it.
    """
    if not path.exists():
        return 0, []
    try:
        with safe_open(path, framework="pt") as file:
            n_updates = int(file.metadata()["n_updates"])
            for (name, parameter), (_, mean) in zip(
                _weights(policy), _weights(average), strict=True
            ):
                parameter.copy_(file.get_tensor(f"model.{name}"))
                mean.copy_(file.get_tensor(f"ema.{name}"))
                moments = {m: file.get_tensor(f"{m}.{name}").to(parameter.device) for m in MOMENTS}
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(n_updates)),
                    **moments,
                }
            for kind, held in (("model", policy), ("ema", average)):
                for name, buffer in _statistics(held):
                    buffer.copy_(file.get_tensor(f"{kind}.{name}"))
            losses = [*file.get_tensor(LOSSES)] if LOSSES in file.keys() else []  # noqa: SIM118
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise StoreError(
            f"{path} is damaged ({' '.join(str(error).split())}): force=true starts anew"
        ) from error
    return n_updates, losses


def _weights(policy: DiffusionPolicy) -> Iterator[tuple[str, nn.Parameter]]:
    yield from policy.model.named_parameters()
    if policy.encoder is not None:
        yield from ((ENCODER + name, p) for name, p in policy.encoder.named_parameters())


def _statistics(policy: DiffusionPolicy) -> Iterator[tuple[str, Tensor]]:
    """Of an encoder's norms over batches."""
    if policy.encoder is not None:
        yield from ((ENCODER + name, b) for name, b in policy.encoder.named_buffers())
