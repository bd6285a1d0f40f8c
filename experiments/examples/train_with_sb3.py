"""Stable-Baselines3's PPO on the environment through `gymnasium.make`, with nothing in between.

    pip install 'tir-env[sb3]'
    python experiments/examples/train_with_sb3.py

You see the mean gain on held-out photographs before and after: about a minute on one core. Over three seeds it rose from +0.6 to
+6.7 ±0.1 dB. SB3's PPO knows no action masks; it need not, for a forbidden action leaves the image as it is. Its networks see the mask
as one of the entries of the observation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.console import at_least, main, write_json
from experiments.examples.task import ID, Observations, held_out, settings
from pool import Problem


@dataclass
class Example:
    steps: int = 6144
    """Decisions to learn from."""
    envs: int = 8
    """Environments side by side."""
    round: int = 32
    """Decisions of each environment between two updates."""
    episodes: int = 128
    """Held-out starts."""
    seed: int = 0
    """Of everything."""
    json: Path | None = None
    """Write the figures here."""


def train(example: Example) -> None:
    at_least(1, steps=example.steps, envs=example.envs, episodes=example.episodes)
    at_least(2, round=example.round)
    PPO, make_vec_env = stable_baselines()
    torch.set_num_threads(1)
    envs = make_vec_env(ID, n_envs=example.envs, seed=example.seed, env_kwargs=settings("train"))
    model = PPO(
        "MultiInputPolicy", envs, n_steps=example.round, batch_size=64, n_epochs=8, learning_rate=1e-3, gamma=1.0, ent_coef=0.01,
        seed=example.seed, device="cpu",
    )  # fmt: skip

    def act(observations: Observations) -> np.ndarray:
        actions: np.ndarray = model.predict(observations, deterministic=True)[0]
        return actions

    before = held_out(act, example.episodes)
    print(f"before: {before}")
    began = time.perf_counter()
    model.learn(example.steps)
    seconds = time.perf_counter() - began
    envs.close()
    after = held_out(act, example.episodes)
    print(f"after:  {after}; {model.num_timesteps} decisions in {seconds:.0f} s")
    write_json(
        example.json, {"settings": vars(example), "before": before._asdict(), "after": after._asdict(), "seconds": seconds}
    )


def stable_baselines() -> tuple[Any, Any]:
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise Problem("stable-baselines3", f"cannot be imported: {error}", "pip install 'tir-env[sb3]'") from error
    return PPO, make_vec_env


if __name__ == "__main__":
    main(Example, train, __doc__)
