"""Small vision-language-action policies, built like SmolVLA, pi0 and pi0.5; they need no package.

Sizes and words are ours; what calls what, and in which order, is as the libraries have it: a prefix
of images, text and state is put once into keys and values, then Euler steps from t = 1 to 0 run the
expert's layers, which SmolVLA and earlier pi0 walk by hand and pi0 calls as modules.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("smolvla", "walked", "pi0", "pi05")


@dataclass
class SmallConfig:
    """Sizes."""

    chunk_size: int = 6
    n_action_steps: int = 4
    max_action_dim: int = 5
    max_state_dim: int = 4
    num_steps: int = 10
    n_layers: int = 4
    backbone: int = 24
    expert: int = 16
    heads: int = 4
    kv_heads: int = 2
    head: int = 8
    cross_every: int = 2
    rtc_config: Any = None


class Norm(nn.Module):
    """RMS norm; with `cond` scaled and shifted by it, and a gate besides (pi0.5's adaRMS)."""

    def __init__(self, width: int, cond: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.modulation = nn.Linear(cond, 3 * width) if cond else None

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Any:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        if self.modulation is None:
            return normed.to(x.dtype)
        assert cond is not None
        scale, shift, gate = self.modulation(cond.to(self.modulation.weight.dtype)).chunk(3, -1)
        out = normed * (1 + scale[:, None]) + shift[:, None]
        return out.to(x.dtype), gate[:, None].to(x.dtype)


class Attention(nn.Module):
    """Projections with grouped keys and values; its forward is called by pi0 only."""

    def __init__(self, width: int, c: SmallConfig, memory: int = 0) -> None:
        super().__init__()
        self.head_dim, self.groups = c.head, c.heads // c.kv_heads
        self.q_proj = nn.Linear(width, c.heads * c.head, bias=False)
        self.k_proj = nn.Linear(memory or width, c.kv_heads * c.head, bias=False)
        self.v_proj = nn.Linear(memory or width, c.kv_heads * c.head, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head, width, bias=False)

    def heads(self, module: nn.Module, x: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, heads, head)."""
        out: Tensor = module(x.to(module.weight.dtype))
        return out.view(*x.shape[:-1], -1, self.head_dim)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, memory: Any) -> Any:
        q, k, v = (self.heads(m, hidden_states) for m in (self.q_proj, self.k_proj, self.v_proj))
        made = (k, v)
        if memory is not None:
            k, v = torch.cat([memory[0], k], 1), torch.cat([memory[1], v], 1)
        out = attend(q, k, v, attention_mask)
        return self.o_proj(out.to(self.o_proj.weight.dtype)), made


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """(B, L, heads, head), keys and values of fewer heads -> (B, L, heads * head)."""
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    scores = torch.einsum("blhd,bmhd->bhlm", q.float(), k.float()) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~mask[:, None], torch.finfo(torch.float32).min)
    found = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1).to(v.dtype), v)
    return found.flatten(2)


class Mlp(nn.Module):
    """Gated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.up_proj.weight.dtype)
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """A layer of either transformer; its forward is called by pi0 only."""

    def __init__(self, width: int, c: SmallConfig, memory: int = 0, cond: int = 0) -> None:
        super().__init__()
        self.input_layernorm = Norm(width, cond)
        self.self_attn = Attention(width, c, memory)
        self.post_attention_layernorm = Norm(width, cond)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, mask: Tensor, memory: Any, cond: Tensor | None) -> Any:
        normed, gate = _gated(self.input_layernorm(x, cond))
        added, made = self.self_attn(hidden_states=normed, attention_mask=mask, memory=memory)
        x = x + (added if gate is None else added * gate)
        normed, gate = _gated(self.post_attention_layernorm(x, cond))
        added = self.mlp(normed)
        return x + (added if gate is None else added * gate), made


def _gated(out: Any) -> tuple[Tensor, Tensor | None]:
    return out if isinstance(out, tuple) else (out, None)


