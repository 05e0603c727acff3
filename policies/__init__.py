"""The diffusion policy: network, normaliser, sampling, reading checkpoints."""

from __future__ import annotations

import skipstep  # noqa: F401  (the other names of these modules)

from .checkpoint import find_checkpoint, load_policy, save_policy
from .config import PolicyConfig, TaskInfo
from .data.datasets import Demonstrations, check_finite, read_dataset
from .data.episode import DatasetError
from .data.windows import Windows, split_episodes
from .dit.config import DitConfig
from .dit.network import Dit
from .families import FAMILIES
from .family import Exporter, Family, Reader, Sizes, UnsupportedPolicy
from .lerobot.export import export_lerobot
from .policy import DiffusionPolicy
from .reference.export import export_reference
from .reference.live import from_reference, policy_config
from .reference.reader import CheckpointError
from .sampling.choosing import choose_sampler, sampler_warnings
from .sampling.table import SamplerConfig, SamplerTable, sampler_table
from .transformer.config import NetworkConfig
from .transformer.network import DiffusionTransformer
from .unet.config import UnetConfig
from .unet.network import Unet

__all__ = [
    "FAMILIES",
    "CheckpointError",
    "DatasetError",
    "Demonstrations",
    "DiffusionPolicy",
    "DiffusionTransformer",
    "Dit",
    "DitConfig",
    "Exporter",
    "Family",
    "NetworkConfig",
    "PolicyConfig",
    "Reader",
    "SamplerConfig",
    "SamplerTable",
    "Sizes",
    "TaskInfo",
    "Unet",
    "UnetConfig",
    "UnsupportedPolicy",
    "Windows",
    "check_finite",
    "choose_sampler",
    "export_lerobot",
    "export_reference",
    "find_checkpoint",
    "from_reference",
    "load_policy",
    "policy_config",
    "read_dataset",
    "sampler_table",
    "sampler_warnings",
    "save_policy",
    "split_episodes",
]
