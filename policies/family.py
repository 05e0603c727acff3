"""A policy family: the sizes of its network, the network, and whose checkpoints hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn


class UnsupportedPolicy(ValueError):
    """The checkpoint holds a policy that this project does not run."""


class Sizes:
    """What a policy asks of its network's sizes; a family's config is a dataclass on top of this.

    The network is called as `network(sample, timestep, cond, branch)`: (B, T, input_dim), (B,),
    (B, n_obs_steps, cond_dim) or None, a hook at its sites or None -> (B, T, output_dim).

    Attributes:
        family: name in `FAMILIES`.
        input_dim, output_dim: numbers of one step of the trajectory, as it comes and as it goes.
        horizon: steps of the trajectory.
        cond_dim: numbers of one observation where those are a condition, else 0.
    """

    family: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    input_dim: int
    horizon: int
    n_obs_steps: int
    cond_dim: int

    if TYPE_CHECKING:  # a field or a property

        @property
        def output_dim(self) -> int:
            raise NotImplementedError

    @property
    def obs_as_cond(self) -> bool:
        """Whether observations are a condition; else they are a part of the trajectory."""
        return self.cond_dim > 0

    @property
    def any_length(self) -> bool:
        """Whether the trajectory may be the executed actions alone."""
        return False

    @property
    def first_action(self) -> int:
        """Index in the trajectory of the first executed action, that of the newest observation."""
        return self.n_obs_steps - 1

    @property
    def length_multiple(self) -> int:
        """What the length of the trajectory must be a multiple of."""
        return 1

    @property
    def encoder_only(self) -> bool:
        """Whether time is a token of the trajectory."""
        return False

    @property
    def causal_attn(self) -> bool:
        """Whether a step of the trajectory sees only those before it."""
        return False

    @property
    def least_weights(self) -> int:
        """How many numbers the weights have at least: a file with fewer has other sizes."""
        return 0

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name} must be at least 1, got {getattr(self, name)}")


MOST_SIZES = {  # of networks; far more than any has
    **dict.fromkeys(("input_dim", "output_dim", "cond_dim", "n_emb"), 2**20),
    **dict.fromkeys(("horizon", "n_obs_steps"), 2**14),
    **dict.fromkeys(("n_layer", "n_head", "n_cond_layers"), 2**10),
    **dict.fromkeys(("n_groups", "diffusion_step_embed_dim", "timestep_embed_dim"), 2**16),
    **dict.fromkeys(("kernel_size", "down_dims"), 2**6),
    **dict.fromkeys(("p_drop_emb", "p_drop_attn"), 1),
}


def own_key(key: str) -> str:
    """The reference's names are ours; every module of it has an empty parameter besides."""
    return "" if key.endswith("_dummy_variable") else key


@dataclass(frozen=True)
class Reader:
    """How a class of policies of another library is read.

    Attributes:
        name: of the class.
        sizes: (cfg.policy, cfg.policy.model) -> the network's sizes; what it used leaves the dicts.
        mark: an attribute that tells a live network of this class.
        live: a live policy -> the network's sizes; None: it is read from files only.
        key: a name in the state dict -> ours; "": it is left out.
        observes: what encodes its images, a name in `reference.observers.OBSERVERS`; "": nothing.
            Then the settings that `sizes` gets have obs_dim and action_dim, and the network's too.
    """

    name: str
    sizes: Callable[[dict[str, Any], dict[str, Any]], Sizes]
    mark: str = ""
    live: Callable[[Any], Sizes] | None = None
    key: Callable[[str], str] = own_key
    observes: str = ""


@dataclass(frozen=True)
class Exporter:
    """What files of the reference implementation have for this family alone.

    Attributes:
        kind: in the names of its modules and classes.
        target: of the network.
        sizes: network config -> flags that cfg and cfg.policy share, cfg.policy's own, the model's.
        optimizer: its defaults.
        dummies: empty parameters.
    """

    kind: str
    target: str
    sizes: Callable[[Any], tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
    optimizer: dict[str, Any]
    dummies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How networks of a family are trained unless told otherwise, with AdamW.

    Attributes:
        initial_weights: draws those that a training begins with.
        lr: the highest learning rate.
        weight_decay: of the parameters that decay.
        betas: of AdamW.
        decays: whether a parameter does.
    """

    initial_weights: Callable[[nn.Module, torch.Generator], None]
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    decays: Callable[[nn.Parameter], bool]


@dataclass(frozen=True)
class Family:
    """A kind of policy; what accel knows of it has the same name in `accel.FAMILIES`.

    Attributes:
        sizes: the config of its network, see `Sizes`.
        network: sizes -> the network.
        masks: its buffers that may hold infinite values.
        mark: a setting that tells its policy.yaml, from before those named the family; "": they do.
        readers: of other libraries' checkpoints.
        exporter: None: no other library has it.
        recipe: None: `runner=train` makes none of this family.
    """

    sizes: type[Sizes]
    network: Callable[[Any], nn.Module]
    masks: tuple[str, ...] = ()
    mark: str = ""
    readers: tuple[Reader, ...] = ()
    exporter: Exporter | None = None
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        return self.sizes.family


def flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UnsupportedPolicy(f"{where} must be true or false, got {value!r}")
    return value


def known(model: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse settings of a network that are none of these."""
    if unknown := set(model) - set(names):
        raise UnsupportedPolicy(
            f"policy.model has settings this project does not know: {sorted(unknown)}"
        )


def not_painted_in(value: object, where: str) -> None:
    """Refuse image policies whose observations are a part of the trajectory."""
    if not flag(value, where):
        raise UnsupportedPolicy(
            f"{where}=false is not supported: encoded images are a condition here, and are not "
            "painted into the trajectory"
        )
