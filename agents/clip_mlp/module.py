"""The network as RLlib's new API stack wants it. The encoder stays outside: features arrive as observations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from agents.clip_mlp.network import Actor, Critic, Shape


class ClipMlpModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """`model_config`: `shape`, and the `seed` of the first weights, so that every process begins with the same ones."""

    model_config: Any  # RLlib allows other forms than a dict

    def setup(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.model_config["seed"])
            shape = Shape(**self.model_config["shape"])
            self.actor, self.critic = Actor(shape), Critic(shape)

    def get_non_inference_attributes(self) -> list[str]:
        return ["critic"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        return self.critic(batch[Columns.OBS])


def module_spec(shape: Shape, seed: int) -> RLModuleSpec:
    return RLModuleSpec(module_class=ClipMlpModule, model_config={"shape": asdict(shape), "seed": seed})
