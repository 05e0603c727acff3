"""UNet policies: against torch's functions, the published names, and files of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from policies import (
    CheckpointError,
    Unet,
    UnetConfig,
    UnsupportedPolicy,
    export_reference,
    from_reference,
    load_policy,
    save_policy,
)
from policies.reference.reader import read_reference
from tests.helpers.stock_unet import (
    ACT,
    OBS,
    TO,
    VARIANTS,
    cfg_of,
    live_unet,
    network,
    unet_config,
    write_ckpt,
)


def observations(n: int, seed: int = 3) -> torch.Tensor:
    return torch.randn((n, TO, OBS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_network_by_functions(variant: str) -> None:
    live = live_unet(variant)
    policy, obs = from_reference(live), observations(3)
    expected = live.trajectory(obs, torch.Generator().manual_seed(7))
    ours = policy.sample(obs, torch.Generator().manual_seed(7))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)
    first = 0 if live.pred_action_steps_only else TO - 1 if live.oa_step_convention else TO
    pred = live.normalizer.unnormalize("action", expected[..., :ACT])
    actions = policy.act(obs, torch.Generator().manual_seed(7))
    torch.testing.assert_close(actions, pred[:, first : first + 4], atol=2e-4, rtol=0)
    torch.manual_seed(7)
    result = policy.predict_action({"obs": obs})
    assert torch.equal(result["action"], actions)
    assert ("obs_pred" in result) == (policy.sizes.obs_as == "in-painting")


def test_a_ddim_sampler() -> None:
    live = live_unet(sampler="ddim", steps=4)
    expected = live.trajectory(observations(2), torch.Generator().manual_seed(1))
    ours = from_reference(live).sample(observations(2), torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_levels_by_hand() -> None:
    """With norms that put out nothing, blocks are their shortcuts and the levels are linear."""
    net = Unet(UnetConfig(1, 4, 1, "in-painting", 0, [8, 8], 4, kernel_size=1))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.zero_()
            if name.endswith("residual_conv.weight"):  # 1 -> 8 channels, and the 16 of the join
                parameter[0, 0] = 1
                if parameter.shape[1] == 16:
                    parameter[0, 8] = 10
        net.down_modules[0][2].conv.weight[0, 0] = torch.tensor([1.0, 2, 3])  # type: ignore[index]
        net.up_modules[0][2].conv.weight[0, 0] = torch.tensor([1.0, 2, 3, 4])  # type: ignore[index]
        entered = []
        net.final_conv.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        net(torch.tensor([[[1.0], [2], [3], [4]]]), torch.tensor([3]))
    # down, stride 2 with one zero on each side: 1*0 + 2*1 + 3*2 = 8, 1*2 + 2*3 + 3*4 = 20;
    # joined with itself: 11 times that; up: each step to four, the outermost cut off
    a, b = 88.0, 220.0
    expected = [2 * a, 3 * a + 1 * b, 4 * a + 2 * b, 3 * b]
    assert entered[0][0, 0].tolist() == expected
    assert entered[0][0, 1:].abs().max() == 0


def test_what_the_published_network_does_not_use() -> None:
    """The second local encoder, and the features of level 0 on the way up."""
    live = live_unet("local")
    obs, policy = observations(2), from_reference(live)
    plain = policy.act(obs, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in policy.model.local_cond_encoder[1].parameters():
            parameter.fill_(7.0)
    assert torch.equal(policy.act(obs, torch.Generator().manual_seed(1)), plain)
    assert len(policy.model.up_modules) == len(policy.model.down_modules) - 1


def test_row_generators_do_not_depend_on_the_neighbours() -> None:
    policy, obs = from_reference(live_unet("global, scaled")), observations(4)

    def act(rows: list[int]) -> torch.Tensor:
        return policy.act(obs[rows], [torch.Generator().manual_seed(row) for row in rows])

    together = act([0, 1, 2, 3])
    assert torch.equal(act([3, 1, 0, 2]), together[[3, 1, 0, 2]])
    torch.testing.assert_close(act([2]), together[[2]], atol=1e-4, rtol=0)


def block_shapes(name: str, n_in: int, n_out: int, seen: int) -> dict[str, tuple[int, ...]]:
    """Of one published block: kernels of 5, scale and shift."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, n in enumerate((n_in, n_out)):
        shapes[f"{name}.blocks.{i}.block.0.weight"] = (n_out, n, 5)
        for part in ("block.0.bias", "block.1.weight", "block.1.bias"):
            shapes[f"{name}.blocks.{i}.{part}"] = (n_out,)
    shapes[f"{name}.cond_encoder.1.weight"] = (2 * n_out, seen)
    shapes[f"{name}.cond_encoder.1.bias"] = (2 * n_out,)
    if n_in != n_out:
        shapes[f"{name}.residual_conv.weight"] = (n_out, n_in, 1)
        shapes[f"{name}.residual_conv.bias"] = (n_out,)
    return shapes


