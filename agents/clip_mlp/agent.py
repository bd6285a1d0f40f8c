"""The trained agent at work: encoder in the pool, argmax of the actor, no Ray and no RLlib. Saved as a folder of two files."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.agent import Observations
from agents.clip_mlp.network import Actor, Shape
from agents.encoder import POCKET as POCKET_CLIP
from agents.encoder import Encoder
from agents.levels import POCKET as POCKET_LEVELS
from agents.levels import Levels
from agents.statistics import Statistics
from pool import Model, Problem
from pool.plugins import made
from tir_env.files import write_aside
from tir_env.tools import Toolbox
from tir_env.trajectory import STOP, Trajectory

JSON, WEIGHTS = "agent.json", "actor.safetensors"
MOST = 1_000_000  # decisions in an episode
STATED = 5  # of the likeliest actions, in a step's notes


class AgentError(Problem):
    """An agent that cannot be loaded, or not used with this toolbox."""


@dataclass(frozen=True)
class EncoderSpec:
    """Which frozen encoder: `pocket-clip`, `pocket-levels`, `statistics`, a name of open_clip's with its `pretrained` tag or file, or
    your own as `module:Class`."""

    model: str = "pocket-clip"
    pretrained: str = ""

    @property
    def by_tag(self) -> bool:
        """Whether `pretrained` says which weights: of open_clip's models by name alone. All others have their own."""
        return self.model not in ("statistics", POCKET_LEVELS, POCKET_CLIP) and ":" not in self.model

    @property
    def identity(self) -> str:
        """The same wherever its files lie."""
        kind, _, place = self.model.partition(":")
        model = f"{kind}:{Path(place).name}" if kind == "local-dir" else self.model
        return f"{model} {Path(self.pretrained).name}".strip()

    def open(self) -> Model:
        if self.model in ("statistics", POCKET_LEVELS):
            if self.pretrained:
                raise AgentError(f"encoder {self.model!r}", "has its own weights", "Leave --pretrained out.")
            return Statistics() if self.model == "statistics" else Levels()
        kind, _, rest = self.model.partition(":")
        if not rest or kind in ("hf-hub", "local-dir"):  # these two are open_clip's
            return Encoder(self.model, self.pretrained)
        encoder: Model = made("encoder", self.model, Model, error=AgentError)
        if not isinstance(getattr(encoder, "dim", None), int):
            reason = "is not a pool.Model with a whole number `dim`"
            raise AgentError(f"encoder {self.model!r}", reason, "See agents/encoder.py for one.")
        return encoder


class ClipMlpAgent:
    """What PPO or GRPO trained. One policy execution a step, deterministic: no reflection, no rollback, no search.

    It notes how likely its best few actions were.
    """

    temperature = 1.0  # of `sampling`

    def __init__(self, actor: Actor, encoder: Model, tools: Sequence[str], spec: EncoderSpec | None = None) -> None:
        self.actor, self.tools, self.spec = actor.eval(), tuple(tools), spec or EncoderSpec()
        self.encoder: Model | None = encoder
        self.name = "clip_mlp"
        self.rng: np.random.Generator | None = None
        self.chances = np.zeros((0, len(self.tools) + 1), np.float32)  # of the last `act`

    def sampling(self, seed: int, temperature: float = 1.0) -> ClipMlpAgent:
        """The same agent, drawing its actions in place of taking the likeliest."""
        drawing = copy.copy(self)
        drawing.rng, drawing.temperature = np.random.default_rng(seed), temperature
        return drawing

    def act(self, observations: Observations, trajectories: Sequence[Trajectory]) -> np.ndarray:
        chances = self.chances = self.probabilities(observations)
        if self.rng is None:
            return chances.argmax(axis=1)
        noise = self.rng.gumbel(size=chances.shape)
        drawn = np.log(chances + 1e-30) / self.temperature + noise
        return np.where(observations["mask"], drawn, -np.inf).argmax(axis=1)

    def notes(self) -> list[dict[str, Any]]:
        """Of each row of the last `act` the likeliest actions by name, likeliest first."""
        names = (*self.tools, STOP)
        best = np.argsort(-self.chances, axis=1, kind="stable")[:, :STATED]
        rows = zip(self.chances, best, strict=True)
        return [{"probabilities": {names[i]: round(float(row[i]), 4) for i in order if row[i] > 0}} for row, order in rows]

    def probabilities(self, observations: Observations) -> np.ndarray:
        """[batch, tools + 1]"""
        with torch.inference_mode():
            logits = self.actor({key: torch.as_tensor(value) for key, value in observations.items()})
            return torch.softmax(logits, dim=-1).numpy()

    def check_toolbox(self, toolbox: Toolbox) -> None:
        """An action is an index into the toolbox it was trained with."""
        names = tuple(tool.name for tool in toolbox)
        if names != self.tools:
            other = sorted(set(names) ^ set(self.tools))
            reason = f"was trained with other tools than toolbox {toolbox.name!r} has"
            reason += f": {', '.join(other[:4])}" if other else ", in another order"
            raise AgentError("this agent", reason, "Give the toolbox that it was trained with, or train one with this toolbox.")

    def save(self, folder: Path) -> None:
        """Both files are replaced whole; the weights go first, so that a JSON file never describes weights that are not there."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {"shape": asdict(self.actor.shape), "encoder": asdict(self.spec), "tools": self.tools}
        text = json.dumps(data, indent=1) + "\n"
        write_aside(folder / WEIGHTS, lambda path: save_file(self.actor.state_dict(), path), lasting=True)
        write_aside(folder / JSON, lambda path: path.write_text(text, encoding="utf-8"), lasting=True)

    @classmethod
    def load(cls, folder: Path, encoder: Model | None = None) -> ClipMlpAgent:
        """Read what `save` wrote; `encoder` takes the place of the one that it names."""
        try:
            data: dict[str, Any] = json.loads((folder / JSON).read_text(encoding="utf-8"))
            with torch.device("meta"):  # whatever sizes the JSON file claims: memory is taken for the weights that are there
                actor = Actor(shape := TypeAdapter(Shape).validate_python(data["shape"]))
            if not 1 <= shape.horizon <= MOST:
                raise ValueError(f"a horizon of {shape.horizon}")
            actor.load_state_dict(load_file(folder / WEIGHTS), assign=True)
            spec = TypeAdapter(EncoderSpec).validate_python(data["encoder"])
            tools = [str(tool) for tool in data["tools"]]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError, SafetensorError) as error:
            reason = f"holds no agent that can be read: {type(error).__name__}: {error}"
            raise AgentError(folder, reason, "Name the folder of a run, or the agent/ folder in it.") from error
        opened = encoder or spec.open()
        built, given = (actor.shape.features, actor.shape.tools), (getattr(opened, "dim", None), len(tools))
        if built != given:
            reason = f"was built for {built[0]} features and {built[1]} tools, and names {given[0]} and {given[1]}"
            raise AgentError(folder, reason, "It was changed by hand: restore it, or train it again.")
        return cls(actor, opened, tools, spec)
