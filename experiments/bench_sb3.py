"""Training speed beside Stable-Baselines3: its PPO on the same environment through Gymnasium, unmodified.

    pip install stable-baselines3
    python experiments/bench_sb3.py --json out/sb3.json

Both see the same features of the same encoder and learn with the same sizes of batches; their rounds alternate, so that both meet the
same machine, and all photographs are read before. Their learning rates are next to nothing, so that both go on choosing all tools
evenly: else the one that comes to prefer slow tools would look slow. SB3 drives single environments in a row, as it does with any;
ours puts the tool calls of a step in flight together on the pool, once of worker processes and once in its own process. With --delay
every tool call takes so much longer, as it does where tools run on GPUs elsewhere. You see decisions per second of training, learning
included, and the ratio to SB3's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import tir_env  # noqa: F401 (registers the id)
from agents.clip_mlp.ppo import LightPPO
from experiments.console import at_least, main, write_json
from experiments.grids import spread
from experiments.light import LightWorkplace
from experiments.run import Run
from pool import Problem
from tir_env.tools import Toolbox
from tir_env.tools.tool import Engine, Function, Tool
from tir_env.tools.weights import Weights

RATE = 1e-9


@dataclass(frozen=True)
class Away:
    """An engine far away: what it computes comes `seconds` later, and meanwhile no processor is busy here."""

    engine: Engine
    seconds: float

    @property
    def weights(self) -> Weights | None:
        return self.engine.weights

    def load(self, tool: Tool) -> Function:
        function = self.engine.load(tool)

        def later(batch: NDArray[np.uint8]) -> NDArray[Any]:
            time.sleep(self.seconds)
            return function(batch)

        return later


@dataclass
class Bench:
    toolbox: str = "pocket"
    """The tools."""
    suite: str = "mio100-a"
    """What spoils the images."""
    encoder: str = "pocket-clip"
    """The frozen encoder of both."""
    crop: int = 64
    """Side of the images."""
    episodes: int = 64
    """Episodes in a round of ours; SB3's round has as many decisions."""
    rounds: int = 8
    """Alternating rounds, after one of each that does not count."""
    envs: int = 8
    """Environments of SB3."""
    workers: int | None = None
    """Worker processes of our pool; not given: one for each core."""
    delay: float = 0.0
    """Seconds that every tool call takes longer."""
    seed: int = 0
    """Of both."""
    json: Path | None = None
    """Write the figures here."""


def bench(settings: Bench) -> None:
    at_least(1, rounds=settings.rounds, envs=settings.envs)
    at_least(0, delay=settings.delay)
    PPO, vectorise = stable_baselines()
    run = replace(
        Run(), algo="ppo", policy="clip_mlp", toolbox=settings.toolbox, suite=settings.suite, encoder=settings.encoder,
        crop=settings.crop, workers=settings.workers, seed=settings.seed,
    )  # fmt: skip
    run = replace(run, light=replace(run.light, episodes=settings.episodes, lr=RATE))
    workplace = LightWorkplace(run)
    if settings.delay:
        workplace.toolbox = away(workplace.toolbox, settings.delay)
    with workplace as place:
        learners: dict[str, Callable[[], float]] = {
            "ours, worker processes": ours(place.algorithm(), settings.episodes),
            "ours, in process": ours(place.algorithm({"kind": "local"}), settings.episodes),
        }
        environment = {**place.world_settings("train"), "encoder": place.encoder.open(), "pool": "local"}
        envs = vectorise("tir_env/Restoration-v0", n_envs=settings.envs, seed=settings.seed, env_kwargs=environment)
        steps = settings.episodes * run.horizon // settings.envs
        model = PPO(
            "MultiInputPolicy", envs, n_steps=steps, batch_size=run.light.minibatch, n_epochs=run.light.epochs,
            learning_rate=run.light.lr, device="cpu", seed=settings.seed,
        )  # fmt: skip
        learners["stable-baselines3"] = theirs(model, steps * settings.envs)
        for photo in place.world("train").images:
            photo.image  # noqa: B018 (read once, it stays in memory for all)
        speeds: dict[str, list[float]] = {name: [] for name in learners}
        for number in range(settings.rounds + 1):
            for name, learn in learners.items():
                speed = learn()
                if number:  # the first round loads the models
                    speeds[name].append(speed)
        envs.close()
    console = Console()
    base = np.array(speeds["stable-baselines3"])
    for name, values in speeds.items():
        ratios = np.array(values) / base
        console.print(f"{name}: {spread(values, 1)} decisions/s, {spread(ratios, 2)} of SB3's")
    write_json(settings.json, {"settings": vars(settings), "decisions per second": speeds})


def away(toolbox: Toolbox, seconds: float) -> Toolbox:
    tools = []
    for tool in toolbox:
        tools.append(copy.copy(tool))
        tools[-1].engine = Away(tool.engine, seconds)
    return Toolbox(toolbox.name, tools)


def ours(algorithm: LightPPO, episodes: int) -> Callable[[], float]:
    def learn() -> float:
        """Decisions per second of one round; idle steps are none."""
        began = time.perf_counter()
        algorithm.train()
        return algorithm.report["length"] * episodes / (time.perf_counter() - began)

    return learn


def theirs(model: Any, steps: int) -> Callable[[], float]:
    def learn() -> float:
        began = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        return steps / (time.perf_counter() - began)

    return learn


def stable_baselines() -> tuple[Any, Any]:
    try:
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise Problem("stable-baselines3", f"cannot be imported: {error}", "pip install stable-baselines3") from error
    return PPO, make_vec_env


if __name__ == "__main__":
    main(Bench, bench, __doc__)
