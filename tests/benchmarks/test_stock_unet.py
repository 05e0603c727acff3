"""The stock arm of a UNet is the reference implementation's query, whatever it observes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.stock import act, stock_policy
from policies import from_reference
from tests.helpers.stock_unet import OBS, TO, VARIANTS, live_unet


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_stock_unet_acts_as_ours(variant: str, sampler: str) -> None:
    policy = from_reference(live_unet(variant, sampler=sampler))
    stock = stock_policy(policy)
    obs = torch.randn(2, TO, OBS, generator=torch.Generator().manual_seed(1))
    found = act(stock, obs[:1], torch.Generator().manual_seed(3))
    expected = policy.act(obs[:1], [torch.Generator().manual_seed(3)])
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
