"""The two MLPs on frozen features, in plain PyTorch: what RLlib trains, and what runs alone once it is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FORBIDDEN = -1e9  # the logit of an action that the mask forbids
UNIT = 8.0  # 1 / (128 / 1024): an image of 128 pixels has log-size 0


@dataclass(frozen=True)
class Shape:
    """What the network is built from; saved beside its weights."""

    features: int  # of the encoder
    tools: int
    horizon: int
    hidden: int = 128

    @property
    def state(self) -> int:
        """features ‖ action record ‖ log height, log width ‖ share of the steps left"""
        return self.features + self.tools + 2 + 1


def state_of(observations: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """[batch, state]. Features come with unit length: scaled so that each counts about as much as an entry of the record."""
    features = observations["features"].float() * math.sqrt(shape.features)
    size = torch.log2(observations["size"].float().clamp_min(1e-6) * UNIT)  # 0 at 128 pixels, so that x4 shows as +2
    left = observations["steps_left"].float() / shape.horizon
    return torch.cat([features, observations["used"].float(), size, left], dim=-1)


def two_layers(shape: Shape, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.state, shape.hidden), nn.LayerNorm(shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, outputs)
    )


class Actor(nn.Module):
    """A logit for every tool, the last one for stop. It begins with all actions about alike."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.layers = shape, two_layers(shape, shape.tools + 1)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.zero_()

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """[batch, tools + 1]"""
        return self.layers(state_of(observations, self.shape)).masked_fill(observations["mask"] == 0, FORBIDDEN)


class Critic(nn.Module):
    """What the rest of the episode will bring. It shares the frozen features with the actor and nothing else."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.layers = shape, two_layers(shape, 1)

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """[batch]"""
        return self.layers(state_of(observations, self.shape)).squeeze(-1)
