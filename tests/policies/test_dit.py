"""The DiT: its sizes, what its parts do, and LeRobot's names of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from policies import (
    CheckpointError,
    DitConfig,
    PolicyConfig,
    export_lerobot,
    export_reference,
    load_policy,
    save_policy,
)
from policies.dit.family import DIT
from policies.dit.keys import joined_shapes, parted, theirs
from policies.dit.network import Attention, Dit
from tests.helpers.dit import ACTION, HORIZON, OBS, SMALL, TO, dit_policy, flow, query

FORMS: dict[str, dict[str, Any]] = {
    "rotary": {},
    "learnt": {"use_rope": False, "use_positional_encoding": True},
    "both": {"use_positional_encoding": True},
    "neither": {"use_rope": False},
}


def inputs(n: int = 2, length: int = HORIZON) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((n, length, ACTION), generator=generator)
    return x, torch.rand(n, generator=generator), torch.randn((n, TO, OBS), generator=generator)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_its_batch(form: str) -> None:
    model = dit_policy(**FORMS[form]).model
    x, t, cond = inputs(4)
    with torch.no_grad():
        whole = model(x, t, cond)
        torch.testing.assert_close(model(x[1:2], t[1:2], cond[1:2]), whole[1:2])
        assert not torch.allclose(model(x, t.flip(0), cond), whole)
        assert not torch.allclose(model(x, t, cond.flip(1)), whole)  # each step has its place


@pytest.mark.parametrize("form", FORMS)
def test_it_knows_places_unless_it_has_no_positions(form: str) -> None:
    model = dit_policy(**FORMS[form]).model
    x, t, cond = inputs()
    with torch.no_grad():
        same = torch.allclose(model(x.flip(1), t, cond), model(x, t, cond).flip(1), atol=1e-4)
    assert same == (form == "neither")


def test_rotary_attention_sees_distances_alone() -> None:
    """Tokens moved by one place: what they attend to each other with is as before."""
    torch.manual_seed(0)
    attention = Attention(DitConfig(ACTION, HORIZON, TO, OBS, **SMALL))
    q = torch.randn(1, 2, HORIZON, 8)
    k = torch.randn(1, 2, HORIZON, 8)
    rope = attention.rope
    assert rope is not None
    scores = rope(q) @ rope(k).mT
    moved = rope(q.roll(1, 2)) @ rope(k.roll(1, 2)).mT
    torch.testing.assert_close(moved[..., 1:, 1:], scores[..., :-1, :-1])


def test_a_training_begins_with_blocks_that_do_nothing() -> None:
    """AdaLN-zero; the draws are the generator's alone."""
    first, second = (Dit(dit_policy(**FORMS["both"]).sizes) for _ in range(2))
    assert DIT.recipe is not None
    for model in (first, second):
        DIT.recipe.initial_weights(model, torch.Generator().manual_seed(5))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all()
        assert bool(a.any()) == ("modulation" not in name), name
    x, t, cond = inputs()
    first.eval()
    with torch.no_grad():
        assert torch.equal(first(x, t, cond), first(x, 1 - t, cond + 1))


@pytest.mark.parametrize("form", FORMS)
def test_its_sites_are_all_that_is_added(form: str) -> None:
    """In order; the stream is the projected trajectory and what they put out."""
    model = dit_policy(**FORMS[form]).model
    x, t, cond = inputs()
    seen: list[tuple[int, torch.Tensor]] = []

    def branch(site: int, compute: Any) -> torch.Tensor:
        seen.append((site, compute()))
        return seen[-1][1]

    with torch.no_grad():
        out = model(x, t, cond, branch)
        assert torch.equal(out, model(x, t, cond))
        assert [site for site, _ in seen] == list(range(6))
        learnt = 0 if model.pos_embedding is None else model.pos_embedding
        stream = model.input_proj(x) + learnt + sum(value for _, value in seen)
        torch.testing.assert_close(model.output_proj(stream), out, atol=1e-5, rtol=1e-5)


