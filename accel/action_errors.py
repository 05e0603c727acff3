"""How far actions are from the plain policy's: one number per query."""

from __future__ import annotations

from torch import Tensor


def squared_action_error(found: Tensor, plain: Tensor) -> Tensor:
    """(...,) float64 mean over steps and dimensions of the squared difference of (..., T, A).

    Both in the normalised units of the policy, in which every dimension counts the same.
    """
    return (found - plain).double().square().mean(dim=(-2, -1))


def action_error(found: Tensor, plain: Tensor) -> Tensor:
    """(...,) root of the mean squared difference (RMS) of (..., T, A) normalised actions.

    >>> import torch
    >>> action_error(torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 1, 2))
    tensor([3.5355], dtype=torch.float64)
    """
    return squared_action_error(found, plain).sqrt()
