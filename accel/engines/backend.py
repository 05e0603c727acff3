"""Where the fused engine runs: its settings, its backend, and the kernels of quantised layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from ..families import family_of
from ..kernels.facts import known
from ..kernels.native import bfloat_cpu, bfloat_works, half_works, is_compiled
from ..plans.across import reaches_back
from ..plans.plan import CachePlan, PlanError
from ..protocol import Accelerable, Transparent
from ..quant.choice import settle, times
from ..quant.config import OFF, QuantConfig
from ..quant.execution import kernel_of
from ..quant.kernels import KERNELS, NATIVE, Entry
from ..quant.linear import QuantisedLinear
from ..quant.native_linear import refused_settings
from ..quant.native_linear import unsupported as unsupported_layer
from ..quant.slower import slower
from .parts import layers_of, quantised_of
from .reference import ReferenceConfig

log = logging.getLogger(__name__)

PRECISIONS = {  # who can run it, the faster one first
    "exact": ("native", "torch"),
    "half": ("native",),
    "bf16": ("native", "torch"),
    "tf32": ("torch",),
}
TABLES: dict[str, Mapping[str, Entry]] = {"native": NATIVE, "torch": KERNELS}


@dataclass
class FusedConfig:
    """How the program runs.

    backend: native (C, compiled on first use), torch, or auto: native where it can run.
    precision: exact is float32; half rounds the weights to half precision (native), bf16 weights
        and inputs of linears to bfloat16 (native where the CPU multiplies it, else torch), tf32
        their inputs to 19 bits (torch on CUDA).
    """

    name: str = "fused"
    backend: str = "auto"
    precision: str = "exact"

    def __post_init__(self) -> None:
        for key, allowed in {
            "backend": ("auto", "native", "torch"),
            "precision": tuple(PRECISIONS),
        }.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"engine.{key} must be one of {', '.join(allowed)}, got {getattr(self, key)!r}"
                )


def unsupported(
    policy: Transparent, precision: str = "exact", quant: QuantConfig | None = None
) -> str | None:
    """Why this policy runs through torch, or None.

    Everything on a CPU in float32 runs here but condition encoders, whose memory is recomputed;
    and quantised layers, but for those that round activations in other ways than native.c.

    Args:
        policy: or the one that it will be quantised from.
        precision: of the engine.
        quant: how it will be.
    """
    compiled = known(is_compiled)
    weights = {p.dtype for p in policy.model.parameters()}
    reasons = {
        f"device is {policy.device}": policy.device.type != "cpu",
        "weights are not float32": weights != {torch.float32},
        **_of_networks(policy),
        **_of_quantised(policy, quant),
        "no compiled code": not compiled,
        "this CPU loads no half precision": (
            precision == "half" and compiled and not known(half_works)
        ),
        "this CPU has no instruction for products of bfloat16 (avx512_bf16)": (
            precision == "bf16" and compiled and not (bfloat_cpu() and known(bfloat_works))
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _of_networks(policy: Transparent) -> dict[str, bool]:
    """{reason: whether it holds} of what only networks that attend have."""
    family, sizes = family_of(policy), policy.sizes
    if family.stack != "layers":
        return {}
    query = family.compiled == "query"
    if query:
        heads = layers_of(policy)[0].self_attn.num_heads
    else:
        heads = policy.model.transformer_blocks[0].attn.heads
    width = sizes.n_emb // heads
    return {
        "the policy has a condition encoder": query and sizes.n_cond_layers > 0,
        f"heads are {width} wide, no multiple of 8": width % 8 != 0,
    }


def _of_quantised(policy: Transparent, quant: QuantConfig | None) -> dict[str, bool]:
    """{reason: whether it holds} of quantised layers, those that are and those that will be."""
    quantised = {f"layer {n}": unrunnable(layer) for n, layer in quantised_of(policy).items()}
    if quant is not None:
        quantised[f"quant={quant.name}"] = refused_settings(quant)
    refused = next((f"{what}: {why}" for what, why in quantised.items() if why), "")
    return {refused: bool(refused)}


def unrunnable(layer: QuantisedLinear) -> str | None:
    """Why a quantised layer cannot run in native.c, or None; as a weight, any without codes can."""
    return None if layer.spec.activation_bits == OFF else unsupported_layer(layer)


def resolve_engine(config: Any, policy: Accelerable, quant: QuantConfig | None = None) -> Any:
    """An engine's config with nothing left to the machine or the network, for a run's identity.

    Raises:
        ValueError: settings of the program were asked for, and it cannot run this policy.
    """
    if not isinstance(config, FusedConfig):
        return config
    family = family_of(policy)
    if config.name not in family.engines:
        if config != FusedConfig():
            raise ValueError(
                f"engine.backend={config.backend} with engine.precision={config.precision} "
                f"cannot run here: the policy is {family.called}, which engine=reference runs"
            )
        log.info("engine=fused does not run a policy that is %s: engine=reference", family.called)
        return ReferenceConfig()
    transparent = cast("Transparent", policy)
    gives_way = config == FusedConfig() and "torch" not in family.programs
    if gives_way and (reason := unsupported(transparent, config.precision, quant)):
        log.info("engine=reference runs this %s: %s", family.noun, reason)
        return ReferenceConfig()
    return replace(config, backend=choose_backend(transparent, config, quant))


def check_plan(config: Any, plan: CachePlan, policy: Any = None) -> None:
    """Refuse a plan that this engine does not run, of a policy or (None) of a transformer.

    Raises:
        PlanError: it takes values of the query before, or has bands where a whole query is one
            program.
    """
    if reaches_back(plan) and isinstance(config, FusedConfig):
        raise PlanError(
            "cache.across=true, values of the query before, needs engine=reference, "
            f"got engine={config.name}"
        )
    whole = policy is None or family_of(policy).compiled == "query"
    if plan.bands is not None and isinstance(config, FusedConfig) and whole:
        raise PlanError(
            "cache.low_order and cache.high_order, bands along the tokens, need engine=reference, "
            f"got engine={config.name}"
        )


def choose_backend(
    policy: Transparent, config: FusedConfig, quant: QuantConfig | None = None
) -> str:
    """What runs the program of this policy on this machine: native or torch.

    Args:
        policy: or the one that it will be quantised from.
        config: of the engine.
        quant: how it will be.

    Raises:
        ValueError: native was asked for and cannot run, with the reason.
    """
    reason = unsupported(policy, config.precision, quant)
    programs = family_of(policy).programs
    able = {"native": reason is None, "torch": "torch" in programs}
    wanted = [b for b in PRECISIONS[config.precision] if able[b]]
    if config.backend != "auto":
        wanted = [b for b in wanted if b == config.backend]
    if config.precision == "tf32" and policy.device.type != "cuda":
        wanted, reason = [], f"device is {policy.device}"
    if not wanted:
        runs = [b for b in PRECISIONS[config.precision] if b in programs]
        none = f"{family_of(policy).called} has no program for that"
        reason = reason or (f"that precision is for {' or '.join(runs)}" if runs else none)
        raise ValueError(
            f"engine.backend={config.backend} with engine.precision={config.precision} "
            f"cannot run here: {reason}"
        )
    if reason and config.backend == "auto":
        log.info("the fused engine runs through torch: %s", reason)
    return wanted[0]


def integers_of(config: Any, policy: Transparent, quant: QuantConfig) -> str:
    """What multiplies codes in a policy quantised so, for a run's identity: native or torch."""
    fused = isinstance(config, FusedConfig) and policy.device.type == "cpu"
    fused = fused and family_of(policy).quantizable
    return "native" if fused and refused_settings(quant) is None else "torch"


