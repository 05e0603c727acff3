"""Where a computed step of the fused engine spends its time, by torch.profiler."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from accel.engines import FusedConfig

from .ours import accelerated_arm
from .row import RowConfig, setting_of
from .setting import Setting


def top_ops(setting: Setting, n: int = 15) -> str:
    """The operators with the most time of their own, a computed step each.

    A whole query without cache is profiled, in torch: the C program is a single call. The profiler
    itself slows every operator down.
    """
    arm = accelerated_arm(setting, FusedConfig(backend="torch"), None)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        arm.query()
    steps = setting.policy.n_inference_steps
    ops = sorted(profiler.key_averages(), key=lambda op: -op.self_cpu_time_total)
    total = sum(op.self_cpu_time_total for op in ops)
    lines = [f"{'operator':<40} {'us/step':>9} {'share':>6} {'calls/step':>10}"]
    for op in ops[:n]:
        own = op.self_cpu_time_total
        lines.append(
            f"{op.key[:40]:<40} {own / steps:9.1f} {own / total:6.1%} {op.count / steps:10.2f}"
        )
    return "\n".join([*lines, f"{'all operators':<40} {total / steps:9.1f}"])


def print_profile(config: RowConfig) -> None:
    setting = setting_of(config)
    with setting.stack:
        print(f"\n{config.title}: a computed step, operator by operator")
        print(top_ops(setting))
