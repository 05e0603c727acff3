"""Calibrations of small policies, by direct formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from accel import Calibration, sites_of
from accel.calibration.statistics import Extent
from policies import DiffusionPolicy
from tests.helpers.stock import OBS, TO


def features_of(policy: DiffusionPolicy, n_queries: int, seed: int = 0) -> np.ndarray:
    """(n_queries, n_sites, N, live tokens, width): what the plain policy's branches put out."""
    tokens = policy.n_live + policy.sizes.encoder_only
    shape = (len(sites_of(policy)), policy.n_inference_steps, tokens, policy.sizes.n_emb)
    found = np.zeros((n_queries, *shape), dtype=np.float32)

    def branch(step: int, site: int, compute: Any) -> torch.Tensor:
        value: torch.Tensor = compute()
        found[:, site, step] = value[:, :tokens].numpy()
        return value

    obs = torch.randn((n_queries, TO, OBS), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        policy.act(obs, [torch.Generator().manual_seed(seed + i) for i in range(n_queries)], branch)
    return found


def calibration_of(policy: DiffusionPolicy, features: np.ndarray) -> Calibration:
    """Means over queries of every statistic, features as `features_of` gives them."""
    flat = features.reshape(*features.shape[:3], -1).astype(np.float64)
    gram = flat @ flat.swapaxes(-1, -2)
    norm = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    apart = np.abs(flat[:, :, :, None] - flat[:, :, None])
    queries = {
        "cos": gram / (norm[..., None] * norm[..., None, :]),
        "mse": (apart**2).mean(-1),
        "l1": apart.mean(-1),
        "l2": np.sqrt((apart**2).sum(-1)),
    }
    pairs = np.triu_indices(flat.shape[2], 1)
    layers = flat.reshape(len(flat), policy.sizes.n_layer, -1, *flat.shape[2:]).sum(axis=2)
    layers = layers - layers.mean(axis=2, keepdims=True)
    late = (np.arange(flat.shape[2]) + 1) / flat.shape[2]
    return Calibration(
        sites=sites_of(policy),
        policy=policy.fingerprint(),
        extent=Extent(
            len(features),
            len(late),
            features.shape[1],
            policy.sizes.n_layer,
            features.shape[3],
            features.shape[4],
        ),
        arrays={
            **{f"similarity.{metric}": values.mean(0) for metric, values in queries.items()},
            **{f"spread.{metric}": values.std(0) for metric, values in queries.items()},
            "volatility": queries["l1"][:, :, pairs[0], pairs[1]].mean((0, 2)),
            "gram": gram.mean(0),
            "mean": features.mean(0),
            "stream": np.einsum("qlix,qmjx->limj", layers, layers) / len(features),
            "sensitivity": late**2,
            "probe": np.full((len(features), len(late)), 0.1) * (late > late[0]),
            "response": np.full((len(features), len(late)), 0.1) * (late > late[0]),
            "depth_change": np.abs(late[:, None] - late) * np.ones((policy.sizes.n_layer, 1, 1)),
        },
        source={},
    )


def changed(calibration: Calibration, **arrays: np.ndarray) -> Calibration:
    """The same with other values of some arrays."""
    return replace(calibration, arrays={**calibration.arrays, **arrays})
