"""A policy under a plan as a program of native.c."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipstep.holding import held_by

from ..kernels.native import Part, helped, library, one_thread, portions, together
from ..kernels.packed import BFLOAT, HALF, SINGLE, TILES, Linear, Net, Packed, Site
from ..plans.plan import CachePlan
from ..protocol import Noise, Transparent
from ..quant.kernels import packed
from ..quant.linear import QuantisedLinear
from .deciding import assembled, rule_of
from .inputs import Memory, draw_noise
from .parts import LINEARS, layers_of, norm_of, parts_of
from .program import StepProgram, peak_values

OPS = {"sa": 0, "ca": 1, "ff": 2}
STORED = {SINGLE: "fp32_native", HALF: "half_native", BFLOAT: "bf16_native", TILES: "bf16_tiles"}


class NativeProgram:
    """The query of one batch size."""

    def __init__(
        self,
        policy: Transparent,
        plan: CachePlan,
        steps: list[StepProgram],
        batch: int,
        precision: str,
        kernels: Mapping[str, str],
    ) -> None:
        loaded = library()
        assert loaded is not None
        self.policy, self.batch = policy, batch
        self.workers, divided = min(torch.get_num_threads(), batch), helped(batch)
        with one_thread():
            self.memory = None if policy.sizes.encoder_only else Memory(policy, batch, kernels)
        self.assembled, self.plan = assembled(plan, steps), plan
        self.packed = Packed(loaded, precision)
        self.kernels = {} if self.memory is None else dict(self.memory.kernels)
        self.chosen = kernels
        n_parts = batch if self.assembled.alone else self.workers
        self.rows = portions(batch, n_parts)
        with one_thread():
            shared = self._shared()
        self.nets = [Net(batch=rows.stop - rows.start, **shared) for rows in self.rows]
        slots = self.assembled.n_slots
        self.parts = [Part(loaded, net, slots, divided) for net in self.nets]
        tokens = policy.n_live + policy.sizes.encoder_only
        values = self.assembled.n_slots if self.assembled.alone else peak_values(steps)
        self.cache_bytes = values * 4 * batch * tokens * policy.sizes.n_emb
        self.cache_bytes += sum(bias.nbytes for bias in self.assembled.biases)

    def run(self, nobs: Tensor, noise: Noise) -> Tensor:
        """(B, n_obs_steps, obs_dim) normalised -> (B, live, input_dim) normalised."""
        drawn = draw_noise(self.policy, self.batch, noise)
        held = held_by(noise, self.policy)
        x = drawn[0].contiguous()
        if self.memory is not None:
            with one_thread():
                self.memory.observe(nobs if self.policy.sizes.cond_dim else None)
        keys = torch.empty(0) if self.memory is None else self.memory.buffer
        calls = [
            partial(
                part,
                x[rows],
                keys[:, :, rows].contiguous() if keys.ndim > 1 else keys,
                drawn[1:, rows].contiguous(),
                nobs[rows].contiguous(),
                None if held is None else held.of(rows, self.policy.n_live),
            )
            for part, rows in zip(self.parts, self.rows, strict=True)
        ]
        together(calls, self.workers)
        return x

    @property
    def trace(self) -> np.ndarray | None:
        """(B, N) of the last query, see `Decisions`."""
        if not self.assembled.alone:
            return None
        return torch.stack([part.trace for part in self.parts]).bool().numpy()

    def _linear(self, name: str) -> Linear:
        """Pack a site's linear; a quantised one for its kernel, native or (as a weight) fp32."""
        part = self.parts_of[name]
        if isinstance(part, QuantisedLinear):
            coded, self.kernels[name] = packed(self.packed, part, self.chosen.get(name), name)
            return coded
        linear = self.packed.linear(*part)
        self.kernels[name] = STORED[linear.stored]
        return linear

    def _site(self, index: int, layer: Any, op: str) -> Site:
        norm, pointer = norm_of(layer, op), self.packed.pointer
        scale, shift = pointer(norm.weight), pointer(norm.bias)
        first, second = (self._linear(f"{index}.{op}.{name}") for name in LINEARS[op])
        return Site(OPS[op], index, norm.eps, scale, shift, first, second)

    def _shared(self) -> dict[str, Any]:
        """Everything of the C structure but the batch."""
        policy, model = self.policy, self.policy.model
        table, sizes = policy.table, policy.sizes
        packed, pointer = self.packed, self.packed.pointer
        lead, live = int(sizes.encoder_only), policy.n_live
        tokens, inpaint = live + lead, not sizes.cond_dim
        layers = layers_of(policy)
        self.parts_of = parts_of(policy)
        self.sites = [
            self._site(index, layer, op)
            for index, layer in enumerate(layers)
            for op in sizes.branches
        ]
        columns = ("in_x", "in_out", "x0_scale", "x_scale", "out_scale", "sigma")
        sampler = torch.stack([torch.as_tensor(getattr(table, c)) for c in columns], 1).float()
        sampler = torch.cat([sampler, torch.as_tensor(table.last_scale).float()], 1)
        sampler[:, 5] *= torch.as_tensor(table.draws)
        times = model.time_emb(torch.as_tensor(table.timesteps))
        keys = torch.empty(0) if self.memory is None else self.memory.time
        return {
            "dim": sizes.n_emb,
            "heads": layers[0].self_attn.num_heads,
            "hidden": layers[0].linear1.out_features,
            "live": live,
            "lead": lead,
            "width": sizes.input_dim,
            "memory": sizes.n_memory,
            "layers": len(layers),
            "steps": len(table),
            "n_sites": len(self.sites),
            "observed": policy.n_obs_steps if inpaint else 0,
            "observed_from": policy.action_dim,
            "sees": pointer(visible(model.mask, tokens, tokens)),
            "sees_memory": pointer(visible(model.memory_mask, tokens, sizes.n_memory)),
            "sites": (Site * len(self.sites))(*self.sites),
            "embed": packed.linear(model.input_emb.weight, model.input_emb.bias),
            "head": packed.linear(model.head.weight, model.head.bias),
            "eps": model.ln_f.eps,
            "norm_weight": pointer(model.ln_f.weight),
            "norm_bias": pointer(model.ln_f.bias),
            "position": pointer(model.pos_emb[0, :tokens]),
            "time_tokens": pointer(times),
            "time_keys": pointer(keys),
            "program": pointer(torch.tensor(self.assembled.code)),
            "coefficients": pointer(torch.tensor(self.assembled.coefficients, dtype=torch.float32)),
            "biases": pointer(torch.from_numpy(np.array(self.assembled.biases, dtype=np.float32))),
            "sampler": pointer(sampler),
            "clip": -1.0 if table.clip is None else table.clip,
            "multistep": table.multistep,
            **rule_of(self.plan, policy, packed),
        }


def visible(mask: Tensor | None, tokens: int, keys: int) -> Tensor:
    """(tokens,) how many leading keys each token attends to."""
    if mask is None:
        return torch.full((tokens,), keys)
    seen = mask[:tokens, :keys] == 0
    counts = seen.sum(dim=1)
    assert bool((seen == (torch.arange(keys) < counts[:, None])).all()), "not a causal mask"
    return counts