def test_without_rotary_positions_attention_is_torchs() -> None:
    config = DitConfig(ACTION, HORIZON, TO, OBS, **{**SMALL, "use_rope": False})
    torch.manual_seed(0)
    ours, stock = Attention(config).eval(), nn.MultiheadAttention(16, 2, batch_first=True)
    block = "transformer_blocks.0"
    names = {theirs(f"{block}.attn.{k}", use_rope=False): v for k, v in ours.state_dict().items()}
    prefix = f"noise_predictor.{block}.multihead_attn."
    stock.load_state_dict({name.removeprefix(prefix): v for name, v in names.items()})
    x = torch.randn(2, HORIZON, 16)
    torch.testing.assert_close(ours(x), stock(x, x, x, need_weights=False)[0])


def test_modulations_are_parted_by_rows() -> None:
    state = Dit(dit_policy().sizes).state_dict()
    joined = joined_shapes({key: tuple(value.shape) for key, value in state.items()})
    key = "transformer_blocks.1.attn_modulation.linear.weight"
    assert joined[key] == (6 * 16, 8 + TO * OBS)
    assert sum(map(len, joined.values())) < sum(value.ndim for value in state.values())
    whole = {name: torch.arange(torch.Size(s).numel()).view(s) for name, s in joined.items()}
    found = parted(whole)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    assert torch.equal(found[key], whole[key][:48])
    assert torch.equal(found[key.replace("attn_", "mlp_")], whole[key][48:])


@pytest.mark.parametrize("form", FORMS)
def test_it_is_saved_and_loaded(form: str, tmp_path: Path) -> None:
    policy = dit_policy(flow("rk4", 3), **FORMS[form])
    save_policy(policy, tmp_path / "a", torch.float32)
    again = load_policy(tmp_path / "a")
    assert (again.config, again.fingerprint()) == (policy.config, policy.fingerprint())
    assert torch.equal(again.act(*query()), policy.act(*query()))
    assert "family: dit" in (tmp_path / "a/policy.yaml").read_text()


def test_shorter_chunks_and_other_numbers_of_actions() -> None:
    policy = dit_policy(pos := flow("euler", 3))
    assert policy.config.sampler == pos
    longer = policy.with_n_action_steps(7)
    obs, noise = query()
    torch.testing.assert_close(longer.act(obs, noise)[:, :4], policy.act(*query()))
    config = policy.config
    alone = PolicyConfig(config.network, OBS, ACTION, 4, pred_action_steps_only=True)
    assert (alone.length, alone.first_action) == (4, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 3}, "n_emb must be a multiple of 6 .*use_rope.*, got 16"),
        ({"n_head": 16}, "n_emb must be a multiple of 32"),
        ({"n_head": 3, "use_rope": False}, "n_emb must be a multiple of 3 "),
        ({"timestep_embed_dim": 7}, "timestep_embed_dim must be even and at least 4, got 7"),
        ({"timestep_embed_dim": 2}, "timestep_embed_dim must be even and at least 4, got 2"),
        ({"rope_base": 0.0}, "rope_base must be above 0"),
        ({"rope_base": float("inf")}, "rope_base must be a finite number"),
        ({"p_drop_attn": 1.0}, "p_drop_attn must be at least 0 and below 1"),
        ({"n_layer": 0}, "n_layer must be at least 1"),
        ({"use_rope": "yes"}, "use_rope must be true or false"),
        ({"cond_dim": 0}, "cond_dim must be at least 1"),
    ],
)
def test_sizes_are_checked(change: dict[str, Any], words: str) -> None:
    usual = {"input_dim": ACTION, "horizon": HORIZON, "n_obs_steps": TO, "cond_dim": OBS}
    with pytest.raises(ValueError, match=rf"^network\.{words}"):
        DitConfig(**{**usual, **SMALL, **change})


def test_a_file_with_other_sizes_is_refused(tmp_path: Path) -> None:
    save_policy(dit_policy(), tmp_path, torch.float32)
    file = tmp_path / "policy.yaml"
    right = file.read_text()
    file.write_text(right.replace("n_layer: 3", "n_layer: 900"))
    with pytest.raises(CheckpointError, match="DiT of 900 blocks of width 16 with at least"):
        load_policy(tmp_path)
    file.write_text(right.replace("n_layer: 3", "n_layer: 2"))
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.2"):
        load_policy(tmp_path)


def test_other_libraries_have_no_place_for_ours(tmp_path: Path) -> None:
    policy = dit_policy()
    with pytest.raises(ValueError, match="no policies of family dit"):
        export_reference(policy, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="this one is of family dit"):
        export_lerobot(policy, tmp_path / "a")
