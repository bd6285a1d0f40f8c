"""One stage of the vision-language agent's training in a learner's process: `vlm.py` begins it there through Ray Train."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray.train.torch import TorchTrainer

from agents.vlm import demonstrations
from agents.vlm.agent import MODEL, VlmAgent, read_model
from agents.vlm.grpo import Grpo
from agents.vlm.learner import Learner
from agents.vlm.model import load
from agents.vlm.sft import Sft
from agents.vlm.team import Team
from agents.vlm.vllm_engine import VllmEngine
from experiments.runs import Row, RunFolder
from experiments.validation import Validation, due
from experiments.vlm import AFTER_SFT, OFTEN, Plan, Stage, lessons_of
from pool import Problem, connect
from rewards import make_reward
from tir_env.side_by_side import stream_of
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.run import Run


class Trainer(TorchTrainer):
    """Without the actor that would clear up after a lost controller: it outlives a killed driver, for good where Ray's state API does
    not answer, with 200 MB each time. What a stage holds ends with its driver anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # of the trainer of old
        return [callback for callback in made if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def work(task: dict[str, Any]) -> None:
    """One stage, from wherever the folder stands to its end."""
    import ray.train

    if os.path.isdir(task["at"]):  # Ray Train has another place for it, where no relative path leads anywhere
        os.chdir(task["at"])
    settings: Run = task["settings"]
    stage: Stage = task["stage"]
    plan: Plan = task["plan"]
    folder, options = RunFolder(Path(task["folder"])), settings.vlm
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device() if settings.gpus else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, task["threads"] // size))
        torch.use_deterministic_algorithms(True, warn_only=True)
    if rank == 0:
        folder.check_owner(task["owner"])  # before it writes anything
    team = Team(rank, size, device, options.shard)
    first, last = plan.span(stage)
    done, checkpoint = folder.last_checkpoint()
    if rank == 0:
        folder.rewind(done)
    with connect(**task["pool"]) as pool, remedied():
        learner = make_learner(settings, task["world"], stage, folder, team, pool)
        if checkpoint is not None and done > first:
            learner.load(checkpoint)
        if rank == 0:
            folder.check_owner(task["owner"])
            folder.write_settings(settings)
        tried = "validation" in task
        validation = Validation(World(**task["validation"], pool=pool), folder, settings) if tried and rank == 0 else None
        every = max(1, min(OFTEN, (last - first) // 10)) if stage == "sft" else settings.checkpoint_every
        for number in range(done + 1, last + 1):
            began = time.perf_counter()
            row = named(stage, learner.step(), number, time.perf_counter() - began, options.rollouts)
            folder.check_owner(task["owner"])
            if tried and due(settings, number - first, last - first):
                row |= try_out(learner, settings, validation, number, partial(folder.check_owner, task["owner"]))
                folder.check_owner(task["owner"])
            if rank == 0:
                folder.append(row)
            if (number - first) % every == 0 or number == last:
                keep(learner, settings, stage, folder, number, finished=number == last)


@contextmanager
def remedied() -> Iterator[None]:
    """A GPU that is too small is a mistake in the settings, and would be too small again."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        remedy = "Lower --batch-tokens or --at-once, or add --gradient-checkpointing, --lora or --learners with --shard; then --resume."
        raise Problem("a learner's GPU", f"has no memory left: {str(error).splitlines()[0]}", remedy) from error


def make_learner(settings: Run, place: dict[str, Any], stage: Stage, folder: RunFolder, team: Team, pool: Any) -> Learner:
    """`place`: what its world is made from."""
    options = settings.vlm
    torch.manual_seed(settings.seed)  # of the first weights of LoRA, which must be the same for all learners
    design = make_reward(settings.reward)
    design.for_groups()
    world = World(**place | {"reward": design}, pool=pool)
    spec = options.spec
    vlm = team.prepare(read_model(spec, folder.path / AFTER_SFT / MODEL) if stage == "grpo" and options.sft else load(spec))
    chat = vlm.chat(world.toolbox, options.plan_at_once)
    if stage == "sft":
        made = demonstrations.saved(lessons_of(settings, folder))
        return Sft(vlm, chat, made, options.sft_settings, team, settings.seed, options.effort)
    engine = None
    if options.engine == "vllm":
        engine = VllmEngine(spec, chat, options.manner, settings.horizon + 1, options.vllm_memory, settings.seed)
    return Grpo(vlm, chat, world, options.grpo, team, settings.seed, stream_of(settings.seed), options.effort, engine)


def named(stage: Stage, row: Row, number: int, seconds: float, rollouts: int) -> Row:
    if stage == "sft":
        return {"iteration": number, **{f"sft/{key}": value for key, value in row.items()}, "seconds": seconds}
    # As the light agent's log has them.
    curves = {"length": row["turns"], "distinct_sequences": row["diversity/distinct"] / rollouts}
    return {"iteration": number, **row, **curves, "seconds": seconds, "tool_calls_per_second": row["tool_calls"] / seconds}


def try_out(learner: Learner, settings: Run, validation: Validation | None, number: int, check: Callable[[], object]) -> Row:
    """All learners take part, the first one plays. `check` raises if another run has taken the folder over meanwhile."""
    team = learner.team
    weights = team.weights(learner.vlm)
    with team.whole(learner.vlm):
        if validation is None:
            return {}
        agent = agent_of(learner, settings)

        def save(place: Path) -> None:
            check()
            agent.save(place, weights)

        return validation.look(number, agent, save)


def agent_of(learner: Learner, settings: Run) -> VlmAgent:
    options = settings.vlm
    return VlmAgent(learner.vlm, learner.chat.toolbox, options.spec, options.plan_at_once, options.manner)


def keep(learner: Learner, settings: Run, stage: Stage, folder: RunFolder, number: int, finished: bool) -> None:
    """The agent as it is, then the checkpoint; all learners take part, the first one writes."""
    team = learner.team
    weights = team.weights(learner.vlm)
    if team.rank:
        learner.save(folder.path)
        return
    agent = agent_of(learner, settings)
    if stage == "sft" and finished:
        agent.save(folder.path / AFTER_SFT, weights)
    agent.save(folder.path / "agent", weights)
    folder.save_checkpoint(number, learner.save, settings.keep)
