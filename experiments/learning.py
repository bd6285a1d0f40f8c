"""The training loop of the light agent: iterate, show, log, save. Killed at any moment, it goes on where the last checkpoint stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.utils.metrics import LEARNER_RESULTS
from rich.console import Console

from agents.clip_mlp.agent import ClipMlpAgent, EncoderSpec
from agents.clip_mlp.network import Actor, Shape
from agents.clip_mlp.ppo import LightPPO
from experiments.runs import Row, RunFolder
from experiments.tracking import display, gains, trackers
from experiments.validation import Validation, due

if TYPE_CHECKING:
    from experiments.run import Run

LEARNED = {  # what RLlib's learner says, in our words
    "policy_loss": "policy_loss",
    "vf_loss": "value_loss",
    "vf_explained_var": "explained_variance",
    "entropy": "entropy",
    "curr_entropy_coeff": "entropy_coefficient",
    "gradients_default_optimizer_global_norm": "gradient_norm",
}
OF_A_CRITIC = ("value_loss", "explained_variance")  # where there is none, RLlib says 0 and 1


def train(
    algorithm: LightPPO, folder: RunFolder, done: int, settings: Run, validation: Validation | None, encoder: EncoderSpec,
    tools: list[str], shape: Shape, owner: str, console: Console,
) -> None:  # fmt: skip
    """Iterate from `done`, where the algorithm and the folder's last checkpoint stand, to the end, or until another run takes over."""
    check = partial(folder.check_owner, owner)
    check()
    folder.rewind(done)
    iterations = settings.iterations
    say = partial(gains, metrics=settings.metrics)
    with trackers(folder, settings.wandb, done) as listeners, display(console, iterations, done, say) as show:
        for number in range(done + 1, iterations + 1):
            began = time.perf_counter()
            results = algorithm.train()
            row = row_of(algorithm, results, number, time.perf_counter() - began)
            if validation is not None and due(settings, number, iterations):
                agent = export(algorithm, shape, encoder, tools)
                row |= validation.look(number, agent, partial(keep, agent, check))
            check()
            folder.append(row)
            if number % settings.checkpoint_every == 0 or number == iterations:
                # The agent first: a kill between the two must not leave a finished run with the agent before the last.
                export(algorithm, shape, encoder, tools).save(folder.path / "agent")
                folder.save_checkpoint(number, algorithm.save_state, settings.keep)
            for listener in listeners:
                listener.log(row)
            show(row)


def keep(agent: ClipMlpAgent, check: Callable[[], object], place: Path) -> None:
    """`check` raises if another run has taken the folder over meanwhile."""
    check()
    agent.save(place)


def row_of(algorithm: LightPPO, results: dict[str, Any], number: int, seconds: float) -> Row:
    learned = results.get(LEARNER_RESULTS, {}).get("default_policy", {})
    row: Row = {"iteration": number, **algorithm.report}
    known = {ours: float(learned[theirs]) for theirs, ours in LEARNED.items() if theirs in learned}
    row |= {name: value for name, value in known.items() if algorithm.critic or name not in OF_A_CRITIC}
    return row | {"seconds": seconds, "tool_calls_per_second": row["tool_calls"] / seconds}


def export(algorithm: LightPPO, shape: Shape, encoder: EncoderSpec, tools: list[str]) -> ClipMlpAgent:
    """The agent as it is now."""
    weights = algorithm.learner_group.get_weights()["default_policy"]
    actor = Actor(shape)
    prefix = "actor."
    actor.load_state_dict({k.removeprefix(prefix): torch.tensor(v) for k, v in weights.items() if k.startswith(prefix)})
    return ClipMlpAgent(actor, encoder.open(), tools, encoder)
