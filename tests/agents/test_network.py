from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.clip_mlp.network import FORBIDDEN, Actor, Critic, Shape, state_of
from tests.agents.plain_ppo import gae

SHAPE = Shape(features=4, tools=3, horizon=2)


def observations(batch: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(batch, 4, generator=generator), dim=-1)
    return {
        "features": features,
        "size": torch.full((batch, 2), 128 / 1024),
        "used": torch.zeros(batch, 3, dtype=torch.int8),
        "steps_left": torch.full((batch, 1), 2.0),
        "mask": torch.ones(batch, 4, dtype=torch.int8),
    }


def test_the_state_holds_features_record_size_and_steps() -> None:
    seen = observations()
    seen["size"][1] = 512 / 1024
    seen["used"][2, 0] = 1
    state = state_of(seen, SHAPE)
    assert state.shape == (5, SHAPE.state)
    assert state[:, :4].pow(2).mean(dim=1).sqrt().numpy() == pytest.approx(1)
    np.testing.assert_allclose(state[:, 7:9].numpy(), [[0, 0], [2, 2], [0, 0], [0, 0], [0, 0]], atol=1e-6)
    assert state[2, 4] == 1
    assert (state[:, 9] == 1).all()


def test_what_the_mask_forbids_has_no_probability() -> None:
    seen = observations()
    seen["mask"][:, 1] = 0
    logits = Actor(SHAPE)(seen)
    assert (logits[:, 1] == FORBIDDEN).all()
    assert (torch.softmax(logits, dim=-1)[:, 1] == 0).all()


def test_a_fresh_actor_treats_all_actions_about_alike() -> None:
    probabilities = torch.softmax(Actor(SHAPE)(observations()), dim=-1)
    assert (probabilities - 0.25).abs().max() < 0.02


def test_two_layers_of_the_papers_width() -> None:
    for network, outputs in ((Actor(SHAPE), 4), (Critic(SHAPE), 1)):
        kinds = [type(layer).__name__ for layer in network.layers]
        assert kinds == ["Linear", "LayerNorm", "ReLU", "Linear"]
        assert network.layers[0].out_features == 128
        assert network.layers[-1].out_features == outputs
    assert Critic(SHAPE)(observations()).shape == (5,)


def test_the_oracles_gae_by_hand() -> None:
    # δ = [1 + .5·2 − 1, 0 + .5·4 − 2] = [1, 0] where the episode goes on, [1, −2] where it is over; γλ = .25
    rewards, values = np.array([1.0, 0.0]), np.array([1.0, 2.0, 4.0])
    assert gae(rewards, values, False, gamma=0.5, lam=0.5).tolist() == [1.0, 0.0]
    assert gae(rewards, values, True, gamma=0.5, lam=0.5).tolist() == [0.5, -2.0]
