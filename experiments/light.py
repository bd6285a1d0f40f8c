"""A training run of the light agent: RLlib's algorithm on a workplace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from agents.agent import Agent
from agents.clip_mlp.agent import ClipMlpAgent, EncoderSpec
from agents.clip_mlp.grpo import LightGRPO
from agents.clip_mlp.network import Shape
from agents.clip_mlp.ppo import LightPPO, Place, configure
from experiments.learning import train
from experiments.runs import RunFolder
from experiments.workplace import Workplace
from pool import Problem
from rewards import make_reward

if TYPE_CHECKING:
    from experiments.run import Run


class LightWorkplace(Workplace):
    def __init__(self, settings: Run) -> None:
        super().__init__(settings)
        if settings.algo == "grpo" and settings.light.group < 2:
            raise Problem("--group", "must be at least 2: GRPO judges each rollout by the others of its start", "Try 8.")
        self.encoder = EncoderSpec(settings.encoder, settings.pretrained)
        dim: int = self.encoder.open().dim  # type: ignore[attr-defined]
        self.shape = Shape(dim, len(self.toolbox), settings.horizon, settings.light.hidden)

    def describe(self) -> str:
        return f"{super().describe()}, encoder {self.settings.encoder} ({self.shape.features} features)"

    def algorithm(self, pool: dict[str, Any] | None = None) -> LightPPO:
        """RLlib's, its environments on this workplace's pool unless another is described."""
        settings = self.settings
        environment = self.environment(pool)
        kind: type[LightPPO] = LightPPO
        if settings.algo == "grpo":
            kind = LightGRPO
            design = make_reward(settings.reward)
            design.every_step = False  # a group is judged by its ends: scoring on the way would be for nothing
            environment |= {"group": settings.light.group, "reward": design}
        place = Place(settings.env_runners, settings.learners, settings.gpus)
        config = configure(kind, environment, self.shape, settings.light, settings.iterations, settings.seed, place)
        algorithm = config.build_algo()
        assert isinstance(algorithm, LightPPO)
        return algorithm

    def environment(self, pool: dict[str, Any] | None = None) -> dict[str, Any]:
        """What its environments are made from."""
        return {**self.world_settings("train"), "encoder": self.encoder.open(), "pool": pool or self.pool_options}

    def train(self, folder: RunFolder, console: Console) -> dict[str, Agent]:
        settings = self.settings
        if folder.last_checkpoint()[0] < settings.iterations:
            algorithm = self.algorithm()
            try:
                tools = [tool.name for tool in self.toolbox]
                train(
                    algorithm, folder, settings.iterations, settings.checkpoint_every, settings.keep, self.encoder, tools,
                    self.shape, settings.metrics, settings.wandb, console,
                )  # fmt: skip
            finally:
                algorithm.stop()
        return {f"{settings.algo} {settings.policy}": ClipMlpAgent.load(folder.path / "agent")}
