"""Relative changes of probes between denoising steps: what threshold caches are calibrated on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def probe_changes(inputs: Tensor, live: int, time: Tensor | None) -> np.ndarray:
    """(B, N) float64: change of the first normalised input from the step before, 0 in step 0.

    Args:
        inputs: (B, N, tokens, width).
        live: leading tokens that count.
        time: (N, width) token of each step that counts besides, or None.
    """
    m = inputs[:, :, :live].flatten(2).double()
    if time is not None:
        m = torch.cat([m, time.double().expand(len(m), -1, -1)], dim=2)
    change = (m[:, 1:] - m[:, :-1]).abs().sum(dim=2) / m[:, :-1].abs().sum(dim=2)
    return np.asarray(torch.nn.functional.pad(change, (1, 0)).cpu().numpy())


def depth_changes(features: Tensor, n_layers: int) -> np.ndarray:
    """(L, N, N) float64: [l, i, j], change from step i to j of what layers 0 to l add.

    Args:
        features: (n_sites, N, size) of one query, sites of a layer in a row.
        n_layers: L.
    """
    n_steps = features.shape[1]
    added = features.view(n_layers, -1, *features.shape[1:]).sum(dim=1).cumsum(dim=0)
    found = torch.zeros((n_layers, n_steps, n_steps), dtype=torch.float64, device=features.device)
    i, j = torch.triu_indices(n_steps, n_steps, offset=1, device=features.device)
    for layer, values in enumerate(added):
        found[layer, i, j] = torch.nn.functional.pdist(values, p=1).double()
    found = found + found.mT
    return np.asarray((found / added.abs().sum(dim=2).double()[:, :, None]).cpu().numpy())
