"""Observations as they come: names, shapes and pixels that fit, and what is said of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from policies.observed import in_units, observed
from skipstep.observations import ObservationSpec

SPEC = ObservationSpec.of({"image.top": (3, 6, 4), "state": 2})
ALIASES = {"observation.state": "state", "observation.images.top": "image.top", "top": "image.top"}
TO = 2


def given(**arrays: Any) -> dict[str, Any]:
    obs = {
        "state": torch.zeros(5, TO, 2),
        "image.top": torch.full((5, TO, 3, 6, 4), 7, dtype=torch.uint8),
    }
    return {**obs, **{name.replace("__", "."): array for name, array in arrays.items()}}


def read(obs: Any) -> dict[str, Tensor]:
    return observed(obs, SPEC, ALIASES, TO)


def test_arrays_have_our_names_and_order_whatever_they_are_called() -> None:
    obs = given()
    assert list(read(obs)) == ["image.top", "state"]
    theirs = {"observation.state": obs["state"], "observation.images.top": obs["image.top"]}
    found = read(theirs)
    assert list(found) == ["image.top", "state"]
    assert found["state"] is obs["state"]
    assert found["image.top"] is obs["image.top"]
    assert list(read({"top": obs["image.top"], "state": obs["state"]})) == ["image.top", "state"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_pixels_are_bytes_or_floats_up_to_one(dtype: torch.dtype) -> None:
    for low, high in ((0, 1), (0.25, 0.5), (-1e-7, 1 + 1e-7)):
        image = torch.full((1, TO, 3, 6, 4), low, dtype=dtype)
        image[0, 1, 2, 3, 3] = high
        obs = {"state": torch.zeros(1, TO, 2), "image.top": image}
        assert read(obs)["image.top"] is image
    assert read(given(state=torch.zeros(0, TO, 2), image__top=torch.zeros(0, TO, 3, 6, 4)))


def test_units() -> None:
    cpu = torch.device("cpu")
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(in_units("image.top", every, cpu), every.float() / 255)
    assert torch.equal(in_units("state", every, cpu), every.float())  # numbers are no pixels
    turned = torch.rand(2, 6, 4, 3).permute(0, 3, 1, 2)
    assert in_units("image.top", turned, cpu).is_contiguous()
    assert torch.equal(in_units("image.top", turned, cpu), turned)


IMAGE = torch.zeros(5, TO, 3, 6, 4)
BAD: list[tuple[Any, str]] = [
    (torch.zeros(5, TO, 2), "obs must be a mapping with image.top, state, got a single array"),
    ({}, "image.top of 3 x 6 x 4 pixels is missing, state of 2 numbers is missing"),
    ({"state": torch.zeros(5, TO, 2)}, "obs must hold image.top, state: image.top of 3 x 6 x 4"),
    (given(depth=IMAGE), "obs must hold image.top, state: depth is not asked for"),
    (given(Top=IMAGE), "Top is not asked for"),
    (given(observation__state=torch.zeros(5, TO, 2)), "state and observation.state are both state"),
    (given(state=torch.zeros(5, TO, 3)), r"state must have shape \(B, 2, 2\), got \(5, 2, 3\)"),
    (given(state=torch.zeros(5, 2)), r"state must have shape \(B, 2, 2\), got \(5, 2\)"),
    (given(state=torch.zeros(5, 3, 2)), r"state must have shape \(B, 2, 2\), got \(5, 3, 2\)"),
    (given(state=torch.zeros(4, TO, 2)), "as many rows in each array, got 5 in image.top and 4 in"),
    (given(state=np.zeros((5, TO, 2))), "state must be a tensor, got ndarray"),
    (given(state=[0.0]), "state must be a tensor, got list"),
    (
        given(image__top=torch.zeros(5, TO, 6, 4, 3)),
        r"image.top must have shape \(B, 2, 3, 6, 4\), got \(5, 2, 6, 4, 3\): channels come first",
    ),
    (given(image__top=torch.zeros(5, TO, 3, 4, 6)), r"\(B, 2, 3, 6, 4\), got \(5, 2, 3, 4, 6\)$"),
    (given(image__top=torch.zeros(5, TO, 1, 6, 4)), r"\(B, 2, 3, 6, 4\), got \(5, 2, 1, 6, 4\)$"),
    (given(image__top=torch.zeros(5, 3, 6, 4)), r"\(B, 2, 3, 6, 4\), got \(5, 3, 6, 4\)$"),
    (given(image__top=IMAGE + 255), r"floats in \[0, 1\], got floats from 255 to 255"),
    (given(image__top=IMAGE + 1.01), "image.top must be uint8, or floats in"),
    (given(image__top=IMAGE - 0.5), "got floats from -0.5 to -0.5"),
    (given(image__top=IMAGE + torch.nan), "got floats from nan to nan"),
    (given(image__top=IMAGE + torch.inf), "got floats from inf to inf"),
    (given(image__top=IMAGE.int()), r"image.top must be uint8, .* got torch.int32"),
    (given(image__top=IMAGE.bool()), r"image.top must be uint8, .* got torch.bool"),
    (given(image__top=IMAGE.numpy()), "image.top must be a tensor, got ndarray"),
    (
        {"observation.state": torch.zeros(5, TO, 9), "top": IMAGE},
        r"observation.state must have shape \(B, 2, 2\)",
    ),
]


@pytest.mark.parametrize(("obs", "words"), BAD, ids=[words[:60] for _, words in BAD])
def test_what_does_not_fit_is_refused_by_name(obs: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as error:
        read(obs)
    assert "\n" not in str(error.value)
