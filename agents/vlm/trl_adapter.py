"""TRL's `GRPOTrainer` trains in this world: its environments, its rewards, its dataset, and the arguments that they need.

    world = World(reward="sum:psnr=1,ssim=10")
    GRPOTrainer(
        model, processing_class=processor, train_dataset=dataset(world, 64), reward_funcs=metric_rewards(world),
        environment_factory=restoration_environments(world), args=GRPOConfig(**arguments(world, processor), ...),
    )

This module imports without TRL. `experiments/examples/train_with_trl.py` runs it; our own learner is `agents/vlm/grpo.py`.

**What TRL does not allow** (1.16):

- Tools run one rollout after another, asynchronous ones, too: a pool of many workers is never asked for more than one at a time.
- An environment cannot end an episode. After the horizon a call is answered in words and does nothing; the policy has to stop, or
  `max_tool_calling_iterations` runs out.
- It parses calls itself: a malformed one ends the episode as an answer would, and one of an unknown function or without `model` is
  answered in its words. All calls of a message run, where ours asks for one at a time.
- It lists functions in alphabetical order and wants a description of each argument, so the prompt is not token for token ours:
  `chat` makes ours like it, for supervised learning before and for evaluation after.
- A tool's images count towards `max_completion_length`: leave room for them, or TRL drops the answer after the tool has run.
- It does not checkpoint the state of a reward design that adapts: save `world.reward.state_dict()` beside its checkpoints.
- `multi_objective_aggregation="normalize_then_sum"` is near to MAR without weights, not equal: TRL whitens over the batch afterwards.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image as Pillow
from transformers.utils import get_json_schema

from agents.vlm import words
from agents.vlm.chat import Chat
from agents.vlm.grpo import return_by
from pool import Problem
from tir_env.env import make_world
from tir_env.images.operations import Image, digest
from tir_env.trajectory import Trajectory
from tir_env.world import World

OVER = f"The episode is over. Answer {words.DONE}."
Content = list[dict[str, Any]]
Reward = Callable[..., list[float | None]]


# -- environments --------------------------------------------------------------------------------------------------------------


class Restoration:
    """One rollout at a time. A subclass has a world, and a method for each task of its toolbox.

    TRL takes every public method but `reset` for a tool, so there are no others.
    """

    world: ClassVar[World]
    trajectory: Trajectory

    def reset(self, start: int | None = None, seed: int = 0, image: Any = None, **row: Any) -> Content | None:
        """Begin the `start`-th episode of the stream `seed`: a row of `dataset`, or one like it.

        Returns the image, which TRL puts after the user's words; or None where the row has it, for then TRL puts it before them.
        """
        if start is None:
            raise Problem("a row of the dataset", "has no column `start`", "Make the dataset with trl_adapter.dataset().")
        [self.trajectory] = self.world.open([(seed, start)])
        if image is None:
            return _look(self.trajectory.image)
        if digest(np.asarray(image)) != self.trajectory.input_digest:
            reason = "has another image than the world begins with"
            raise Problem(f"row {start} of the dataset", reason, "Make the dataset from the world that is trained in.")
        return None

    def _call(self, task: str, model: str) -> Content | str:
        """The image that the tool made (the same one if it failed), or the words that refuse the call."""
        trajectory = self.trajectory
        if trajectory.ended:
            return OVER
        said, mask = words.call(f"{task}/{model}"), self.world.mask(trajectory).tolist()
        request = words.parse(said, self.world.toolbox, trajectory.used, mask)[0]
        if request.kind != "call":
            return request.answer
        self.world.step([trajectory], [request.action])
        return _look(trajectory.image)


def restoration_environments(world: World | None = None, **settings: Any) -> type[Restoration]:
    """For `environment_factory`: a class of environments that share a world, its `world`. `settings` are `World`'s."""
    world = world or make_world(settings)
    functions = [tool["function"] for tool in words.schema(world.toolbox)]
    return type("Restoration", (Restoration,), {"world": world, **{f["name"]: _method(**f) for f in functions}})


