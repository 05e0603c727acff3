"""The fused program in torch: network, sampler and plan as one loop over denoising steps.

Lossless against the plain policy but for rounding: keys and values of memory tokens are computed
once per query (observations) or once per engine (time), tokens that no executed action depends on
are left out where attention is causal, projections are fused and packed, the sampler is a table,
and a run of hits is one addition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.cuda import Graph, tf32
from ..kernels.linear import PlainLinear, Wrapped, linear
from ..plans.bands import low_pass
from ..plans.plan import CachePlan
from ..plans.thresholds import Decisions, time_tokens
from ..protocol import Noise, Transparent
from ..quant.kernels import build, candidates
from ..quant.linear import QuantisedLinear
from .inputs import Memory, draw_noise
from .parts import layers_of, parts_of
from .program import Key, StepProgram, peak_values


class TorchProgram:
    """The loop for one batch size; tensors of the stream are (batch * tokens, width)."""

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        steps: list[StepProgram],
        batch: int,
        precision: str = "exact",
        kernels: Mapping[str, str] | None = None,
    ) -> None:
        model, sizes = policy.model, policy.sizes
        self.policy, self.model, self.steps, self.batch = policy, model, steps, batch
        self.precision = precision
        self.graph: Graph | None = None
        self.decisions: Decisions | None
        self.table, self.encoder_only = policy.table, sizes.encoder_only
        self.width, self.inpaint = sizes.input_dim, not sizes.cond_dim
        self.live = policy.n_live
        self.tokens = self.live + (1 if sizes.encoder_only else 0)
        self.dim = sizes.n_emb
        self.chosen, self.parts = kernels or {}, parts_of(policy)
        self.memory = None if sizes.encoder_only else Memory(policy, batch, self.chosen)
        self.kernels = {} if self.memory is None else dict(self.memory.kernels)
        ops = tuple(site.op for site in plan.sites)
        self.attends = [step.computes("ca", ops) for step in steps]
        self.sites: list[Callable[[Tensor], Tensor]] = []
        for index, layer in enumerate(layers_of(policy)):
            makers = {
                "sa": self._self_attention,
                "ca": self._cross_attention,
                "ff": self._feed_forward,
            }
            self.sites += [makers[op](index, layer) for op in sizes.branches]
        position = model.pos_emb[0, : self.tokens]
        times = torch.as_tensor(self.table.timesteps, device=policy.device)
        self.time_tokens = model.time_emb(times) if sizes.encoder_only else None
        self.position = position.detach().repeat(batch, 1).reshape(batch, self.tokens, self.dim)
        self.embed = linear(model.input_emb.weight, model.input_emb.bias, batch * self.live)
        self.head = linear(model.head.weight, model.head.bias, batch * self.live)
        self.biases = {
            (s, segment.start): torch.from_numpy(segment.bias).to(policy.device)
            for s, step in enumerate(steps)
            for segment in step.segments
            if segment.bias is not None
        }
        self.cache_bytes = peak_values(steps) * 4 * batch * self.tokens * self.dim
        self.cache_bytes += sum(bias.nbytes for bias in self.biases.values())
        if plan.bands is not None:
            low = torch.from_numpy(low_pass(self.tokens, plan.bands.cutoff))
            self.low_pass = low.float().to(policy.device)
        self.rule, self.decisions = plan.decide, None
        self.delta = torch.zeros(())
        if self.rule:
            self.time = time_tokens(policy) if self.rule.probe == "norm" else None
            norm = layers_of(policy)[0].norm1
            self.norm = partial(
                F.layer_norm,
                normalized_shape=(self.dim,),
                weight=norm.weight,
                bias=norm.bias,
                eps=norm.eps,
            )
            self.cache_bytes = 2 * 4 * batch * self.tokens * self.dim  # last delta, last probe

    def _linear(self, name: str) -> PlainLinear:
        part, rows = self.parts[name], self.batch * self.tokens
        if isinstance(part, QuantisedLinear):
            self.kernels[name] = self.chosen.get(name) or candidates(part)[0]
            return Wrapped(build(self.kernels[name], part, rows))
        kernel = linear(*part, rows, self.precision)
        self.kernels[name] = kernel.name
        return kernel

    def _self_attention(self, index: int, layer: Any) -> Callable[[Tensor], Tensor]:
        attention, norm = layer.self_attn, layer.norm1
        project, out = self._linear(f"{index}.sa.in"), self._linear(f"{index}.sa.out")
        shape = (self.batch, self.tokens, 3, attention.num_heads, -1)
        causal, dim = self.model.mask is not None, (self.dim,)

        def branch(x: Tensor) -> Tensor:
            h = torch.layer_norm(x, dim, norm.weight, norm.bias, norm.eps)
            q, k, v = project(h).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
            h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return out.add(h.transpose(1, 2).reshape(x.shape), x)

        return branch

    def _cross_attention(self, index: int, layer: Any) -> Callable[[Tensor], Tensor]:
        attention, norm, memory = layer.multihead_attn, layer.norm2, self.memory
        assert memory is not None
        project, out = self._linear(f"{index}.ca.q"), self._linear(f"{index}.ca.out")
        shape = (self.batch, self.tokens, attention.num_heads, -1)
        mask = self.model.memory_mask
        mask = None if mask is None else mask[: self.tokens].contiguous()
        keys, values = memory.of_layer(index)
        dim = (self.dim,)

        def branch(x: Tensor) -> Tensor:
            h = torch.layer_norm(x, dim, norm.weight, norm.bias, norm.eps)
            q = project(h).view(shape).transpose(1, 2)
            h = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            return out.add(h.transpose(1, 2).reshape(x.shape), x)

        return branch

    def _feed_forward(self, index: int, layer: Any) -> Callable[[Tensor], Tensor]:
        norm = layer.norm3 if layer.cross else layer.norm2
        up, down = self._linear(f"{index}.ff.up"), self._linear(f"{index}.ff.down")
        dim = (self.dim,)

        def branch(x: Tensor) -> Tensor:
            h = torch.layer_norm(x, dim, norm.weight, norm.bias, norm.eps)
            return down.add(up.gelu(h), x)

        return branch

    def run(self, nobs: Tensor, noise: Noise) -> Tensor:
        """(B, n_obs_steps, obs_dim) normalised -> (B, live, input_dim) normalised.

        On CUDA the whole query is one graph, captured at the first call, unless the plan decides at
        run time: noise is drawn on the CPU and copied once.
        """
        drawn = draw_noise(self.policy, self.batch, noise).to(nobs.device)
        if nobs.device.type != "cuda" or self.rule is not None:
            return self._query(nobs, drawn)
        if self.graph is None:
            self.graph = Graph(self._query, nobs, drawn)
        return self.graph(nobs, drawn)

    def _query(self, nobs: Tensor, drawn: Tensor) -> Tensor:
        x = drawn[0].clone()
        if self.memory is not None:
            self.memory.observe(None if self.inpaint else nobs)
        kept: dict[Key, Tensor] = {}
        last: list[Tensor] = []
        if self.rule is not None:
            self.decisions = Decisions(self.rule, self.time)
        with tf32(self.precision == "tf32"):
            for s, step in enumerate(self.steps):
                if self.inpaint:
                    x[:, : self.policy.n_obs_steps, self.policy.action_dim :] = nobs
                if self.memory is not None and self.attends[s] and self.rule is None:
                    self.memory.at_step(s)
                out = self._network(s, step, x, kept)
                noise = drawn[s + 1] if self.table.draws[s] else None
                x = self.table.step(s, x, out, noise, last)
        if self.inpaint:
            x[:, : self.policy.n_obs_steps, self.policy.action_dim :] = nobs
        return x

    def _network(self, s: int, step: StepProgram, x: Tensor, kept: dict[Key, Tensor]) -> Tensor:
        h = self.embed(x.reshape(-1, self.width)).view(self.batch, self.live, self.dim)
        if self.time_tokens is not None:
            h = torch.cat([self.time_tokens[s].expand(self.batch, 1, self.dim), h], dim=1)
        h = (h + self.position).view(-1, self.dim)
        h = self._run(step, s, h, kept) if self.rule is None else self._decide(s, h)
        if self.encoder_only:
            h = h.view(self.batch, self.tokens, self.dim)[:, 1:].reshape(-1, self.dim)
        norm = self.model.ln_f
        h = torch.layer_norm(h, (self.dim,), norm.weight, norm.bias, norm.eps)
        return self.head(h).view(self.batch, self.live, -1)

    def _run(self, step: StepProgram, s: int, h: Tensor, kept: dict[Key, Tensor]) -> Tensor:
        """The blocks of a step under the plan."""
        starts: dict[Key, Tensor] = {}
        for segment in step.segments:
            if segment.add is not None:
                for key, coefficient in segment.add:
                    h = torch.add(h, kept[key], alpha=coefficient)
                if segment.low:
                    low = torch.stack([c * kept[key] for key, c in segment.low]).sum(dim=0)
                    rows = low.view(self.batch, self.tokens, self.dim)
                    h = h + (self.low_pass @ rows).view(-1, self.dim)
                if segment.bias is not None:
                    stream = h.view(self.batch, self.tokens, self.dim)
                    h = (stream + self.biases[s, segment.start]).view(-1, self.dim)
                continue
            for site in range(segment.start, segment.stop):
                for key in step.opens.get(site, ()):
                    starts[key] = h
                h = self.sites[site](h)
                for key in step.closes.get(site + 1, ()):
                    kept[key] = h - starts.pop(key)
        for key in step.drops:
            del kept[key]
        return h

    def _decide(self, s: int, h: Tensor) -> Tensor:
        """The blocks of a step where rows decide; they are computed if any row wants them."""
        assert self.rule is not None
        assert self.decisions is not None
        before, first, rows = h, self.rule.first, (self.batch, self.tokens, self.dim)
        if first and self.memory is not None:
            self.memory.at_step(s)
        for site in range(first):
            h = self.sites[site](h)
        probe = self.norm(h) if self.rule.probe == "norm" else h - before
        go = self.decisions(s, probe.view(rows))
        if not bool(go.any()):
            return h + self.delta
        if not first and self.memory is not None:
            self.memory.at_step(s)
        computed = h
        for site in range(first, len(self.sites)):
            computed = self.sites[site](computed)
        if bool(go.all()):
            self.delta = computed - h
            return computed
        chosen = go.repeat_interleave(self.tokens)[:, None]
        out = torch.where(chosen, computed, h + self.delta)
        self.delta = torch.where(chosen, computed - h, self.delta)
        return out

    @property
    def trace(self) -> np.ndarray | None:
        """(B, N) of the last query, see `Decisions`."""
        return None if self.decisions is None else self.decisions.trace
