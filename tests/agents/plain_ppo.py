"""PPO in plain PyTorch, as anybody would write it from the paper: the oracle that RLlib's is held against.

It knows nothing of RLlib: episodes are arrays. GAE and the loss follow Schulman et al. (2016, 2017) with the value loss and the entropy
bonus of Restore-R1's eq. 8. `update` takes the minibatches that it is told, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.clip_mlp.config import Hyperparameters
from agents.clip_mlp.network import Actor, Critic

Observations = dict[str, np.ndarray]


@dataclass
class Episode:
    """T decisions of one episode, or of a part of it that ends before the episode does."""

    observations: Observations  # [T + 1, ...], the last one is what the last decision led to
    actions: np.ndarray  # [T]
    rewards: np.ndarray  # [T]
    logp: np.ndarray  # [T], of the policy that acted
    ended: bool  # the episode is over: nothing comes after the last decision

    def __len__(self) -> int:
        return len(self.actions)


def gae(rewards: np.ndarray, values: np.ndarray, ended: bool, gamma: float, lam: float) -> np.ndarray:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V(s_{t+1}) − V(s_t). values: [T + 1]; the last one counts only if not `ended`."""
    values = values.copy()
    if ended:
        values[-1] = 0.0
    advantages = np.zeros(len(rewards))
    following = 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * values[t + 1] - values[t]
        following = advantages[t] = delta + gamma * lam * following
    return advantages


@dataclass
class Batch:
    observations: dict[str, Tensor]
    actions: Tensor
    logp: Tensor
    advantages: Tensor  # mean 0, deviation 1 over the batch
    targets: Tensor

    def rows(self, index: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(index)
        return Batch(
            {key: value[chosen] for key, value in self.observations.items()},
            self.actions[chosen], self.logp[chosen], self.advantages[chosen], self.targets[chosen],
        )  # fmt: skip


def prepare(episodes: Sequence[Episode], critic: Critic, gamma: float, lam: float) -> Batch:
    advantages, targets = [], []
    for episode in episodes:
        with torch.no_grad():
            values = critic(tensors(episode.observations)).numpy().astype(np.float64)
        advantage = gae(episode.rewards, values, episode.ended, gamma, lam)
        advantages.append(advantage)
        targets.append(advantage + values[:-1])
    flat = np.concatenate(advantages)
    observations = {
        key: torch.as_tensor(np.concatenate([e.observations[key][: len(e)] for e in episodes]))
        for key in episodes[0].observations
    }
    return Batch(
        observations,
        torch.as_tensor(np.concatenate([e.actions for e in episodes])),
        torch.as_tensor(np.concatenate([e.logp for e in episodes]), dtype=torch.float32),
        torch.as_tensor((flat - flat.mean()) / max(1e-4, flat.std()), dtype=torch.float32),
        torch.as_tensor(np.concatenate(targets), dtype=torch.float32),
    )


def loss(batch: Batch, actor: Actor, critic: Critic | None, values: Hyperparameters, entropy_coefficient: float) -> Tensor:
    """−L_PO + c1 L_VF − c2 L_EB. Without a critic it is GRPO's."""
    policy = torch.distributions.Categorical(logits=actor(batch.observations))
    ratio = torch.exp(policy.log_prob(batch.actions) - batch.logp)
    clipped = ratio.clamp(1 - values.clip, 1 + values.clip)
    total = -torch.min(ratio * batch.advantages, clipped * batch.advantages).mean()
    total = total - entropy_coefficient * policy.entropy().mean()
    if critic is not None:
        total = total + values.value_coefficient * (critic(batch.observations) - batch.targets).pow(2).mean()
    return total


def update(
    batch: Batch,
    actor: Actor,
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    values: Hyperparameters,
    entropy_coefficient: float,
    minibatches: Iterable[Sequence[int]],
) -> list[float]:
    losses = []
    for index in minibatches:
        total = loss(batch.rows(index), actor, critic, values, entropy_coefficient)
        optimizer.zero_grad()
        total.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, values.grad_clip)
        optimizer.step()
        losses.append(total.item())
    return losses


def tensors(observations: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {key: torch.as_tensor(value) for key, value in observations.items()}
