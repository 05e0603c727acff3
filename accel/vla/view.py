"""A live policy's expert as the caches and the calibration see a policy of this project."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attach.plans import fingerprint
from ..calibration.branch_outputs import compute_all
from ..families.vla import sites
from ..plans.sites import Site
from ..protocol import Memories, Noise, Observation, StepBranch
from .queries import Run, draw, predict
from .structure import CHUNK, Vla
from .walk import Walk


@dataclass(frozen=True, eq=False)
class ExpertSizes:
    """Sizes of a live expert, see `families.vla.VlaSizes`."""

    n_layer: int
    n_emb: int
    paths: tuple[str, ...]
    weights: np.ndarray
    branches: tuple[str, ...] = ("sa", "ff")
    family: str = "vla"
    encoder_only: bool = False

    @classmethod
    def of(cls, vla: Vla) -> ExpertSizes:
        modules = [layer.module for layer in vla.layers]
        width = int(modules[0].self_attn.o_proj.out_features)
        weights = [[_weights(m.self_attn), _weights(m.mlp)] for m in modules]
        paths = tuple(layer.path for layer in vla.layers)
        return cls(len(modules), width, paths, np.array(weights))


def _weights(module: nn.Module) -> int:
    """Numbers in the linear layers of a module, quantised ones too."""
    pairs = (
        (getattr(m, "in_features", 0), getattr(m, "out_features", 0)) for m in module.modules()
    )
    return sum(int(a) * int(b) for a, b in pairs)


class ActionsAsTheyAre:
    """Actions of a VLA are normalised until its postprocessor has them."""

    def normalize(self, field: str, x: Tensor) -> Tensor:
        return x


class Plainly:
    """Lets one branch run every query, and skips nothing."""

    def __init__(self, branch: StepBranch) -> None:
        self.branch = branch

    def begin(self, args: Any, kwargs: Any) -> StepBranch:
        return self.branch

    def skips(self, step: int, site: int) -> bool:
        return False

    def denoises(self) -> None: ...

    def end(self) -> None: ...

    def failed(self) -> None: ...


class View:
    """What `accel.calibrate`, `Method.plan` and the reference engine ask of a policy.

    A query's condition is its number among `queries`, since the prefix is inside of the policy.

    Args:
        vla: the live policy.
        queries: batches of one row each.
        run: how one of them is run.
        n_tokens: of the expert's stream; None: as many as a chunk has actions.
    """

    obs_spec: Any = None
    obs_dim = action_dim = first_action = 0
    n_obs_steps = 1
    pred_action_steps_only = False

    def __init__(
        self,
        vla: Vla,
        queries: Sequence[Any] = (),
        run: Run = predict,
        n_tokens: int | None = None,
    ) -> None:
        self.vla, self.queries, self.run = vla, queries, run
        self.sizes = ExpertSizes.of(vla)
        self.sites: tuple[Site, ...] = sites(self.sizes)
        self.normalizer = ActionsAsTheyAre()
        self.n_inference_steps = vla.n_steps
        chunk = vla.setting(CHUNK)
        self.horizon = self.n_tokens = n_tokens or chunk or 1
        config = getattr(vla.core, "config", None)
        self.n_action_steps = self.longest_chunk = int(
            getattr(config, "n_action_steps", None) or chunk or 1
        )
        self.alpha_bar = 1 - np.arange(vla.n_steps) / vla.n_steps
        self._fingerprint = hashlib.sha256(
            f"{fingerprint(vla.core)} euler {vla.n_steps}".encode()
        ).hexdigest()

    @property
    def n_live(self) -> int:
        """All tokens: the executed actions attend to them."""
        return self.n_tokens

    @property
    def model(self) -> Any:
        return self.vla.core

    @property
    def training(self) -> bool:
        return bool(self.vla.core.training)

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self.vla.core.parameters()).device
        return found

    @property
    def sampler_settings(self) -> dict[str, Any]:
        return {"kind": "euler", "steps": self.vla.n_steps}

    def fingerprint(self, sampler: Mapping[str, Any] | None = None) -> str:
        """Of class, shapes, the first values of every parameter, and the number of steps."""
        return self._fingerprint

    def check(self, obs: Observation, noise: Noise) -> None:
        """Queries are checked by the policy itself."""

    def encode(self, obs: Observation, memory: Memories = None) -> Tensor:
        """(B, 1) numbers of queries, as they came."""
        assert isinstance(obs, Tensor)
        return obs

    def denoise(self, cond: Tensor, noise: Noise, branch: StepBranch | None = None) -> Tensor:
        """(B, 1) numbers of queries -> (B, n_action_steps, action width), one row at a time."""
        assert isinstance(noise, Sequence)
        if len(cond) != 1:
            raise ValueError(f"one query of a live policy at a time, got {len(cond)}")
        generator = noise[0]
        assert isinstance(generator, torch.Generator)
        walk = Walk(self.vla, tuple(s.name for s in self.sites), Plainly(branch or compute_all))
        walk.put()
        try:
            actions = self.run(
                self.vla.policy, self.queries[int(cond[0, 0])], draw(self.vla, generator)
            )
        finally:
            walk.take()
        if not isinstance(actions, Tensor) or actions.ndim != 3 or len(actions) != 1:
            got = tuple(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
            raise ValueError(f"run must return actions (1, steps, width) of a query, got {got}")
        return actions[:, : self.n_action_steps].float()
