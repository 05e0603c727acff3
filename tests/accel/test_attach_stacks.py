"""One cache over stacks that name their streams differently, as HunyuanVideo's own code does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel import FirstBlockConfig, IntervalConfig, TaylorConfig, TeaCacheConfig, attach
from accel.attach.attached import Attached
from tests.helpers.foreign_models import noise, scrambled

N_STEPS, WIDTH = 6, 8
STREAMS = {"double_blocks": ("img", "txt"), "single_blocks": ("x",)}


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor) -> tuple[Tensor, Tensor]:
        mean = txt.mean(dim=1, keepdim=True)
        return img + self.image(img + mean + vec).tanh(), txt + self.text(txt).tanh()


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, vec: Tensor, txt_len: int) -> Tensor:
        return x + self.both(x + vec).tanh()


class Video(nn.Module):
    """Image and text apart, then as one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.double_blocks = nn.ModuleList(Double() for _ in range(2))
        self.single_blocks = nn.ModuleList(Single() for _ in range(3))

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor) -> Tensor:
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec)
        x = torch.cat((img, txt), 1)
        for block in self.single_blocks:
            x = block(x, vec, txt.shape[1])
        return x[:, : img.shape[1]]


@pytest.fixture
def model() -> nn.Module:
    return scrambled(Video())


TEXT, VEC = noise(1, 3, WIDTH, seed=2), noise(1, 1, WIDTH, seed=3)


@torch.no_grad()
def generation(cache: Attached, rows: list[Tensor]) -> list[Tensor]:
    cache.begin()
    found = []
    for step, x in enumerate(rows):
        cache.step(step)
        found.append(cache.model(x, TEXT.expand(len(x), -1, -1), VEC))
    return found


def attached(model: nn.Module, config: Any, **settings: Any) -> Attached:
    paths = ["double_blocks", "single_blocks"]
    return attach(model, paths, N_STEPS, config, streams=STREAMS, **settings)


CONFIGS = [
    IntervalConfig(start=0, interval=4),
    IntervalConfig(start=0, interval=4, first_block=1, n_blocks=3),  # over the border
    TaylorConfig(order=1, warm_up=2, cool_down=0, interval=9),
    FirstBlockConfig(threshold=0.1, cool_down=0),
    FirstBlockConfig(threshold=0.1, cool_down=0, blocks=3),
    TeaCacheConfig(threshold=0.1, cool_down=0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_one_cache_is_over_both_stacks(model: nn.Module, config: Any) -> None:
    x = noise(2, 4, WIDTH)
    cache = attached(model, None)
    plain = generation(cache, [x] * N_STEPS)
    if isinstance(config, TeaCacheConfig):
        cache.calibrate(lambda: generation(cache, [x] * N_STEPS))
    cache.update_config(config)
    for out in generation(cache, [x] * N_STEPS):
        torch.testing.assert_close(out, plain[0], atol=1e-6, rtol=1e-5)
    hits = cache.hits.sum(axis=0)
    assert hits[-1 if config.name != "interval" else 2] > 0
    assert hits[2] == hits[3] or getattr(config, "blocks", 1) > 2  # of both stacks alike


def test_rows_decide_for_both_stacks_and_alone(model: nn.Module) -> None:
    """A row that changed is computed, one that did not reuses what it had, in every stack."""
    still, moving = noise(1, 4, WIDTH), [noise(1, 4, WIDTH, seed=s) for s in range(N_STEPS)]
    cache = attached(model, FirstBlockConfig(threshold=0.3, cool_down=0))
    both = generation(cache, [torch.cat([still, x]) for x in moving])
    trace = cache.trace()
    assert trace.tolist() == [[True, *[False] * (N_STEPS - 1)], [True] * N_STEPS]
    assert cache.hits.sum() == 0  # a row wanted every step
    for rows, place in (([still] * N_STEPS, 0), (moving, 1)):
        alone = generation(cache, rows)
        for a, b in zip(alone, both, strict=True):
            torch.testing.assert_close(a, b[place : place + 1], atol=1e-6, rtol=1e-5)


WRONG = [
    ({"double_blocks": ("img",)}, None, "streams must be of double_blocks, single_blocks, each"),
    ("img", None, "streams and outputs must be lists of names"),
    (STREAMS, {"double_blocks": ("img",)}, "outputs must be of double_blocks, single_blocks"),
    (("img", "txt"), None, "streams: single_blocks.0 takes x, vec, txt_len, not 'img'"),
    (STREAMS, {"double_blocks": ("x",), "single_blocks": ("x",)}, "outputs must be among img, txt"),
]


@pytest.mark.parametrize(("streams", "outputs", "words"), WRONG)
def test_streams_that_do_not_fit_are_named(
    model: nn.Module, streams: Any, outputs: Any, words: str
) -> None:
    paths = ["double_blocks", "single_blocks"]
    with pytest.raises(ValueError, match=words):
        attach(model, paths, N_STEPS, streams=streams, outputs=outputs)