class Stack(nn.Module):
    """Layers and a last norm."""

    def __init__(self, layers: list[Layer], width: int, cond: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(width, cond)

    def forward(self, x: Tensor, mask: Tensor, memory: Any, cond: Any = None) -> Any:
        """Called by pi0, whose layers are modules."""
        made = []
        for i, layer in enumerate(self.layers):
            x, keys = layer(x, mask, None if memory is None else memory[i], cond)
            made.append(keys)
        return _gated(self.norm(x, cond))[0], made


class SmolJoint(nn.Module):
    """Backbone and expert, walked by hand; every second layer of the expert looks at the prefix."""

    def __init__(self, c: SmallConfig) -> None:
        super().__init__()
        self.c, keys = c, c.kv_heads * c.head
        self.vlm = nn.Module()
        self.vlm.text_model = Stack([Layer(c.backbone, c) for _ in range(c.n_layers)], c.backbone)
        self.lm_expert = Stack(
            [Layer(c.expert, c, keys if i % c.cross_every else 0) for i in range(c.n_layers)],
            c.expert,
        )

    def forward_attn_layer(
        self,
        model_layers: Any,
        inputs_embeds: Any,
        layer_idx: int,
        attention_mask: Tensor,
        fill_kv_cache: bool,
        past_key_values: Any,
    ) -> Any:
        found = []
        for side, x in enumerate(inputs_embeds):
            if x is not None:
                layer = model_layers[side][layer_idx]
                a, normed = layer.self_attn, layer.input_layernorm(x)
                found.append([a.heads(m, normed) for m in (a.q_proj, a.k_proj, a.v_proj)])
        q, k, v = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        if fill_kv_cache:
            past_key_values[layer_idx] = (k, v)
        else:
            kept = past_key_values[layer_idx]
            k, v = torch.cat([kept[0], k], 1), torch.cat([kept[1], v], 1)
        return [attend(q, k, v, attention_mask)], past_key_values

    def forward_cross_attn_layer(
        self,
        model_layers: Any,
        inputs_embeds: Any,
        layer_idx: int,
        attention_mask: Tensor,
        fill_kv_cache: bool,
        past_key_values: Any,
    ) -> Any:
        layer, (k, v) = model_layers[1][layer_idx], past_key_values[layer_idx]
        a = layer.self_attn
        q = a.heads(a.q_proj, layer.input_layernorm(inputs_embeds[1]))
        k, v = (a.heads(m, x.flatten(2)) for m, x in ((a.k_proj, k), (a.v_proj, v)))
        return [attend(q, k, v, attention_mask[..., : k.shape[1]])], past_key_values

    def forward(
        self,
        inputs_embeds: Any,
        attention_mask: Tensor,
        past_key_values: Any = None,
        fill_kv_cache: bool = False,
        adarms_cond: Any = None,
    ) -> Any:
        stacks = [self.vlm.text_model, self.lm_expert]
        layers = [list(stack.layers) for stack in stacks]
        past_key_values = {} if past_key_values is None else past_key_values
        for i in range(self.c.n_layers):
            cross = not fill_kv_cache and i % self.c.cross_every
            walk = self.forward_cross_attn_layer if cross else self.forward_attn_layer
            outs, past_key_values = walk(
                layers, inputs_embeds, i, attention_mask, fill_kv_cache, past_key_values
            )
            inputs_embeds = [
                None if x is None else self.rest(layers[side][i], x, outs[0])
                for side, x in enumerate(inputs_embeds)
            ]
        pairs = zip(stacks, inputs_embeds, strict=True)
        return [None if x is None else s.norm(x) for s, x in pairs], past_key_values

    def rest(self, layer: Any, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention, adding in place as the library does."""
        out: Tensor = layer.self_attn.o_proj(attended.to(layer.self_attn.o_proj.weight.dtype))
        out += x
        after = out.clone()
        out = layer.mlp(layer.post_attention_layernorm(out))
        out += after
        return out


class WalkedJoint(nn.Module):
    """Backbone and expert of one attention, walked by hand in one function, as earlier pi0."""

    def __init__(self, c: SmallConfig) -> None:
        super().__init__()
        self.paligemma = nn.Module()
        self.paligemma.model = Stack([Layer(c.backbone, c) for _ in range(c.n_layers)], c.backbone)
        self.gemma_expert = nn.Module()
        self.gemma_expert.model = Stack([Layer(c.expert, c) for _ in range(c.n_layers)], c.expert)

    def forward(
        self,
        inputs_embeds: Any,
        attention_mask: Tensor,
        past_key_values: Any = None,
        fill_kv_cache: bool = False,
        adarms_cond: Any = None,
    ) -> Any:
        side = 0 if inputs_embeds[1] is None else 1
        stack, x = (self.paligemma.model, self.gemma_expert.model)[side], inputs_embeds[side]
        past_key_values = {} if past_key_values is None else past_key_values
        for i, layer in enumerate(stack.layers):
            a, normed = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (a.heads(m, normed) for m in (a.q_proj, a.k_proj, a.v_proj))
            if fill_kv_cache:
                past_key_values[i] = (k, v)
            else:
                kept = past_key_values[i]
                k, v = torch.cat([kept[0], k], 1), torch.cat([kept[1], v], 1)
            out = a.o_proj(attend(q, k, v, attention_mask).to(a.o_proj.weight.dtype))
            out += x
            x = out + layer.mlp(layer.post_attention_layernorm(out))
        out = stack.norm(x)
        return [None, out] if side else [out, None], past_key_values


class CalledJoint(nn.Module):
    """Backbone and expert whose layers are called as modules, as in pi0; pi0.5 has adaRMS."""

    def __init__(self, c: SmallConfig, adarms: bool) -> None:
        super().__init__()
        cond = c.expert if adarms else 0
        self.paligemma = nn.Module()
        self.paligemma.model = Stack([Layer(c.backbone, c) for _ in range(c.n_layers)], c.backbone)
        self.gemma_expert = nn.Module()
        experts = [Layer(c.expert, c, cond=cond) for _ in range(c.n_layers)]
        self.gemma_expert.model = Stack(experts, c.expert, cond)

    def forward(
        self,
        inputs_embeds: Any,
        attention_mask: Tensor,
        past_key_values: Any = None,
        fill_kv_cache: bool = False,
        adarms_cond: Any = None,
    ) -> Any:
        if inputs_embeds[1] is None:
            out, made = self.paligemma.model(inputs_embeds[0], attention_mask, None)
            return [out, None], made
        out, _ = self.gemma_expert.model(
            inputs_embeds[1], attention_mask, past_key_values, adarms_cond
        )
        return [None, out], None


def make_joint(kind: str, c: SmallConfig) -> nn.Module:
    if kind == "smolvla":
        return SmolJoint(c)
    return WalkedJoint(c) if kind == "walked" else CalledJoint(c, adarms=kind == "pi05")


class SmallCore(nn.Module):
    """Embeddings, the Euler loop and the head."""

    def __init__(self, kind: str, c: SmallConfig) -> None:
        super().__init__()
        self.config, self.kind = c, kind
        self.joint_name = "vlm_with_expert" if kind == "smolvla" else "paligemma_with_expert"
        setattr(self, self.joint_name, make_joint(kind, c))
        self.vision = nn.Linear(3 * 16, c.backbone)
        self.words = nn.Embedding(11, c.backbone)
        self.state_proj = nn.Linear(c.max_state_dim, c.backbone)
        self.action_in_proj = nn.Linear(c.max_action_dim, c.expert)
        self.action_time_mlp_in = nn.Linear(2 * c.expert, c.expert)
        self.action_time_mlp_out = nn.Linear(c.expert, c.expert)
        self.action_out_proj = nn.Linear(c.expert, c.max_action_dim)

    def embed_prefix(
        self, images: Any, img_masks: Any, lang_tokens: Tensor, lang_masks: Tensor, state: Tensor
    ) -> Any:
        patches = [F.unfold(image, 4, stride=4).mT for image in images]
        embedded = [self.vision(p) for p in patches]
        masks = [m[:, None].expand(e.shape[:2]) for m, e in zip(img_masks, embedded, strict=True)]
        parts = [*embedded, self.words(lang_tokens), self.state_proj(state)[:, None]]
        here = torch.ones(len(state), 1, dtype=torch.bool)
        return torch.cat(parts, 1), torch.cat([*masks, lang_masks, here], 1)

    def embed_suffix(self, x_t: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        half = self.config.expert // 2
        waves = timestep[:, None] * torch.exp(torch.linspace(0, 5, half))
        time = torch.cat([waves.sin(), waves.cos()], 1)
        action = self.action_in_proj(x_t)
        both = torch.cat([action, time[:, None].expand_as(action)], 2)
        return self.action_time_mlp_out(F.silu(self.action_time_mlp_in(both))), time

    def sample_actions(
        self,
        images: Any,
        img_masks: Any,
        lang_tokens: Tensor,
        lang_masks: Tensor,
        state: Tensor,
        noise: Tensor | None = None,
        num_steps: int | None = None,
    ) -> Tensor:
        c = self.config
        if noise is None:
            noise = torch.normal(0.0, 1.0, (len(state), c.chunk_size, c.max_action_dim))
        embedded, pad = self.embed_prefix(images, img_masks, lang_tokens, lang_masks, state)
        joint = getattr(self, self.joint_name)
        _, past_key_values = joint.forward(
            inputs_embeds=[embedded, None],
            attention_mask=pad[:, None].expand(-1, embedded.shape[1], -1),
            fill_kv_cache=True,
        )
        n = num_steps or c.num_steps
        x_t = noise
        for step in range(n):
            time = torch.full((len(state),), 1.0 - step / n)
            v_t = self.denoise_step(
                prefix_pad_masks=pad, past_key_values=past_key_values, x_t=x_t, timestep=time
            )
            x_t = x_t - v_t / n
        return x_t

    def denoise_step(
        self, prefix_pad_masks: Tensor, past_key_values: Any, x_t: Tensor, timestep: Tensor
    ) -> Tensor:
        embedded, cond = self.embed_suffix(x_t, timestep)
        length = embedded.shape[1]
        seen = prefix_pad_masks[:, None].expand(-1, length, -1)
        own = torch.ones(len(x_t), length, length, dtype=torch.bool)
        own = own.tril() if self.kind == "smolvla" else own
        (_, out), _ = getattr(self, self.joint_name).forward(
            inputs_embeds=[None, embedded],
            attention_mask=torch.cat([seen, own], 2),
            past_key_values=past_key_values,
            adarms_cond=cond,
        )
        found: Tensor = self.action_out_proj(out.float())
        return found


class SmallVla(nn.Module):
    """The policy around it: batches of named tensors, and a queue of actions."""

    def __init__(self, kind: str, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.model = SmallCore(kind, config)
        self.reset()

    def reset(self) -> None:
        self.queue: deque[Tensor] = deque()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], noise: Tensor | None = None) -> Tensor:
        image = batch["observation.images.top"]
        return self.model.sample_actions(
            [image],
            [torch.ones(len(image), dtype=torch.bool)],
            batch["observation.language.tokens"],
            batch["observation.language.attention_mask"],
            batch["observation.state"],
            noise=noise,
        )

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], noise: Tensor | None = None) -> Tensor:
        if not self.queue:
            chunk = self.predict_action_chunk(batch, noise)
            self.queue.extend(chunk.transpose(0, 1)[: self.config.n_action_steps])
        return self.queue.popleft()


def small_vla(kind: str = "smolvla", dtype: torch.dtype = torch.float32, **sizes: Any) -> SmallVla:
    """With random weights, in eval mode; `dtype` is of both transformers."""
    policy = SmallVla(kind, SmallConfig(**sizes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if not name.endswith("norm.weight"):
                scale = 1 / math.sqrt(value.shape[-1])
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    getattr(policy.model, policy.model.joint_name).to(dtype)
    return policy.eval()


def batch_of(policy: SmallVla, rows: int = 1, seed: int = 0) -> dict[str, Any]:
    """An observation of each row."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "observation.images.top": torch.rand(rows, 3, 8, 8, generator=generator),
        "observation.state": torch.randn(rows, policy.config.max_state_dim, generator=generator),
        "observation.language.tokens": torch.arange(5).repeat(rows, 1),
        "observation.language.attention_mask": torch.ones(rows, 5, dtype=torch.bool),
        "task": ["pick it up"] * rows,
    }


def noise_of(policy: SmallVla, rows: int = 1, seed: int = 0) -> Tensor:
    """What a query begins with."""
    c, generator = policy.config, torch.Generator().manual_seed(seed)
    return torch.randn(rows, c.chunk_size, c.max_action_dim, generator=generator)
