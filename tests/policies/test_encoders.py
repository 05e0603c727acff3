"""Encoders against functions of torch on their weights, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from policies.encoders.config import BACKBONES, EncoderConfig
from policies.encoders.encoder import ImageEncoder, ObservationEncoder, center, center_crop
from policies.encoders.flops import encoder_flops, trunk_flops
from policies.encoders.pooling import AveragePool, SpatialSoftmax
from policies.encoders.resnet import trunk
from tests.helpers.seeing import ARRAYS, drawn, encoder_config, resnet


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_trunk_equals_the_network_by_functions(backbone: str, norm: str) -> None:
    net, x = drawn(trunk(backbone, 3, norm)).eval(), images(2, 3, 41, 70)
    with torch.no_grad():
        out, expected = net(x), resnet(net.state_dict(), x)
    assert out.shape == (2, 2048 if backbone == "resnet50" else 512, 2, 3)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def test_keys_are_those_that_lerobot_and_robomimic_share() -> None:
    basic, bottleneck = (
        {name: tuple(value.shape) for name, value in trunk(name, 3, "batch").state_dict().items()}
        for name in ("resnet18", "resnet50")
    )
    assert basic["0.weight"] == (64, 3, 7, 7)
    assert basic["1.running_var"] == basic["4.1.bn2.running_mean"] == (64,)
    assert basic["5.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert basic["7.1.conv2.weight"] == (512, 512, 3, 3)
    assert not [name for name in basic if name.startswith(("4.0.downsample", "5.1.downsample"))]
    assert bottleneck["4.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert bottleneck["7.0.conv1.weight"] == (512, 1024, 1, 1)
    assert bottleneck["7.0.conv2.weight"] == (512, 512, 3, 3)
    assert bottleneck["7.2.bn3.weight"] == (2048,)
    # as torchvision counts them, without the classifier
    for backbone, n in (("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23508032)):
        assert sum(p.numel() for p in trunk(backbone, 3, "batch").parameters()) == n


def test_norms_are_not_taken_for_one_another() -> None:
    batch, group = trunk("resnet18", 3, "batch"), trunk("resnet18", 3, "group")
    assert set(group.state_dict()) < set(batch.state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"1\.running_mean"'):
        group.load_state_dict(batch.state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key.*"1\.running_mean", "1\.running_var"'):
        batch.load_state_dict(dict(group.state_dict()))  # as a file has it, of no version


def test_a_spatial_softmax_gives_the_coordinates_of_a_peak() -> None:
    pool = SpatialSoftmax((2, 3, 5), 2)
    with torch.no_grad():
        pool.nets.weight.copy_(torch.eye(2)[:, :, None, None] * 100)
        pool.nets.bias.zero_()
    maps = torch.zeros(2, 2, 3, 5)
    maps[0, 0, 0, 4] = maps[0, 1, 2, 0] = maps[1, 0, 1, 1] = 1  # upper right, lower left, beside
    with torch.no_grad():
        found = pool(maps)
    assert found[0].tolist() == [1, -1, -1, 1]  # x and y of one keypoint, then of the other
    assert found[1].tolist() == pytest.approx([-0.5, 0, 0, 0], abs=1e-6)  # the last one is flat
    assert pool.pos_grid[:6].tolist() == [
        [-1, -1],
        [-0.5, -1],
        [0, -1],
        [0.5, -1],
        [1, -1],
        [-1, 0],
    ]


def test_a_temperature_is_a_factor_of_weights() -> None:
    pool, maps = drawn(SpatialSoftmax((3, 2, 2), 4)), images(1, 3, 2, 2)
    with torch.no_grad():
        logits = pool.nets(maps).flatten(2) / 0.5
        expected = (logits.softmax(-1) @ pool.pos_grid).flatten(1)
        pool.nets.weight /= 0.5
        pool.nets.bias /= 0.5
        torch.testing.assert_close(pool(maps), expected)


def test_an_average_is_of_each_channel() -> None:
    assert AveragePool()(torch.arange(12.0).reshape(1, 2, 2, 3)).tolist() == [[2.5, 8.5]]


@pytest.mark.parametrize(
    ("size", "cropped", "begins"),
    [(96, 84, 6), (5, 5, 0), (5, 4, 0), (7, 4, 2), (9, 4, 2), (11, 4, 4), (240, 216, 12)],
)
def test_a_crop_begins_where_torchvision_has_it(size: int, cropped: int, begins: int) -> None:
    assert center(size, cropped) == begins  # halves: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, 3.5 -> 4


def test_crops() -> None:
    grid = torch.arange(7.0)[:, None] * 100 + torch.arange(9.0)
    cut = center_crop(grid.expand(2, 3, 7, 9), [4, 4])
    assert cut[0, 0, 0].tolist() == [202, 203, 204, 205]
    assert cut[1, 2, :, 0].tolist() == [202, 302, 402, 502]
    net = ImageEncoder(encoder_config(crop=[4, 4]), "image.top")
    net.train()
    seen = net.prepared(grid.expand(64, 3, 7, 9))
    corners = {(int(i[0, 0, 0]) // 100, int(i[0, 0, 0]) % 100) for i in seen}
    assert seen.shape == (64, 3, 4, 4)
    assert {top for top, _ in corners} == set(range(4))
    assert {left for _, left in corners} == set(range(6))
    assert all((i - i[0, 0, 0])[2, 3, 3] == 303 for i in seen)
    net.eval()
    assert torch.equal(net.prepared(grid.expand(2, 3, 7, 9)), cut)


def test_resizing_before_the_crop() -> None:
    row = torch.tensor([0.0, 0, 0, 8, 0, 0, 0, 0]).expand(1, 3, 8, 8)
    wide = encoder_config(resize=[4, 4], crop=[2, 2])
    # a triangle over four pixels when halved: 1, 3, 3, 1 eighths; without it the two in the middle
    assert ImageEncoder(wide, "image.top").eval().prepared(row)[0, 0, 0].tolist() == [3, 1]
    plain = encoder_config(resize=[4, 4], antialias=False, crop=None)
    assert ImageEncoder(plain, "image.top").prepared(row)[0, 0, 0].tolist() == [0, 4, 0, 0]
    same = ImageEncoder(encoder_config(resize=[8, 8], crop=None), "image.top").prepared(row)
    assert same is row


@pytest.mark.parametrize("shared", [False, True])
def test_features_are_joined_in_the_order_of_the_arrays(shared: bool) -> None:
    config = encoder_config(shared=shared, relu=True)
    encoder = drawn(ObservationEncoder(config)).eval()
    assert isinstance(encoder, ObservationEncoder)
    assert len(encoder.nets) == config.n_nets == (1 if shared else 2)
    arrays = {name: images(3, 2, *shape) for name, shape in ARRAYS.items()}
    with torch.no_grad():
        out = encoder(dict(reversed(arrays.items())))  # the order of a dict is not what counts
        top = encoder.nets[0](arrays["image.top"].flatten(0, 1)).reshape(3, 2, 6)
        wrist = encoder.nets[0 if shared else 1](arrays["image.wrist"].flatten(0, 1))
    assert out.shape == (3, 2, config.out_dim) == (3, 2, 16)
    assert torch.equal(out, torch.cat([top, arrays["state"], wrist.reshape(3, 2, 6)], dim=-1))
    assert float(top.min()) == 0  # relu
    assert not torch.equal(top, wrist.reshape(3, 2, 6))


def test_a_camera_through_all_parts_by_hand() -> None:
    config = encoder_config(norm="group", relu=True)
    net, x = drawn(ImageEncoder(config, "image.top")).eval(), images(2, 3, 48, 44)
    w = net.state_dict()
    inside = x[:, :, 4:44, 4:41]  # 40 x 37 of 48 x 44: from 4, and from 3.5, which is rounded to 4
    backbone = {name[9:]: value for name, value in w.items() if name.startswith("backbone.")}
    maps = resnet(backbone, inside)
    logits = torch.einsum("kc,bchw->bkhw", w["pool.nets.weight"][:, :, 0, 0], maps)
    logits = logits + w["pool.nets.bias"][:, None, None]
    keypoints = (logits.flatten(2).softmax(-1) @ w["pool.pos_grid"]).flatten(1)
    expected = (keypoints @ w["out.weight"].T + w["out.bias"]).clamp(min=0)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, atol=1e-4, rtol=1e-4)


def test_without_a_linear_layer_and_without_images() -> None:
    average = encoder_config(pool="average", feature_dim=None, crop=None)
    assert average.out_dim == 512 + 4 + 512
    shared = EncoderConfig({"image.a": [1, 33, 65]}, "resnet50", pool="average", shared=True)
    assert (shared.out_dim, shared.map_shape("image.a")) == (2048, (2048, 2, 3))
    numbers = EncoderConfig({"state": [2], "environment_state": [3]})
    assert (numbers.out_dim, numbers.n_nets, encoder_flops(numbers)) == (5, 0, 0)
    out = ObservationEncoder(numbers)({k: images(1, 2, *s) for k, s in numbers.arrays.items()})
    assert out.shape == (1, 2, 5)


def counted(module: torch.nn.Module, *args: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.to("meta").eval()(*args)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("size", [(96, 96), (84, 85), (37, 33)])
def test_flops_of_a_trunk_are_what_torch_counts(backbone: str, size: tuple[int, int]) -> None:
    found = counted(trunk(backbone, 3, "group"), torch.empty(1, 3, *size, device="meta"))
    assert trunk_flops(backbone, 3, *size) == found


def test_flops_of_a_trunk_are_what_torchvision_publishes() -> None:
    classifier = {"resnet18": 512_000, "resnet34": 512_000, "resnet50": 2_048_000}
    found = [(trunk_flops(b, 3, 224, 224) / 2 + n) / 1e9 for b, n in classifier.items()]
    assert [round(n, 3) for n in found] == [1.814, 3.664, 4.089]


@pytest.mark.parametrize("pool", ["spatial_softmax", "average"])
@pytest.mark.parametrize("feature_dim", [None, 24])
def test_flops_of_an_encoder_are_what_torch_counts(pool: str, feature_dim: int | None) -> None:
    config = encoder_config(pool=pool, feature_dim=feature_dim)
    arrays = {name: torch.empty(1, 1, *shape, device="meta") for name, shape in ARRAYS.items()}
    assert encoder_flops(config) == counted(ObservationEncoder(config), arrays)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"arrays": {}}, "encoder.arrays must name arrays"),
    ({"arrays": [["state", [2]]]}, "encoder.arrays must name arrays"),
    ({"arrays": {"image.": [3, 9, 9]}}, "'image.', which is not a name of an array"),
    ({"arrays": {"action": [3]}}, "'action', which is not a name of an array"),
    ({"arrays": {"obs": [3]}}, "'obs', which is not a name of an array"),
    ({"arrays": {3: [3]}}, "3, which is not a name of an array"),
    ({"arrays": {"state": [3, 9, 9]}}, r"encoder.arrays.state must be \[D\], .*, got \[3, 9, 9\]"),
    ({"arrays": {"state": 3}}, r"encoder.arrays.state must be \[D\], .*, got 3"),
    ({"arrays": {"state": [0]}}, r"encoder.arrays.state must be \[D\], .*, got \[0\]"),
    ({"arrays": {"state": [True]}}, r"encoder.arrays.state must be \[D\], .*, got \[True\]"),
    ({"arrays": {"state": ["3"]}}, r"encoder.arrays.state must be \[D\], .*, got \['3'\]"),
    ({"arrays": {"image.a": [9, 9]}}, r"encoder.arrays.image.a must be \[C, H, W\]"),
    ({"arrays": {"image.a": [3, 9, 9.0]}}, r"encoder.arrays.image.a must be \[C, H, W\]"),
    ({"arrays": {"image.a": [3, 8193, 9]}}, "must be .C, H, W., each up to 8192, got"),
    ({"arrays": {f"image.{i}": [3, 9, 9] for i in range(65)}}, "at most 64 images, got 65"),
    ({"n_keypoints": 10**9}, "encoder.n_keypoints must be from 1 to 4096, got 1000000000"),
    ({"backbone": "resnet101"}, "backbone must be one of resnet18, resnet34, resnet50, got 'res"),
    ({"norm": "layer"}, "norm must be one of batch, group, got 'layer'"),
    ({"pool": "max"}, "pool must be one of spatial_softmax, average, got 'max'"),
    ({"resize": 84}, r"encoder.resize must be \[height, width\], .* or null, got 84"),
    ({"resize": "84"}, r"encoder.resize must be \[height, width\], .* or null, got '84'"),
    ({"crop": [84]}, r"encoder.crop must be \[height, width\], .* or null, got \[84\]"),
    ({"crop": [-1, 4]}, r"encoder.crop must be \[height, width\], .* or null, got \[-1, 4\]"),
    ({"crop": [43, 20]}, "encoder.crop must fit into image.wrist, which is 42 x 40, got 43 x 20"),
    ({"crop": [20, 45]}, "encoder.crop must fit into image.top, which is 48 x 44, got 20 x 45"),
    ({"resize": [20, 20]}, "encoder.crop must fit into image.top, which is 20 x 20, got 40 x 37"),
    ({"n_keypoints": 0}, "encoder.n_keypoints must be from 1 to 4096, got 0"),
    ({"n_keypoints": None}, "encoder.n_keypoints must be from 1 to 4096, got None"),
    ({"feature_dim": 0}, "encoder.feature_dim must be from 1 to 16384 or null, got 0"),
    ({"feature_dim": 2.0}, "encoder.feature_dim must be from 1 to 16384 or null, got 2.0"),
    ({"feature_dim": None, "relu": True}, "encoder.relu=true needs a linear layer"),
    ({"relu": "yes"}, "encoder.relu must be true or false, got 'yes'"),
    ({"shared": 1}, "encoder.shared must be true or false, got 1"),
    (
        {"crop": None, "shared": True},
        r"encoder.shared=true needs images of one size, got \(3, 48, 44\) of image.top and "
        r"\(3, 42, 40\) of image.wrist",
    ),
]


@pytest.mark.parametrize(("settings", "words"), BAD, ids=[words[:50] for _, words in BAD])
def test_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        encoder_config(**settings)
    assert "\n" not in str(error.value)