BLOCKS = {
    "down_modules.0.0": (7, 256),
    "down_modules.0.1": (256, 256),
    "down_modules.1.0": (256, 512),
    "down_modules.1.1": (512, 512),
    "down_modules.2.0": (512, 1024),
    "down_modules.2.1": (1024, 1024),
    "mid_modules.0": (1024, 1024),
    "mid_modules.1": (1024, 1024),
    "up_modules.0.0": (2048, 512),
    "up_modules.0.1": (512, 512),
    "up_modules.1.0": (1024, 256),
    "up_modules.1.1": (256, 256),
}
OTHERS: dict[str, tuple[int, ...]] = {
    "diffusion_step_encoder.1.weight": (1024, 256),
    "diffusion_step_encoder.1.bias": (1024,),
    "diffusion_step_encoder.3.weight": (256, 1024),
    "diffusion_step_encoder.3.bias": (256,),
    "down_modules.0.2.conv.weight": (256, 256, 3),
    "down_modules.0.2.conv.bias": (256,),
    "down_modules.1.2.conv.weight": (512, 512, 3),
    "down_modules.1.2.conv.bias": (512,),
    "up_modules.0.2.conv.weight": (512, 512, 4),
    "up_modules.0.2.conv.bias": (512,),
    "up_modules.1.2.conv.weight": (256, 256, 4),
    "up_modules.1.2.conv.bias": (256,),
    "final_conv.0.block.0.weight": (256, 256, 5),
    "final_conv.0.block.0.bias": (256,),
    "final_conv.0.block.1.weight": (256,),
    "final_conv.0.block.1.bias": (256,),
    "final_conv.1.weight": (7, 256, 1),
    "final_conv.1.bias": (7,),
}


@pytest.mark.parametrize("obs_as", ["global", "local"])
def test_names_and_shapes_of_the_published_network_on_lift(obs_as: str) -> None:
    seen = 256 + (2 * 19 if obs_as == "global" else 0)
    blocks = BLOCKS | (
        {f"local_cond_encoder.{i}": (19, 256) for i in (0, 1)} if obs_as == "local" else {}
    )
    expected = {**OTHERS}
    for name, (n_in, n_out) in blocks.items():
        expected |= block_shapes(name, n_in, n_out, seen)
    with torch.device("meta"):
        net = Unet(
            UnetConfig(7, 16, 2, obs_as, 19, kernel_size=5, cond_predict_scale=True),
        )
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == expected


@pytest.mark.parametrize("variant", ["global, scaled", "local, scaled, next action", "in-painting"])
def test_a_reference_checkpoint_and_back(variant: str, tmp_path: Path) -> None:
    live = live_unet(variant)
    policy = load_policy(write_ckpt(tmp_path / "a.ckpt", live))
    assert policy.config.network == live.model.config
    plain = policy.act(observations(2), torch.Generator().manual_seed(1))
    expected = from_reference(live).act(observations(2), torch.Generator().manual_seed(1))
    assert torch.equal(plain, expected)
    export_reference(policy, tmp_path / "b.ckpt")
    theirs, ours = (read_reference(tmp_path / name) for name in ("a.ckpt", "b.ckpt"))
    for name in ("model", "ema_model"):
        assert ours.state_dicts[name].keys() == theirs.state_dicts[name].keys()
    for section in ("model", "_target_", "n_action_steps", "oa_step_convention"):
        assert ours.cfg["policy"][section] == theirs.cfg["policy"][section]
    assert ours.cfg["_target_"].endswith("TrainDiffusionUnetLowdimWorkspace")
    assert load_policy(tmp_path / "b.ckpt").fingerprint() == policy.fingerprint()
    save_policy(policy, tmp_path / "c", torch.float32)
    again = load_policy(tmp_path / "c")
    assert again.config == policy.config
    assert again.fingerprint() == policy.fingerprint()


