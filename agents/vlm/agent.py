"""The trained agent at work: greedy, one dialogue for each image, its memory kept from turn to turn. Saved as a folder."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from agents.agent import Observations
from agents.vlm.chat import Dialogue, Piece
from agents.vlm.context import Context
from agents.vlm.model import Sight, Vlm, VlmError, gpu_or_cpu, load, quietly
from agents.vlm.rollout import Clock, Episode, Own, asked, check_room, play, speak
from agents.vlm.settings import Manner, VlmSpec
from agents.vlm.sft import dialogue_of
from pool import Model, Problem
from tir_env.files import write_aside
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

JSON, MODEL = "agent.json", "model"
KIND = "vlm"


class VlmAgent:
    """Looks at the image, calls one tool, looks at the result, and goes on."""

    name = KIND
    encoder: Model | None = None

    def __init__(self, vlm: Vlm, toolbox: Toolbox, spec: VlmSpec, at_once: bool = False, manner: Manner | None = None) -> None:
        self.vlm, self.spec, self.at_once = vlm.eval(), spec, at_once
        self.toolbox = toolbox
        self.chat = vlm.chat(toolbox, at_once)
        self.engine = Own(vlm, self.chat, lasting=True)
        self.manner = replace(manner or Manner(), temperature=0.0)
        self.seed = self.batches = 0

    def sampling(self, seed: int, temperature: float = 1.0) -> VlmAgent:
        """The same agent, drawing its words in place of taking the likeliest."""
        drawing = copy.copy(self)
        drawing.manner, drawing.seed, drawing.batches = replace(self.manner, temperature=temperature), seed, 0
        drawing.engine = copy.copy(self.engine)
        return drawing

    def finish(self, world: World, trajectories: Sequence[Trajectory]) -> None:
        """Play trajectories that have begun to their end, all side by side."""
        episodes = [Episode(t, Dialogue(self.chat.opening(t.image))) for t in trajectories if not t.ended]
        if any(episode.trajectory.steps for episode in episodes):
            raise VlmError("a trajectory", "was begun by another agent", "Give it to the agent that began it.")
        if episodes:
            seed = int(np.random.SeedSequence([self.seed, self.batches]).generate_state(1)[0])  # other words in every batch
            play(self.vlm, self.chat, world, episodes, 1, self.manner, seed, Clock(), self.engine)
            self.batches += 1
        for episode in episodes:
            self._note(episode)

    def _note(self, episode: Episode) -> None:
        """In each step what was said since the one before: also what was wrong, and was answered in words."""
        said = iter(episode.dialogue.pieces[::2])  # a turn, what it got to hear, a turn ...
        for step in episode.trajectory.steps:
            turns = itertools.islice(said, step.notes["policy_calls"])
            step.notes["said"] = [self.chat.text_of(piece.ids) for piece in turns]
        if episode.cut:
            episode.trajectory.steps[-1].notes["cut"] = True

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        """The next action of each: what was said so far is read anew. What is wrong, or has no room, counts as stop."""
        dialogues = [self._so_far(trajectory) for trajectory in trajectories]
        for dialogue in dialogues:
            check_room(Dialogue(dialogue.prefix), self.manner)
        with torch.inference_mode():
            context = Context(self.vlm)
            context.branch([0] * len(dialogues))
            images = [[i for piece in (d.prefix, *d.pieces) for i in piece.images] for d in dialogues]
            ids = [[i for piece in (d.prefix, *d.pieces) for i in piece.ids] for d in dialogues]
            logits = context.read(ids, images, Sight(self.vlm, self.chat, [image for seen in images for image in seen]))
            taken = max((len(trajectory.steps) for trajectory in trajectories), default=0)
            rng = torch.Generator(self.vlm.device).manual_seed(
                int(np.random.SeedSequence([self.seed, taken]).generate_state(1)[0])
            )
            said = speak(context, self.chat, logits, self.manner, rng, [self.manner.turn] * len(dialogues))
        masks, room = observations["mask"], [len(d) + self.manner.turn <= self.manner.tokens for d in dialogues]
        rows = zip(said, trajectories, masks, room, strict=True)
        return np.array([self._action(p, t, m) if fits else len(self.toolbox) for p, t, m, fits in rows])

    def _so_far(self, trajectory: Trajectory) -> Dialogue:
        """A plan made at once is made anew in every step: it follows from the first image."""
        if not self.at_once:
            return dialogue_of(self.chat, trajectory, ended=False)
        assert trajectory.input is not None, "a trajectory with its images"
        return Dialogue(self.chat.opening(trajectory.input))

    def _action(self, piece: Piece, trajectory: Trajectory, mask: np.ndarray) -> int:
        used = () if self.at_once else trajectory.used
        requests = asked(self.chat, piece, used, [1] * len(mask) if self.at_once else mask.tolist())
        step = len(trajectory.steps) if self.at_once else 0
        return requests[step].action if step < len(requests) and requests[step].kind == "call" else len(self.toolbox)

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Model and processor as transformers saves them (with LoRA the adapter alone), then the JSON file that describes them.

        `weights`: `Team.weights`, where the model itself does not hold all of them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_model(self.vlm, folder / MODEL, weights)
        data = {
            "kind": KIND, "spec": asdict(self.spec), "plan_at_once": self.at_once, "manner": asdict(self.manner),
            "tools": [tool.name for tool in self.toolbox],
        }  # fmt: skip
        write_aside(
            folder / JSON, lambda path: path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8"), lasting=True
        )

    @classmethod
    def load(cls, folder: Path, toolbox: Toolbox, base: str | None = None) -> VlmAgent:
        """Ready to play, on the GPU if there is one. `base`: where the model that an adapter belongs to is, if not where it was."""
        try:
            data: dict[str, Any] = json.loads((folder / JSON).read_text(encoding="utf-8"))
            spec = TypeAdapter(VlmSpec).validate_python(vars(VlmSpec(**data["spec"])))
            manner = TypeAdapter(Manner).validate_python(vars(Manner(**data["manner"])))
            tools, at_once = [str(tool) for tool in data["tools"]], bool(data["plan_at_once"])
            if min(spec.lora, manner.slips) < 0 or min(manner.turn, manner.tokens) < 1:
                raise ValueError("a number below any that it can have")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"holds no agent that can be read: {type(error).__name__}: {error}"
            raise VlmError(folder, reason, "Name the folder of a run, or the agent/ folder in it.") from error
        spec = replace(spec, name=base or spec.name)
        if tools != [tool.name for tool in toolbox]:
            other = sorted(set(tools) ^ {tool.name for tool in toolbox})
            reason = f"was trained with other tools than toolbox {toolbox.name!r} has"
            reason += f": {', '.join(other[:4])}" if other else ", in another order"
            raise Problem("this agent", reason, "Give the toolbox that it was trained with, or train one with this toolbox.")
        return cls(read_model(spec, folder / MODEL).to(gpu_or_cpu()), toolbox, spec, at_once, manner)


def write_model(vlm: Vlm, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    def write(new: Path) -> None:
        with quietly():
            (vlm.adapter[0] or vlm.model).save_pretrained(new, state_dict=weights)
            vlm.processor.save_pretrained(new)

    write_aside(folder, write, lasting=True)


def read_model(spec: VlmSpec, folder: Path) -> Vlm:
    """What `write_model` wrote."""
    if not spec.lora:
        return load(replace(spec, name=str(folder)))
    vlm = load(spec)
    try:
        vlm.adapter[0].load_adapter(str(folder), "default", is_trainable=True)
    except Exception as error:  # peft and the file system raise all sorts
        raise VlmError(
            folder, f"holds no adapter that can be read: {type(error).__name__}: {error}", "Train it again."
        ) from error
    return vlm
