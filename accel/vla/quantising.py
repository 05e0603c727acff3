"""Quantising the expert of a live policy, its backbone, or both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..quant import QuantConfig, Quantized, collect, quantize
from ..quant.config import LAYERS
from .queries import Run, draw, predict, rows_of
from .structure import Vla, find_vla

PARTS = {
    "expert": r"layers\.\d+\.(self_attn|mlp)\.",  # not pi0.5's norms, which see one row: the time
    "backbone": r"(.*\.)?(layers?|blocks?)\.\d+\.",
}
"""What of a part is quantised by default."""


def quantize_vla(
    policy: Any,
    batches: Sequence[Any],
    config: QuantConfig,
    parts: Sequence[str] = ("expert",),
    seed: int = 0,
    run: Run = predict,
    backend: str = "auto",
) -> Quantized:
    """A quantised copy of a live policy; `policy` stays as it is.

    Its `model` is a policy that can be asked, and accelerated, as the one it was made from.

    Args:
        policy: live, in eval mode, not accelerated.
        batches: as its `predict_action_chunk` takes them, which the layers are fitted to.
        config: a config of `accel.QUANTIZERS`; `include` chooses within the parts.
        parts: expert, backbone (vision and language layers), or both.
        seed: of the noise of the queries.
        run: how a batch of one row is run with given noise; see `queries.Run`.
        backend: as of `accel.quantize`.

    Raises:
        TypeError: another structure. ValueError: an unknown part, or as `accel.quantize`.
        RuntimeError: the policy is accelerated, whose copy would go on calling it.
    """
    vla = find_vla(policy)
    if "sample_actions" in vars(vla.core):
        raise RuntimeError("the policy is accelerated or compiled: disable() that, then quantise")
    queries = [(row, i) for i, row in enumerate(rows_of(batches))]

    def ask(model: Any, query: tuple[Any, int]) -> Tensor:
        row, number = query
        noise = draw(vla, torch.Generator().manual_seed(seed + number))
        return run(model, row, noise)

    with torch.no_grad():
        statistics = collect(policy, queries, len(queries), run=ask, seed=seed)
        return quantize(policy, statistics, of_parts(vla, config, parts), backend)


def of_parts(vla: Vla, config: QuantConfig, parts: Sequence[str]) -> QuantConfig:
    """The config with patterns that match only in some parts of a policy.

    Raises:
        ValueError: an unknown part, or none.
    """
    paths = {"expert": vla.expert_path, "backbone": vla.backbone_path}
    if isinstance(parts, str) or not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts must be among {', '.join(PARTS)}, got {parts!r}")
    given = None if config.include == (LAYERS,) else [f".*(?:{p})" for p in config.include]
    include = [
        rf"^{re.escape(paths[part])}\.{pattern}"
        for part in parts
        for pattern in given or [PARTS[part]]
    ]
    return replace(config, include=tuple(include))