def test_a_reference_network_from_its_weights_alone() -> None:
    """The forward pass that other tests go by, against ours, at a length of its own."""
    net = Unet(unet_config(horizon=8, down_dims=[16, 24, 32])).eval()
    x, t = torch.randn(2, 12, ACT), torch.tensor([3, 17])
    cond = torch.randn(2, TO, OBS)
    with torch.no_grad():
        expected, deep = network(net.state_dict(), x, t, everywhere=cond.flatten(1))
        torch.testing.assert_close(net(x, t, cond), expected, atol=1e-5, rtol=0)
    assert [deep[level].shape for level in (1, 2)] == [(2, 24, 6), (2, 32, 3)]


MODEL_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "even kernel": ({"kernel_size": 4}, "network.kernel_size must be odd"),
    "one level": ({"down_dims": [16]}, "network.down_dims must name two levels or more"),
    "no multiple": ({"n_groups": 7}, "multiples of n_groups = 7"),
    "first level": (
        {"down_dims": [12, 16], "n_groups": 4},
        "the first one also of 8, got [12, 16]",
    ),
    "embedding": ({"diffusion_step_embed_dim": 7}, "diffusion_step_embed_dim must be even"),
    "unknown": ({"attention": True}, "settings this project does not know: ['attention']"),
    "scale": ({"cond_predict_scale": "yes"}, "cond_predict_scale must be true or false, got 'yes'"),
    "condition": ({"global_cond_dim": 11}, "policy.model.global_cond_dim must be 10, got 11"),
    "local": ({"local_cond_dim": 5}, "policy.model.local_cond_dim must be None, got 5"),
    "width": ({"input_dim": 4}, "network.input_dim and output_dim must be 3"),
}
POLICY_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "length": ({"horizon": 10}, "horizon must be a multiple of 4 for a UNet of widths 16, 24, 32"),
    "actions": ({"n_action_steps": 8}, "n_action_steps must be from 1 to 7"),
    "short": (
        {"pred_action_steps_only": True, "n_action_steps": 6},
        "n_action_steps must be a multiple of 4",
    ),
    "both": ({"obs_as_local_cond": True}, "exclude each other"),
    "convention": ({"oa_step_convention": 1}, "policy.oa_step_convention must be true or false"),
    "image": (
        {"_target_": "diffusion_policy.policy.x.DiffusionUnetHybridImagePolicy"},
        "DiffusionUnetHybridImagePolicy is not supported",
    ),
    "sampler": ({"guidance": 2.0}, "policy.guidance=2.0 is not a setting this project knows"),
}


@pytest.mark.parametrize("mistake", [*MODEL_MISTAKES, *POLICY_MISTAKES])
def test_what_is_refused_is_one_line(mistake: str, tmp_path: Path) -> None:
    live = live_unet()
    cfg = cfg_of(live)
    if mistake in MODEL_MISTAKES:
        change, words = MODEL_MISTAKES[mistake]
        cfg["policy"]["model"] |= change
    else:
        change, words = POLICY_MISTAKES[mistake]
        cfg["policy"] |= change
    with pytest.raises((CheckpointError, UnsupportedPolicy)) as error:
        load_policy(write_ckpt(tmp_path / "a.ckpt", live, cfg))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    cfg = cfg_of(live_unet("global, scaled"))
    with pytest.raises(CheckpointError, match=r"down_modules\.0\.0\.blocks\.0\.block\.0\.weight"):
        load_policy(write_ckpt(tmp_path / "a.ckpt", live_unet(), cfg))


def test_a_live_image_policy_is_refused_by_name() -> None:
    live = live_unet()
    del live.obs_dim
    with pytest.raises(UnsupportedPolicy, match="DiffusionUnetLowdimPolicy is not supported"):
        from_reference(live)
