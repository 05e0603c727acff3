"""The fused engine with quantised layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch

from accel import FusedConfig, query_flops, resolve
from accel.engines import FusedEngine
from accel.engines.parts import quantised_of
from accel.families.transformer import fused_flops
from accel.quant import DuQuantConfig, quantize
from accel.quant.choice import quickest
from accel.quant.duquant import n_bytes
from accel.quant.kernels import NATIVE

from .setting import Arm, Setting, Unavailable


def fused_duquant(weight_bits: int) -> Callable[[Setting], Arm]:
    """Every layer transformed, and run by the faster of its integers and its weight in fp32."""

    def arm(setting: Setting) -> Arm:
        policy = setting.policy
        config = DuQuantConfig(method="duquant", weight_bits=weight_bits, clip=False)
        model = quantize(policy, setting.statistics, config).model
        layers = quantised_of(model)
        rows = len(setting.obs) * (policy.n_live + policy.sizes.encoder_only)
        try:
            kernels = quickest(layers, rows, tuple(NATIVE), len(setting.obs), table=NATIVE)
        except (ValueError, AssertionError) as error:
            raise Unavailable(str(error)) from error
        plan = resolve(policy, None)
        engine = FusedEngine(model, plan, FusedConfig(backend="native"), kernels)
        flops = plan.mask.astype(float)
        before = sum(4 * layer.in_features * layer.out_features for layer in layers.values())
        share = sum(n_bytes(layer) for layer in layers.values()) / before
        counts = ", ".join(f"{n} {name}" for name, n in sorted(Counter(kernels.values()).items()))
        note = f"kernels: {counts}; layers take {share:.3f} of their bytes in fp32"

        @torch.inference_mode()
        def query() -> torch.Tensor:
            return engine.act(setting.obs, setting.noise())

        return Arm(query, query_flops(policy, flops), fused_flops(policy, flops), note)

    return arm
