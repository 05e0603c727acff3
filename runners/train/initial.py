"""The policy that a training goes on from: its weights must mean the same in the new one."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from policies import DiffusionPolicy, PolicyConfig, load_policy

from ..jobs.checkpoint import locate
from ..jobs.settings import UserError

FREE = ("p_drop_emb", "p_drop_attn")  # of the network: they change the training, not a weight
OF_THE_PROCESS = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sigma_min",
)


def initial_policy(path: str, config: PolicyConfig) -> DiffusionPolicy:
    """Read the policy that `runner.init` names.

    Args:
        path: a folder of ours, a .ckpt, or a folder of those (then the best of it).
        config: of the policy that is to be trained.

    Raises:
        UserError: it is not there; or the network, the diffusion process or the actions differ, by
            name.
        CheckpointError, UnsupportedPolicy: as `load_policy`.
    """
    try:
        policy = load_policy(locate(path))
    except FileNotFoundError as error:
        raise UserError(f"runner.init: {error}") from error
    if policy.sizes.family != config.network.family:
        raise UserError(
            f"runner.init={path} is a {policy.sizes}, this training a {config.network.family}: see "
            "runner.family"
        )
    encoded = policy.config.encoder or config.encoder
    if encoded and (differences := policy.obs_spec.missing_from(config.obs_spec)):
        raise UserError(f"runner.init={path} sees something else: {'; '.join(differences)}")
    there, wanted = _meaning(policy.config), _meaning(config)
    for name, value in wanted.items():
        if there[name] != value:
            raise UserError(
                f"runner.init={path} has {name}={there[name]}, this training has {value}: "
                "both must be the same"
            )
    said = policy.config.task.abs_action
    if said is not None and config.task.abs_action not in (None, said):
        raise UserError(
            f"task.abs_action={config.task.abs_action} contradicts runner.init={path}, "
            f"which says {said}"
        )
    return policy


def in_the_words_of(policy: DiffusionPolicy, config: PolicyConfig) -> PolicyConfig:
    """The config of a training that goes on from a policy: with its normaliser and its order."""
    changes: dict[str, Any] = {
        "normalization": policy.config.normalization,
        "aliases": policy.config.aliases,
    }
    if config.encoder is not None and policy.config.encoder is not None:
        order = {name: config.encoder.arrays[name] for name in policy.config.encoder.arrays}
        changes["encoder"] = replace(config.encoder, arrays=order)
    return replace(config, **changes)


def _meaning(config: PolicyConfig) -> dict[str, object]:
    """What must be equal for the weights to mean the same; the numbers of the task come first."""
    network, process = asdict(config.network), asdict(config.sampler)
    encoder = {} if config.encoder is None else config.encoder.settings()
    values: dict[str, object] = {f"encoder.{k}": v for k, v in encoder.items()}
    values |= {"obs_dim": config.obs_dim, "action_dim": config.action_dim}
    values |= {k: v for k, v in network.items() if k not in FREE}
    values |= {k: process[k] for k in OF_THE_PROCESS}
    values["pred_action_steps_only"] = config.pred_action_steps_only
    if config.pred_action_steps_only:  # then it is the length of the trajectory
        values["n_action_steps"] = config.n_action_steps
    return values
