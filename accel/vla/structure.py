"""Where the parts of a live vision-language-action policy are, found by what they are called."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

VERBS = ("sample_actions", "denoise_step", "embed_prefix")
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
STEPS = ("num_steps", "num_inference_steps")
CHUNK = ("chunk_size", "action_horizon")
WIDTH = ("max_action_dim", "action_dim")


class Joint(NamedTuple):
    """How a library calls what holds backbone and expert.

    Attributes:
        name: of the module in the core.
        expert: path in it of the module with the expert's layers.
        backbone: path in it of the vision-language model.
    """

    name: str
    expert: str
    backbone: str


JOINTS = (
    Joint("vlm_with_expert", "lm_expert", "vlm"),  # SmolVLA
    Joint("paligemma_with_expert", "gemma_expert.model", "paligemma"),  # pi0, pi0.5, openpi
)


@dataclass(frozen=True)
class Layer:
    """One layer of the expert.

    Attributes:
        path: in the policy.
        module: with `self_attn` (which has q_proj, k_proj, v_proj, o_proj) and `mlp`.
    """

    path: str
    module: Any


@dataclass(frozen=True)
class Vla:
    """A live policy and its parts.

    Attributes:
        policy: as the user has it.
        core: what has sample_actions, denoise_step and embed_prefix; the policy itself, or in it.
        path: of the core in the policy, "" or with a dot at its end.
        joint: the module that holds both transformers.
        names: what that and its parts are called.
        layers: of the expert.
        n_steps: Euler steps of a query.
    """

    policy: Any
    core: Any
    path: str
    joint: Any
    names: Joint
    layers: tuple[Layer, ...]
    n_steps: int

    @property
    def expert_path(self) -> str:
        return f"{self.path}{self.names.name}.{self.names.expert}"

    @property
    def backbone_path(self) -> str:
        return f"{self.path}{self.names.name}.{self.names.backbone}"

    def setting(self, names: Sequence[str]) -> int | None:
        """The first of some names that the core's config has as a number."""
        config = getattr(self.core, "config", None)
        found = (getattr(config, name, None) for name in names)
        return next((value for value in found if type(value) is int), None)


def find_vla(policy: Any, n_steps: int | None = None) -> Vla:
    """The parts of a policy.

    Args:
        policy: of LeRobot (SmolVLA, pi0, pi0.5), or openpi's PI0Pytorch, or built like these.
        n_steps: of a query; None: as its config says.

    Raises:
        TypeError: it is not built like these; the message says what is missing.
        ValueError: n_steps is not known, or below 1.
    """
    core, path = _core(policy)
    names = next((joint for joint in JOINTS if hasattr(core, joint.name)), None)
    if names is None:
        wanted = " or ".join(joint.name for joint in JOINTS)
        raise TypeError(f"policy: {type(core).__name__} has no {wanted}, so no expert is found")
    joint = getattr(core, names.name)
    expert: Any = joint
    for part in names.expert.split("."):
        expert = getattr(expert, part, None)
    layers = getattr(expert, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise TypeError(f"policy: {path}{names.name}.{names.expert}.layers must hold layers")
    prefix = f"{path}{names.name}.{names.expert}.layers"
    found = tuple(Layer(f"{prefix}.{i}", layer) for i, layer in enumerate(layers))
    if len({id(layer.module) for layer in found}) < len(found):
        raise TypeError(f"policy: {prefix} holds a layer twice, which has no place of its own")
    for layer in found:
        _check_layer(layer)
    vla = Vla(policy, core, path, joint, names, found, 0)
    steps = _steps(vla) if n_steps is None else n_steps
    if steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {steps}")
    return Vla(policy, core, path, joint, names, found, steps)


def _core(policy: Any) -> tuple[Any, str]:
    for core, path in ((policy, ""), (getattr(policy, "model", None), "model.")):
        if core is not None and all(callable(getattr(core, verb, None)) for verb in VERBS):
            return core, path
    raise TypeError(
        f"policy must be a live SmolVLA, pi0 or pi0.5 of LeRobot, openpi's PI0Pytorch, or built "
        f"like one: {type(policy).__name__} has no {', '.join(VERBS)}, nor has its `model`"
    )


def _check_layer(layer: Layer) -> None:
    attention = getattr(layer.module, "self_attn", None)
    has = {f"self_attn.{part}": getattr(attention, part, None) for part in PARTS}
    has |= {name: getattr(layer.module, name, None) for name in ("mlp", "input_layernorm")}
    for name, module in has.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"policy: {layer.path} has no {name}, which an expert's layers have")


def _steps(vla: Vla) -> int:
    said = vla.setting(STEPS)
    if said is None:
        parameter = inspect.signature(vla.core.sample_actions).parameters.get(STEPS[0])
        said = None if parameter is None else parameter.default
    if type(said) is not int:
        raise ValueError(
            f"n_steps is not known: {type(vla.core).__name__}.config has no {' or '.join(STEPS)}; "
            "give n_steps, the Euler steps of a query"
        )
    return said
