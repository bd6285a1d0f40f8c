"""A training run of the light agent: RLlib's algorithm on a workplace."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from agents.clip_mlp.agent import ClipMlpAgent, EncoderSpec
from agents.clip_mlp.grpo import LightGRPO
from agents.clip_mlp.network import Shape
from agents.clip_mlp.ppo import LightPPO, Place, configure, environments
from experiments.learning import train
from experiments.runs import RunFolder
from experiments.validation import Validation
from experiments.workplace import RETRIES, Opened, Workplace
from pool import Problem
from rewards import make_reward

if TYPE_CHECKING:
    from experiments.run import Run


class LightWorkplace(Workplace):
    owner = ""  # the word by which the run's folder is this process's: claimed once, however often a process is lost

    def __init__(self, settings: Run) -> None:
        super().__init__(settings)
        if settings.algo == "grpo" and settings.light.group < 2:
            raise Problem("--group", "must be at least 2: GRPO judges each rollout by the others of its start", "Try 8.")
        if settings.learners > 1:
            reason = "would wait for each other: the light agent is two small MLPs"
            raise Problem(
                f"--learners {settings.learners}",
                reason,
                "Give 1, a process of its own, or 0. --env-runners play side by side.",
            )
        group = settings.light.group if settings.algo == "grpo" else 1
        environments(settings.light, settings.horizon, settings.env_runners, group)
        self.encoder = EncoderSpec(settings.encoder, settings.pretrained)
        dim: int = self.encoder.open().dim  # type: ignore[attr-defined]
        self.shape = Shape(dim, len(self.toolbox), settings.horizon, settings.light.hidden)

    def check_room(self, most: dict[str, float]) -> None:
        """RLlib books a core for every process that plays, and for a learner without a GPU."""
        super().check_room(most)
        settings = self.settings
        wanted, cores = settings.env_runners + (settings.learners if not settings.gpus else 0), most.get("CPU", 0.0)
        if wanted > cores:
            flags = f"--env-runners {settings.env_runners} and --learners {settings.learners}"
            raise Problem(
                flags, f"want {wanted} cores, and Ray has {cores:g}", "Give fewer: one env runner plays many episodes at once."
            )

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
            design.for_groups()
            environment |= {"group": settings.light.group, "reward": design}
        place = Place(settings.env_runners, settings.learners, settings.gpus)
        config = configure(kind, environment, self.shape, settings.light, settings.iterations, settings.seed, place)
        config.made_for = {"tools": [tool.name for tool in self.toolbox], "encoder": self.encoder.identity}
        algorithm = config.build_algo()
        assert isinstance(algorithm, LightPPO)
        return algorithm

    def environment(self, pool: dict[str, Any] | None = None) -> dict[str, Any]:
        """What its environments are made from."""
        return {**self.world_settings("train"), "encoder": self.encoder.open(), "pool": pool or self.pool_options}

    def go_on(self, folder: RunFolder, console: Console) -> None:
        """From the last checkpoint to the end, or until a process is lost that RLlib cannot do without."""
        settings, tools = self.settings, [tool.name for tool in self.toolbox]
        self.owner = self.owner or folder.claim()
        done, checkpoint = folder.last_checkpoint()
        algorithm = self.algorithm()
        try:
            if checkpoint is not None:
                algorithm.load_state(checkpoint)
            folder.check_owner(self.owner)
            self.note(folder)
            validation = Validation(self.world("validation"), folder, settings) if settings.validate_every else None
            train(algorithm, folder, done, settings, validation, self.encoder, tools, self.shape, self.owner, console)
        finally:
            algorithm.stop()

    def train(self, folder: RunFolder, console: Console) -> dict[str, Opened]:
        settings, lost = self.settings, 0  # processes in a row without a checkpoint between
        self.check_heard(folder, settings.iterations)
        while (done := folder.last_checkpoint()[0]) < settings.iterations:
            try:
                self.go_on(folder, console)
            except RayError as error:
                if isinstance(error, RayTaskError):
                    raise  # a fault of what ran there
                saved = folder.last_checkpoint()[0]
                lost = 1 if saved > done else lost + 1
                if lost > RETRIES:
                    said, remedy = str(error).strip().splitlines()[0], f"Look at Ray's logs, then --resume {folder.path}."
                    raise Problem("the training", f"lost a process {lost} times in a row: {said}", remedy) from error
                console.print(f"a process was lost ({type(error).__name__}); going on after iteration {saved}", soft_wrap=True)
        trained = {f"{settings.algo} {settings.policy}": folder.path / "agent", **self.best(folder)}
        return {name: partial(ClipMlpAgent.load, path) for name, path in trained.items()}