def kernels_of(policy: Transparent, config: Any) -> dict[str, str]:
    """{layer: kernel} of a quantised policy's layers in an engine, see `settle`."""
    layers = quantised_of(policy)
    if not isinstance(config, FusedConfig) or not layers:
        return {name: kernel_of(layer) for name, layer in layers.items()}
    return settle(layers, _rows(policy), TABLES[choose_backend(policy, config)])


def kernel_times(
    policy: Transparent, config: Any, kernels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What these kernels take in a query of one row, see `times`; nothing of other engines."""
    if not isinstance(config, FusedConfig) or not kernels:
        return []
    table = TABLES[choose_backend(policy, config)]
    return times(quantised_of(policy), kernels, _rows(policy), table)


def slower_layers(policy: Transparent, config: Any, kernels: Mapping[str, str]) -> str:
    """Which quantised layers a query of one row is slower with, see `slower`; "" for none."""
    layers = quantised_of(policy)
    named = {name: layer for name, layer in layers.items() if name in kernels}
    if not named:
        return ""
    fused = isinstance(config, FusedConfig)
    table = TABLES[choose_backend(policy, config)] if fused else KERNELS
    said = slower(named, kernels, _rows(policy), table)
    return said if fused or not said else f"engine={config.name}: {said}"


def _rows(policy: Transparent) -> int:
    return policy.n_live + policy.sizes.encoder_only
