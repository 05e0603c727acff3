"""What engines call the layers of a policy's main stack."""

from __future__ import annotations

import re

PARTS = {
    "self_attn.in_proj": "sa.in",
    "self_attn.out_proj": "sa.out",
    "multihead_attn.q_proj": "ca.q",
    "multihead_attn.kv_proj": "ca.kv",
    "multihead_attn.out_proj": "ca.out",
    "linear1": "ff.up",
    "linear2": "ff.down",
}


def engine_name(layer: str, encoder_only: bool) -> str | None:
    """model.decoder.layers.0.self_attn.in_proj -> 0.sa.in; None outside of the main stack."""
    stack = "encoder" if encoder_only else "decoder"
    match = re.fullmatch(rf"model\.{stack}\.layers\.(\d+)\.(.+)", layer)
    return f"{match[1]}.{PARTS[match[2]]}" if match and match[2] in PARTS else None
