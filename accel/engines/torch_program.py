"""The fused program in torch: network, sampler and plan as one loop over denoising steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from skipstep.holding import Held, held_by

from ..kernels.cuda import Graph, tf32
from ..kernels.linear import linear
from ..plans.plan import CachePlan
from ..protocol import Noise, Transparent
from .deciding import blocks_of
from .inputs import Memory, draw_noise
from .program import StepProgram
from .torch_sites import TorchSites, normalised


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
        model, sizes, chosen = policy.model, policy.sizes, kernels or {}
        self.policy, self.batch, self.precision = policy, batch, precision
        self.graph: Graph | None = None
        self.table, self.encoder_only = policy.table, sizes.encoder_only
        self.width, self.inpaint = sizes.input_dim, not sizes.cond_dim
        self.live, self.dim = policy.n_live, sizes.n_emb
        self.tokens = self.live + (1 if sizes.encoder_only else 0)
        self.memory = None if sizes.encoder_only else Memory(policy, batch, chosen)
        sites = TorchSites(policy, batch, self.tokens, self.memory, precision, chosen)
        self.kernels = (self.memory.kernels if self.memory else {}) | sites.kernels
        rows = (batch, self.tokens, self.dim)
        self.blocks = blocks_of(plan)(policy, plan, steps, sites.branches, self.memory, rows)
        self.cache_bytes = self.blocks.cache_bytes
        times = torch.as_tensor(self.table.timesteps, device=policy.device)
        self.time_tokens = model.time_emb(times) if sizes.encoder_only else None
        position = model.pos_emb[0, : self.tokens].detach()
        self.position = position.repeat(batch, 1).reshape(rows)
        self.embed = linear(model.input_emb.weight, model.input_emb.bias, batch * self.live)
        self.norm = normalised(model.ln_f)
        self.head = linear(model.head.weight, model.head.bias, batch * self.live)

    def run(self, nobs: Tensor, noise: Noise) -> Tensor:
        """(B, n_obs_steps, obs_dim) normalised -> (B, live, input_dim) normalised.

        On CUDA the whole query is one graph where its operations are always the same, captured at
        the first call: noise is drawn on the CPU and copied once.
        """
        drawn = draw_noise(self.policy, self.batch, noise).to(nobs.device)
        held = held_by(noise, self.policy)
        if nobs.device.type != "cuda" or not self.blocks.captured or held:
            return self._query(nobs, drawn, held)
        if self.graph is None:
            self.graph = Graph(self._query, nobs, drawn)
        return self.graph(nobs, drawn)

    def _query(self, nobs: Tensor, drawn: Tensor, held: Held | None = None) -> Tensor:
        x = drawn[0].clone()
        if self.memory is not None:
            self.memory.observe(None if self.inpaint else nobs)
        self.blocks.start()
        last: list[Tensor] = []
        with tf32(self.precision == "tf32"):
            for s in range(len(self.table)):
                if self.inpaint:
                    x[:, : self.policy.n_obs_steps, self.policy.action_dim :] = nobs
                out = self._network(s, x)
                noise = drawn[s + 1] if self.table.draws[s] else None
                x = self.table.step(s, x, out, noise, last)
                x = x if held is None else held.apply(s, x)
        if self.inpaint:
            x[:, : self.policy.n_obs_steps, self.policy.action_dim :] = nobs
        return x

    def _network(self, s: int, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, self.width)).view(self.batch, self.live, self.dim)
        if self.time_tokens is not None:
            h = torch.cat([self.time_tokens[s].expand(self.batch, 1, self.dim), h], dim=1)
        h = self.blocks(s, (h + self.position).view(-1, self.dim))
        if self.encoder_only:
            h = h.view(self.batch, self.tokens, self.dim)[:, 1:].reshape(-1, self.dim)
        return self.head(self.norm(h)).view(self.batch, self.live, -1)

    @property
    def trace(self) -> np.ndarray | None:
        """(B, N) of the last query, see `blocks_of`."""
        return self.blocks.trace
