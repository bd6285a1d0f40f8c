"""For the tests of the vision-language agent: small models, and policies that say what a test wants them to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from agents.vlm import pocket, rollout, words
from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.model import Vlm, prepared
from agents.vlm.rollout import Episode
from agents.vlm.settings import Manner, VlmSpec
from tests.conftest import fake_toolbox
from tir_env.tools import Toolbox
from tir_env.trajectory import Start, Trajectory
from tir_env.world import World

BRIGHTER, DARKER, FAILS, LARGER = (
    words.call(name) for name in ("denoise/brighter", "denoise/darker", "denoise/fails", "super_resolve/larger")
)
BROKEN, UNKNOWN = "<tool_call>{</tool_call>", words.call("denoise/magic")
SIZES = {"width": 96, "layers": 2, "vision": 64, "depth": 2}


def tiny(toolbox: Toolbox | None = None, seed: int = 0, lora: int = 0, at_once: bool = False) -> tuple[Vlm, Chat]:
    """A model of half a million parameters with first weights, and its chat about a toolbox."""
    toolbox = toolbox or fake_toolbox()
    torch.manual_seed(seed)
    vlm = prepared(*pocket.build(pocket.texts([toolbox]), **SIZES), VlmSpec(lora=lora))
    return vlm, vlm.chat(toolbox, at_once)


class Script:
    """Forces what each episode says in each turn, `done` when it has nothing left; the log-probabilities are the model's own."""

    def __init__(self, chat: Chat, lines: Sequence[Sequence[str]]) -> None:
        self.lines = [[chat.say(line).ids for line in (*each, *[words.DONE] * 9)] for each in lines]
        self.going = list(range(len(lines)))
        self.turn = -1
        self.speak, self.act = rollout.speak, rollout._act

    def play_with(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(rollout, "speak", self.start_turn)
        patch.setattr(rollout, "_act", self.hear)

    def start_turn(self, *arguments: Any) -> list[Piece]:
        self.turn += 1
        return self.speak(*arguments, told=[self.lines[episode][self.turn] for episode in self.going])

    def hear(self, *arguments: Any) -> list[Piece | None]:
        answers = self.act(*arguments)
        self.going = [episode for episode, answer in zip(self.going, answers, strict=True) if answer is not None]
        return answers


def scripted(
    vlm: Vlm, chat: Chat, world: World, starts: Sequence[Start], lines: Sequence[Sequence[str]], manner: Manner | None = None
) -> list[Episode]:
    """Episodes in which the policy says `lines[episode][turn]`."""
    with pytest.MonkeyPatch.context() as patch:
        Script(chat, lines).play_with(patch)
        return rollout.rollout(vlm, chat, world, starts, len(lines) // len(starts), manner or Manner(), 0)


def said_logps(dialogues: Sequence[Dialogue]) -> torch.Tensor:
    return torch.tensor([p for d in dialogues for piece in d.pieces if piece.spoken for p in piece.logps])


def pieces_of(dialogue: Dialogue) -> list[Piece]:
    return [dialogue.prefix, *dialogue.pieces]


def ids_of(dialogue: Dialogue) -> list[int]:
    return [i for piece in pieces_of(dialogue) for i in piece.ids]


def text_of(chat: Chat, piece: Piece) -> str:
    return str(chat.tokenizer.decode(piece.ids))


# -- demonstrations that can be learnt by heart ------------------------------------------------------------------------------------

PLANS = {
    "noise": ("denoise/darker", "super_resolve/larger"),
    "stripes": ("super_resolve/larger", "denoise/darker", "denoise/brighter"),
    "black": (),
    "white": (),
}


def begun(world: World) -> list[Trajectory]:
    """Four pictures that a small model soon tells apart."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    stripes = np.repeat(np.array([0, 255] * 4, np.uint8), 4)[None, :, None].repeat(32, 0).repeat(3, 2)
    black = np.zeros_like(noise)
    pictures = dict(zip(PLANS, (noise, stripes, black, 255 - black), strict=True))
    return [world.enter(picture, name, picture) for name, picture in pictures.items()]


def demonstrations(world: World) -> list[Trajectory]:
    """To each picture its plan."""
    made = begun(world)
    for trajectory in made:
        actions = [world.toolbox.index(tool) for tool in PLANS[trajectory.start.image]]
        for action in [*actions, world.stop][: world.horizon]:
            world.step([trajectory], [action])
    return made
