"""A policy that looks at pictures without a network for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from policies import DiffusionPolicy, PolicyConfig, from_reference
from skipstep.observations import each
from tests.helpers.picture import PictureTask
from tests.helpers.stock import live_policy


class Looking(DiffusionPolicy):
    """A policy of `PictureTask(5, 3)` that encodes pictures by their first pixels.

    It remembers the frames of the newest query and counts what it encodes.
    """

    n_encoded = 0

    @classmethod
    def small(cls) -> Looking:
        live = from_reference(live_policy())
        policy = cls(live.config)
        policy.load_state_dict(live.state_dict())
        return policy.eval()

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.obs_spec = PictureTask(obs_dim=5).obs_spec

    def check(self, obs: Any, noise: Any) -> None:
        assert {name: a.dtype for name, a in obs.items()} == {
            "state": torch.float32,
            "image.top": torch.uint8,
        }
        assert obs["state"].shape[1:] == (self.n_obs_steps, 5)
        assert obs["image.top"].shape[1:] == (self.n_obs_steps, 3, 12, 16)
        assert len(noise) == len(obs["state"])

    def encode(self, obs: Any, memory: Any = None) -> Tensor:
        rows = [each(lambda array, i=i: array[i], obs) for i in range(len(obs["state"]))]
        memory = memory or [{} for _ in rows]
        return torch.stack([self._row(row, kept) for row, kept in zip(rows, memory, strict=True)])

    def _row(self, row: Mapping[str, Tensor], kept: dict[str, Any]) -> Tensor:
        known, newest = kept.get("frames", {}), {}
        for step in range(self.n_obs_steps):
            frame = each(lambda array, step=step: array[step], row)
            key = b"".join(frame[name].numpy().tobytes() for name in frame)
            known[key] = newest[key] = known[key] if key in known else self._frame(frame)
            newest[step] = newest[key]
        kept["frames"] = {key: newest[key] for key in newest if isinstance(key, bytes)}
        return torch.stack([newest[step] for step in range(self.n_obs_steps)])

    def _frame(self, frame: Mapping[str, Tensor]) -> Tensor:
        self.n_encoded += 1
        pixels = frame["image.top"].flatten()[:5] / 255
        return self.normalizer.normalize("obs", frame["state"] + 3 * pixels)
