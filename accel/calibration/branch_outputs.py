"""What the branches of a query put out, and how the outputs of its steps compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..plans.sites import sites_of
from ..protocol import Compute, Noise, StepBranch, Transparent


def compute_all(step: int, site: int, compute: Compute) -> Tensor:
    """The plain network as a `StepBranch`."""
    return compute()


def generators_at(states: Sequence[Tensor]) -> list[torch.Generator]:
    """New generators with the states of others, which they leave alone."""
    found = [torch.Generator() for _ in states]
    for generator, state in zip(found, states, strict=True):
        generator.set_state(state)
    return found


def live_tokens(policy: Transparent) -> int:
    """Tokens of the stream that can influence an executed action, a time token included."""
    return policy.n_live + policy.sizes.encoder_only


def observe(
    policy: Transparent, cond: Tensor, noise: Noise, branch: StepBranch = compute_all
) -> tuple[Tensor, Tensor]:
    """Denoise, and keep what every branch put out.

    Args:
        policy: in eval mode.
        cond: (B, n_obs_steps, cond_dim), what `policy.encode` gave.
        noise: as of `policy.denoise`.
        branch: what each branch puts out; the default is the plain policy.

    Returns:
        Actions (B, n_action_steps, action_dim) and features (B, n_sites, N, live tokens, width)
        float32, on the policy's device.

    Raises:
        FloatingPointError: an output is not finite; the message names the site and the step.
    """
    sites, live = sites_of(policy), live_tokens(policy)
    shape = (len(cond), len(sites), policy.n_inference_steps, live, policy.sizes.n_emb)
    features = torch.empty(shape, device=policy.device)

    def keep(step: int, site: int, compute: Compute) -> Tensor:
        out = branch(step, site, compute)
        if not bool(out[:, :live].isfinite().all()):
            raise FloatingPointError(f"{sites[site].name} is not finite in step {step}")
        features[:, site, step] = out[:, :live]
        return out

    return policy.denoise(cond, noise, keep), features


def compare(features: Tensor) -> dict[str, np.ndarray]:
    """The steps of one query against each other.

    cos, mse and l2 come from one float64 Gram matrix per site, of features without their mean over
    steps: the distance of two nearly equal features is then a difference of small numbers.

    Args:
        features: (n_sites, N, size) float32.

    Returns:
        {"gram", "cos", "mse", "l1", "l2"}: (n_sites, N, N) float64, see `Calibration`.
    """
    n_steps, size = features.shape[1:]
    wide = features.double()
    mean = wide.mean(dim=1, keepdim=True)
    centred = wide - mean
    inner = centred @ centred.mT
    cross = centred @ mean.mT  # (n_sites, N, 1)
    inner = (inner + inner.mT) / 2  # to the last bit
    gram = inner + (cross + cross.mT) + mean @ mean.mT
    own = inner.diagonal(dim1=1, dim2=2)
    squares = (own[:, :, None] + own[:, None, :] - 2 * inner).clamp(min=0)
    squares.diagonal(dim1=1, dim2=2).zero_()
    norms = wide.norm(dim=2)
    products = norms[:, :, None] * norms[:, None, :]
    both_zero = (norms[:, :, None] + norms[:, None, :]) == 0
    cos = torch.where(products > 0, gram / products, both_zero.double()).clamp(-1, 1)
    cos.diagonal(dim1=1, dim2=2).fill_(1)
    l1 = torch.zeros_like(squares)
    i, j = torch.triu_indices(n_steps, n_steps, offset=1, device=features.device)
    for site, feature in enumerate(features):
        l1[site, i, j] = torch.nn.functional.pdist(feature, p=1).double() / size
    found = {
        "gram": gram,
        "cos": cos,
        "mse": squares / size,
        "l1": l1 + l1.mT,
        "l2": squares.sqrt(),
    }
    return {name: matrix.cpu().numpy() for name, matrix in found.items()}


def layer_gram(features: Tensor, n_layers: int) -> np.ndarray:
    """Inner products of what the layers of one query add, less their means over steps.

    Args:
        features: (n_sites, N, size) float32, sites of a layer in a row.
        n_layers: L.

    Returns:
        (L, N, L, N) float64, computed in float32.
    """
    n_steps = features.shape[1]
    added = features.view(n_layers, -1, n_steps, features.shape[2]).sum(dim=1)
    flat = (added - added.mean(dim=1, keepdim=True)).flatten(0, 1)
    gram = (flat @ flat.T).double().cpu().numpy()
    return np.asarray((gram + gram.T) / 2).reshape(n_layers, n_steps, n_layers, n_steps)


def depth_changes(features: Tensor, n_layers: int) -> np.ndarray:
    """(L, N, N) float64: [l, i, j], change from step i to j of what layers 0 to l add.

    Args:
        features: (n_sites, N, size) of one query, sites of a layer in a row.
        n_layers: L.
    """
    n_steps = features.shape[1]
    added = features.view(n_layers, -1, *features.shape[1:]).sum(dim=1).cumsum(dim=0)
    found = torch.zeros((n_layers, n_steps, n_steps), dtype=torch.float64, device=features.device)
    i, j = torch.triu_indices(n_steps, n_steps, offset=1, device=features.device)
    for layer, values in enumerate(added):
        found[layer, i, j] = torch.nn.functional.pdist(values, p=1).double()
    found = found + found.mT
    return np.asarray((found / added.abs().sum(dim=2).double()[:, :, None]).cpu().numpy())


def squared_distances(gram: np.ndarray) -> np.ndarray:
    """(N, N) |x_i - x_j|^2 from <x_i, x_j>."""
    own = np.diag(gram)
    return np.asarray(np.maximum(own[:, None] + own - 2 * gram, 0))


@dataclass
class Moments:
    """Mean and standard deviation of arrays that come one by one (Welford 1962)."""

    n: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(()))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(()))

    def add(self, values: np.ndarray) -> None:
        self.n += 1
        away = values - self.mean
        self.mean = self.mean + away / self.n
        self.squares = self.squares + away * (values - self.mean)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.n)
