"""Models whose layers are walked by hand, as those of SmolVLA, Gemma and T5 are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 64


class ExpertLayer(nn.Module):
    """Layers with the names of a language model's; its forward is never called."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self.self_attn, name, nn.Linear(width, width, bias=False))
        self.mlp.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.mlp.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.mlp.down_proj = nn.Linear(2 * width, width, bias=False)
        self.norm = nn.LayerNorm(width)


class Expert(nn.Module):
    """An action expert as SmolVLA runs one: by its linears, cast to their weights' dtype."""

    def __init__(self, n_layers: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.lm_expert = nn.Module()
        self.lm_expert.layers = nn.ModuleList([ExpertLayer(width) for _ in range(n_layers)])
        self.action_in_proj = nn.Linear(6, width)
        self.action_out_proj = nn.Linear(width, 6)

    def forward(self, actions: Tensor) -> Tensor:
        """(B, T, 6) -> (B, T, 6) float32."""
        x = self.action_in_proj(actions.to(self.action_in_proj.weight.dtype))
        for layer in self.lm_expert.layers:
            attention = layer.self_attn
            x = x.to(dtype=attention.q_proj.weight.dtype)
            h = layer.norm(x.float()).to(x.dtype)
            q, k, v = (
                getattr(attention, f"{n}_proj")(h).unflatten(-1, (2, -1)).transpose(1, 2)
                for n in "qkv"
            )
            out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            if out.dtype != attention.o_proj.weight.dtype:
                out = out.to(attention.o_proj.weight.dtype)
            x = x + attention.o_proj(out)
            h = F.gelu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
            down = layer.mlp.down_proj
            if isinstance(down.weight, Tensor) and h.dtype != down.weight.dtype != torch.int8:
                h = h.to(down.weight.dtype)
            x = x + down(h)
        out: Tensor = self.action_out_proj(x.float())
        return out


class Block(nn.Module):
    """A feed-forward block."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return x + self.fc2(F.gelu(self.fc1(x)))


class Shared(nn.Module):
    """One block three times, and a linear layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()] * 3)
        self.layers = nn.ModuleList([Block(), Block()])
        self.again = self.layers[0].fc1
        self.layers[1].fc1.bias = self.layers[0].fc1.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> the same."""
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.again(F.gelu(self.layers[1](self.layers[0](x))))
        return out


class Held(nn.Module):
    """Its forward goes through a function that holds the blocks, which a copy of it shares."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.run = lambda x: blocks[0](x)
        blocks = self.blocks

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> the same."""
        out: Tensor = self.run(x)
        return out
