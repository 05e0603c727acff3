"""The diffusion policy: observations and noise in, an action chunk out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipstep.holding import held_by
from skipstep.observations import each, n_rows

from .config import PolicyConfig
from .data.normalizer import Normalizer
from .denoiser import Network, StepBranch, at_step
from .encoders.encoder import ObservationEncoder
from .encoding import Encoding, Memories, observed_fields
from .families import family_named
from .fingerprints import Fingerprints
from .observed import Observation
from .sampling.choosing import choose_sampler
from .sampling.noise import Noise, draw
from .sampling.table import SamplerConfig, SamplerTable, alpha_bars, sampler_table
from .undrawn import Undrawn, shared


class DiffusionPolicy(Encoding):
    """A DDPM/DDIM policy over action chunks (Chi et al. 2023); `load_policy` makes one.

    Args:
        config: everything but the weights.
        encoder: in the place of the one that the config describes, from normalised arrays (B, To,
            ...) by name to (B, To, obs_dim).

    Attributes:
        origin: the folder or file that it was loaded from, if any.
    """

    n_obs_steps: int
    n_action_steps: int
    horizon: int
    obs_dim: int
    action_dim: int
    table: SamplerTable

    def __init__(self, config: PolicyConfig, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.model: Any = family_named(config.network.family).network(config.network)
        fields = {**observed_fields(config), "action": config.action_dim}
        self.normalizer = Normalizer(fields, config.normalization)
        if encoder is None and config.encoder is not None:
            encoder = ObservationEncoder(config.encoder)
        self.encoder = encoder
        self.n_obs_steps = config.network.n_obs_steps
        self.n_action_steps = config.n_action_steps
        self.horizon = config.network.horizon
        self.obs_dim, self.action_dim = config.obs_dim, config.action_dim
        self.table = sampler_table(config.sampler)
        self.obs_spec = config.obs_spec
        self.origin: Path | None = None
        self._fingerprints = Fingerprints()

    @property
    def pred_action_steps_only(self) -> bool:
        return self.config.pred_action_steps_only

    @property
    def n_inference_steps(self) -> int:
        return len(self.table)

    @property
    def n_tokens(self) -> int:
        """Tokens of the trajectory in one denoising call, a time token included."""
        return self.config.length + (1 if self.config.network.encoder_only else 0)

    @property
    def n_live(self) -> int:
        """Leading steps of the trajectory that can influence an executed action.

        With causal attention a token is seen by later ones only, so what follows the last executed
        action is never needed.
        """
        if self.config.network.causal_attn:
            return self.n_obs_steps - 1 + self.n_action_steps
        return self.n_tokens - (1 if self.config.network.encoder_only else 0)

    @property
    def sizes(self) -> Any:
        """The network's config, the sizes of a family in `FAMILIES`."""
        return self.config.network

    def with_sampler(
        self, sampler: SamplerConfig | str, steps: int | None = None, **settings: Any
    ) -> DiffusionPolicy:
        """A policy that shares these weights and samples differently.

        Args:
            sampler: a whole config, or a kind (checkpoint, ddpm, ddim, dpmpp, euler, rk4), see
                `choose_sampler`.
            steps: of that kind: network calls of a query; a step of rk4 is four of them.
            settings: of that kind: spacing, timesteps, power, eta, order, stochastic,
                variance_type.
        """
        if isinstance(sampler, str):
            sampler = choose_sampler(self.config.sampler, sampler, steps, **settings)
        elif not isinstance(sampler, SamplerConfig):
            raise TypeError(f"sampler must be a kind or a SamplerConfig, got {sampler!r}")
        elif steps is not None or settings:
            raise TypeError("steps and other settings go with a kind of sampler, not with a config")
        return self._twin(replace(self.config, sampler=sampler))

    @property
    def first_action(self) -> int:
        """Index in the trajectory of the first action that is executed."""
        return self.config.first_action

    @property
    def longest_chunk(self) -> int:
        """The most actions that one query predicts from the newest observation on."""
        if self.config.pred_action_steps_only:
            return self.n_action_steps
        return self.horizon - (self.n_obs_steps - 1)

    def with_n_action_steps(self, n: int) -> DiffusionPolicy:
        """A policy that shares these weights and returns n actions a query.

        Raises:
            ValueError: the horizon has no room for them.
        """
        return self._twin(replace(self.config, n_action_steps=n))

    def from_step(self, step: int) -> DiffusionPolicy:
        """A policy that shares these weights and whose queries begin with a step of this one's.

        Its list of timesteps is the rest of this one's; what it begins with is pure noise all the
        same, unless its noise is `skipstep.starts.Started`.

        Raises:
            ValueError: the sampler has no such step, or is one of flow matching.
        """
        if not 0 <= step < self.n_inference_steps:
            last = self.n_inference_steps - 1
            raise ValueError(f"step must be from 0 to {last} (the sampler's last), got {step}")
        base, left = self.config.sampler, self.table.timesteps[step:].tolist()
        if base.is_flow:
            raise ValueError(
                f"sampler={base.kind} follows a velocity, whose steps are not a list of timesteps: "
                "its queries begin with step 0"
            )
        order = min(base.order, len(left)) if base.kind == "dpmpp" else None
        return self.with_sampler(choose_sampler(base, timesteps=left, order=order))

    def _twin(self, config: PolicyConfig) -> DiffusionPolicy:
        with Undrawn():
            twin = DiffusionPolicy(config, None if self.encoder is None else shared(self.encoder))
        twin.model = shared(self.model)  # quantised layers too
        twin.normalizer.load_state_dict(self.normalizer.state_dict(), assign=True)
        twin._fingerprints, twin.origin = self._fingerprints, self.origin
        return twin.to(self.device).train(self.training)

    @property
    def sampler_settings(self) -> dict[str, Any]:
        return self.config.sampler.settings()

    @property
    def alpha_bar(self) -> np.ndarray:
        """(N,) float32: alpha-bar of the trajectory that each denoising step sees."""
        return alpha_bars(self.config.sampler)

    def fingerprint(self, sampler: Mapping[str, Any] | None = None) -> str:
        """Hash of the weights and of every setting that changes an action (sampler included).

        Args:
            sampler: settings of another sampler: what the fingerprint would be under it.
        """
        settings = self.config.settings()
        settings |= {} if sampler is None else {"sampler": dict(sampler)}
        settings |= {} if self.encoder is None else {"order": list(self.obs_spec)}
        return self._fingerprints.of(settings, self.state_dict())

    def act(
        self,
        obs: Observation,
        noise: Noise,
        branch: StepBranch | None = None,
        memory: Memories = None,
    ) -> Tensor:
        """Observations to the actions to execute: `encode` once, then `denoise`.

        Args:
            obs: (B, n_obs_steps, obs_dim), or a mapping of the arrays of `obs_spec`, see `encode`.
            noise: one CPU generator per row, or a single one that is consumed in the order of the
                reference implementation (the initial trajectory, then one draw per stochastic step,
                each of full horizon).
            branch: intercepts the network's sites, see `StepBranch`; None is the plain policy.
            memory: as of `encode`.

        Returns:
            (B, n_action_steps, action_dim), in the units of the env.

        Example:
            >>> from policies import load_policy
            >>> policy = load_policy("checkpoints/kitchen").with_sampler("ddpm", 5)
            >>> obs = torch.zeros(2, policy.n_obs_steps, policy.obs_dim)
            >>> noise = [torch.Generator().manual_seed(seed) for seed in range(2)]
            >>> tuple(policy.act(obs, noise).shape)
            (2, 8, 9)
        """
        self.check(obs, noise)
        return self.denoise(self.encode(obs, memory), noise, branch)

    def denoise(
        self,
        cond: Tensor,
        noise: Noise,
        branch: StepBranch | None = None,
        network: Network | None = None,
    ) -> Tensor:
        """What `encode` gave to the actions to execute; arguments and result as of `act`.

        network: what is called in the place of the policy's own, which it computes in its own way.
        """
        trajectory = self.denoised(cond, noise, branch, network)
        actions = self.normalizer.unnormalize("action", trajectory[..., : self.action_dim])
        first = self.config.first_action
        return actions[:, first : first + self.n_action_steps]

    def predict_action(self, obs_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """The reference's call: {"obs": (B, >= n_obs_steps, obs_dim)} -> {"action", "action_pred"}.

        Where an observation is several arrays they stand under "obs", or in its place. Noise comes
        from torch's default CPU generator. In-painting policies also return the predicted
        observations ("obs_pred", "action_obs_pred").
        """
        obs = each(lambda array: array[:, : self.n_obs_steps], obs_dict.get("obs", obs_dict))
        trajectory = self.sample(obs, torch.default_generator)
        first = self.config.first_action
        executed = slice(first, first + self.n_action_steps)
        pred = self.normalizer.unnormalize("action", trajectory[..., : self.action_dim])
        result = {"action": pred[:, executed], "action_pred": pred}
        if not self.config.network.obs_as_cond:
            obs_pred = self.normalizer.unnormalize("obs", trajectory[..., self.action_dim :])
            result |= {"action_obs_pred": obs_pred[:, executed], "obs_pred": obs_pred}
        return result

    def sample(self, obs: Observation, noise: Noise, branch: StepBranch | None = None) -> Tensor:
        """The denoised trajectory (B, T, input_dim), normalised; arguments as of `act`."""
        self.check(obs, noise)
        return self.denoised(self.encode(obs), noise, branch)

    @torch.no_grad()
    def denoised(
        self,
        cond: Tensor,
        noise: Noise,
        branch: StepBranch | None = None,
        network: Network | None = None,
    ) -> Tensor:
        """The trajectory (B, T, input_dim), normalised; arguments as of `denoise`."""
        net, table = self.config.network, self.table
        denoiser = self.model if network is None else network
        shape = (len(cond), self.config.length, net.input_dim)
        x = draw(noise, shape).to(self.device)
        held = held_by(noise, self)
        last: list[Tensor] = []
        for s, timestep in enumerate(table.timesteps.tolist()):
            self._inpaint(x, cond)
            out = denoiser(
                x,
                torch.full((len(cond),), timestep, device=self.device),
                cond if net.obs_as_cond else None,
                None if branch is None else at_step(branch, s),
            )
            z = draw(noise, shape).to(self.device) if table.draws[s] else None
            x = table.step(s, x, out, z, last)
            x = x if held is None else held.apply(s, x)
        self._inpaint(x, cond)
        return x

    def _inpaint(self, x: Tensor, cond: Tensor) -> None:
        """Without observation conditioning, the observed part of the trajectory is overwritten."""
        if not self.config.network.obs_as_cond:
            x[:, : self.n_obs_steps, self.action_dim :] = cond

    def check(self, obs: Observation, noise: Noise) -> None:
        """Refuse training mode, observations of another shape and a wrong number of generators."""
        if self.training:
            raise RuntimeError(
                "the policy is in training mode (dropout is on): call policy.eval() first"
            )
        rows = n_rows(self.observed(obs))
        if not isinstance(noise, torch.Generator) and len(noise) != rows:
            raise ValueError(f"noise must hold one generator per row ({rows}), got {len(noise)}")