def _method(name: str, description: str, parameters: dict[str, Any]) -> Callable[..., Content | str]:
    """A tool as transformers reads it: name, docstring and annotations give back the schema of `words`."""

    def call(self: Restoration, model: str) -> Content | str:
        return self._call(name, model)

    choices = json.dumps(parameters["properties"]["model"]["enum"])
    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"{description}\n\nArgs:\n    model: Which tool does it. (choices: {choices})"
    call.__annotations__ = {"model": str}  # an annotated result would become part of the schema
    return call


def _look(image: Image) -> Content:
    return [{"type": "image", "image": Pillow.fromarray(image)}]


# -- rewards -------------------------------------------------------------------------------------------------------------------


def metric_rewards(world: World) -> list[Reward]:
    """For `reward_funcs`: the final value of each metric of the world's reward design, higher is better, under the metric's name.

    All of them answer None for an episode in which a tool or a metric failed: TRL then warns and gives it no advantage. A reward
    function of yours beside them must do so, too, else such an episode counts with yours alone.
    """
    return [_metric_reward(world, metric) for metric in world.reward.metrics]


def _metric_reward(world: World, metric: str) -> Reward:
    def reward(environments: Sequence[Any], **_: Any) -> list[float | None]:
        return [None if t is None else float(t.end_quality[metric].value) for t in finished(world, environments)]

    reward.__name__ = metric
    return reward


def design_reward(world: World) -> Reward:
    """For `reward_funcs`: the return of the world's reward design, under its name; None for a failed episode.

    A design that adapts takes note of every batch that it is asked about: of this process alone, and of evaluations, too.
    """

    def reward(environments: Sequence[Any], **_: Any) -> list[float | None]:
        trajectories = finished(world, environments)
        valid = [t for t in trajectories if t is not None]
        design = world.reward
        design.observe(design.values([t.quality for t in valid]), design.values([t.end_quality for t in valid]))
        return [None if t is None else return_by(design, t) for t in trajectories]

    reward.__name__ = world.reward.name
    return reward


def finished(world: World, environments: Sequence[Any]) -> list[Trajectory | None]:
    """Their trajectories, all stopped at once that still went on; None for failed ones, and for environments of another world."""
    trajectories = [e.trajectory if getattr(e, "world", None) is world else None for e in environments]
    going = [t for t in trajectories if t is not None and not t.ended]
    world.step(going, [world.stop] * len(going))
    return [t if t is not None and _valid(world, t) else None for t in trajectories]


def _valid(world: World, trajectory: Trajectory) -> bool:
    scored = np.isfinite(world.reward.values([trajectory.end_quality])).all()
    return bool(scored) and all(step.valid for step in trajectory.steps)


# -- data and settings ---------------------------------------------------------------------------------------------------------


def dataset(world: World, count: int, seed: int = 0) -> Any:
    """For `train_dataset`: a `datasets.Dataset` of the first `count` starts of the stream `seed`, with prompt and image of each."""
    if count < 1:
        raise Problem("count", f"must be at least 1, not {count}", "Give the number of starts.")
    begun = world.open([(seed, start) for start in range(count)])
    prompt = [{"role": "system", "content": words.SYSTEM}, {"role": "user", "content": words.ASK}]
    images = [Pillow.fromarray(trajectory.image) for trajectory in begun]
    columns = {"prompt": [prompt] * count, "image": images, "seed": [seed] * count, "start": list(range(count))}
    return needed("datasets").Dataset.from_dict(columns)


def chat(world: World, processor: Any) -> Chat:
    """Our dialogues, opened as TRL opens its own."""
    made = Chat(processor, world.toolbox)
    environments = restoration_environments(world)
    tasks = sorted(tool["function"]["name"] for tool in made.tools)
    made.tools = [get_json_schema(getattr(environments, task)) for task in tasks]
    return made


def arguments(world: World, processor: Any, slips: int = 2) -> dict[str, Any]:
    """For `GRPOConfig`: as many turns as our own rollout allows, and no sampled token that stands for an image (one would end the run).

    vLLM does not know `suppress_tokens`: with it, replace `generation_kwargs` by a `logit_bias` of -100 for the same tokens.
    """
    silent = Chat(processor, world.toolbox).silent
    return {"max_tool_calling_iterations": world.horizon + slips, "generation_kwargs": {"suppress_tokens": silent}}


def needed(name: str) -> Any:
    """The package, or an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Problem(name, f"cannot be imported: {error}", "pip install 'tir-env[trl]'") from error
