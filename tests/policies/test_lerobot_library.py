"""LeRobot 0.4.4 itself beside us: it loads what we export, and we load what it saves.

docs/how-to/bring-a-checkpoint.md says how to install it; without it these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from policies import export_lerobot, load_policy
from tests.helpers.lerobot_folder import expected, write
from tests.helpers.stock_unet import OBS, TO
from tests.policies.test_lerobot import FOLDERS, observation
from tests.policies.test_lerobot_export import low_dim

pytest.importorskip("lerobot")
pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))

SEEDS = [5, 6]
ACTION_DIM, WIDTHS = 3, (32, 64)
KINDS = {"observation.state": "STATE", "observation.environment_state": "ENV"}


def lerobot_acts(folder: Path, obs: Mapping[str, Tensor]) -> Tensor:
    """(B, n_action_steps, action_dim) by LeRobot's own policy and processors, row by row."""
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    policy = DiffusionPolicy.from_pretrained(folder, strict=True).eval()
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    actions = []
    for row, seed in enumerate(SEEDS):
        seen = before({key: value[row : row + 1].clone() for key, value in obs.items()})
        if cameras := [seen[key] for key in policy.config.image_features]:
            seen["observation.images"] = torch.stack(cameras, dim=-4)
        torch.manual_seed(seed)
        with torch.no_grad():
            actions.append(after(policy.diffusion.generate_actions(seen)))
    return torch.cat(actions)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


@pytest.mark.parametrize("name", FOLDERS)
def test_it_loads_what_is_exported_again(name: str, tmp_path: Path) -> None:
    policy = load_policy(write(name, tmp_path / "theirs"))
    export_lerobot(policy, tmp_path / "ours")
    seen = {
        key: value / 255 if value.dtype == torch.uint8 else value
        for key, value in observation(expected(name)).items()
    }
    actions = policy.act(seen, generators())
    torch.testing.assert_close(lerobot_acts(tmp_path / "ours", seen), actions, atol=1e-4, rtol=0)


def test_it_loads_a_policy_of_ours(tmp_path: Path) -> None:
    policy = low_dim()
    obs = torch.randn((2, TO, OBS), generator=torch.Generator().manual_seed(3))
    seen = {"observation.state": obs[..., :2], "observation.environment_state": obs[..., 2:]}
    export_lerobot(policy, tmp_path / "ours", state_dim=2)
    torch.testing.assert_close(
        lerobot_acts(tmp_path / "ours", seen), policy.act(obs, generators()), atol=1e-4, rtol=0
    )


CAMERA_A, CAMERA_B = "observation.images.a", "observation.images.b"
MADE: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "resize and crop": (
        {"observation.state": (4,), CAMERA_A: (3, 100, 120), CAMERA_B: (3, 100, 120)},
        {"resize_shape": (72, 80), "crop_ratio": 0.85, "use_group_norm": True},
    ),
    "larger": (
        {"observation.state": (4,), "observation.image": (3, 50, 60)},
        {"resize_shape": (84, 96), "use_group_norm": False},
    ),
    "quantiles": (
        {"observation.state": (4,), "observation.environment_state": (5,)},
        {
            "normalization_mapping": {
                **{"STATE": "QUANTILES", "ENV": "QUANTILE10", "ACTION": "QUANTILES"},
            }
        },
    ),
    "ddim": (
        {"observation.state": (4,), "observation.environment_state": (5,)},
        {
            "normalization_mapping": {"STATE": "MEAN_STD", "ENV": "IDENTITY", "ACTION": "MEAN_STD"},
            **{"noise_scheduler_type": "DDIM", "num_train_timesteps": 50},
            **{"num_inference_steps": 7, "prediction_type": "sample", "clip_sample": False},
        },
    ),
    "resnet50": (
        {"observation.environment_state": (5,), CAMERA_B: (3, 64, 64), "observation.state": (3,)},
        {
            **{"vision_backbone": "resnet50", "n_obs_steps": 1, "crop_shape": (61, 60)},
            **{"use_separate_rgb_encoder_per_camera": True, "beta_schedule": "linear"},
            "normalization_mapping": {"VISUAL": "MIN_MAX", "ACTION": "QUANTILE10"},
        },
    ),
    "resnet34": (
        {CAMERA_B: (3, 64, 64), CAMERA_A: (3, 64, 64), "observation.state": (3,)},
        {
            **{"vision_backbone": "resnet34", "use_group_norm": False, "kernel_size": 3},
            **{"spatial_softmax_num_keypoints": 16, "n_action_steps": 15},
        },
    ),
}


def statistics(shapes: Mapping[str, tuple[int, ...]], g: torch.Generator) -> dict[str, Any]:
    found = {}
    for key, shape in shapes.items():
        size = (shape[0], 1, 1) if len(shape) == 3 else shape
        low = torch.rand(size, generator=g) - 1.5
        wide = torch.rand(size, generator=g) + 0.2
        at = {"min": 0, "max": 1, "mean": 0.5, "q01": 0.05, "q10": 0.2, "q90": 0.8, "q99": 0.9}
        found[key] = {name: low + share * wide for name, share in at.items()}
        found[key]["std"] = wide / 3
    return found


@pytest.mark.parametrize("name", MADE)
def test_what_it_saves_acts_the_same_here(name: str, tmp_path: Path) -> None:
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    shapes, settings = MADE[name]
    settings = {"num_train_timesteps": 20, "pretrained_backbone_weights": None, **settings}
    if "normalization_mapping" in settings:
        modes = settings["normalization_mapping"]
        settings["normalization_mapping"] = {k: NormalizationMode(m) for k, m in modes.items()}
    config = DiffusionConfig(
        input_features={
            key: PolicyFeature(FeatureType(KINDS.get(key, "VISUAL")), shape)
            for key, shape in shapes.items()
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        **{"device": "cpu", "down_dims": WIDTHS, "diffusion_step_embed_dim": 32},
        **settings,
    )
    torch.manual_seed(0)
    policy, g = DiffusionPolicy(config), torch.Generator().manual_seed(1)
    for module in policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=g)
            module.running_var.uniform_(0.8, 1.2, generator=g)
    policy.save_pretrained(tmp_path)
    for pipeline in make_pre_post_processors(
        config, dataset_stats=statistics({**shapes, "action": (ACTION_DIM,)}, g)
    ):
        pipeline.save_pretrained(tmp_path)
    n = config.n_obs_steps
    obs = {k: torch.rand((len(SEEDS), n, *shape), generator=g) for k, shape in shapes.items()}
    actions = load_policy(tmp_path).act(obs, generators())
    torch.testing.assert_close(lerobot_acts(tmp_path, obs), actions, atol=1e-5, rtol=0)
