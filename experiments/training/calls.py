"""Dialogues that teach a small model to call what it sees, before it meets a single real tool.

What is wrong with a picture is called task by task, in any order, until nothing is left. Every call works perfectly: the next picture
is the photograph spoilt by what remains. So the model learns the form of a call, to read a schema and to look again; which model of a
task is better, which order, and what a real tool does to a picture, it cannot learn here, since all of that is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue
from agents.vlm.model import Vlm
from agents.vlm.sft import slip
from experiments.training.captions import DEGRADATIONS, severities
from experiments.training.encoder import draw_case
from experiments.training.pictures import Pictures
from tir_env.degradations.suites import degrade, replay
from tir_env.images.operations import Image
from tir_env.tools import Tool, Toolbox
from tir_env.tools.tool import MADE_FOR

WHOLE = 0.75  # how often the schema is that of a toolbox that ships, and not one made up of parts of all
SEEN = 0.125  # severity from which on a degradation is called: halfway to "slight"
SLIPS = 0.1
TASK_FOR = {degradation: task for task, degradation in MADE_FOR.items() if degradation in DEGRADATIONS}


@dataclass
class Imagined:
    """What is called in turn, and the pictures before the first call and after each."""

    removed: list[str]  # degradations
    images: list[Image]


def imagine(rng: np.random.Generator, pictures: Pictures) -> Imagined:
    case = draw_case(rng)
    low = "low resolution" in case.degradations
    sides, chances = ((32, 48, 64), (0.5, 0.3, 0.2)) if low else ((32, 48, 64, 96, 128), (0.1, 0.15, 0.45, 0.15, 0.15))
    side = int(rng.choice(sides, p=chances))
    photo = pictures.draw(rng, 4 * side if low else max(side, int(rng.choice([96, 128, 160]))), 0.75)
    record = degrade(photo, case, int(rng.integers(2**32))).record
    corner = rng.random(2)
    there = severities(record)
    removed = [name for name, value in zip(DEGRADATIONS, there, strict=True) if value >= SEEN]
    rng.shuffle(removed)
    images = []
    for count in range(len(removed) + 1):
        left = [entry for entry in record if entry["degradation"] not in removed[:count]]
        image = replay(photo, left)
        images.append(image if low else _cut(image, side, corner))
    return Imagined(removed, images)


def _cut(image: Image, side: int, corner: np.ndarray) -> Image:
    top, left = (corner * (np.array(image.shape[:2]) - side + 1)).astype(int)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


class Teller:
    """Tells imagined dialogues to a model."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.whole = vlm.chat(Toolbox.load("pocket"))

    @cached_property
    def tools(self) -> list[Tool]:
        """All that are for something the pictures show."""
        found = {tool.name: tool for name in ("pocket", "full") for tool in Toolbox.load(name)}
        return [tool for tool in found.values() if MADE_FOR[tool.task] in DEGRADATIONS]

    def chat(self, rng: np.random.Generator) -> Chat:
        """A schema for a batch: of any tasks in any order, each with some of its models, but never without one."""
        if rng.random() < WHOLE:
            return self.whole
        chosen = []
        for task in rng.permutation(list(TASK_FOR.values())):
            models = [tool for tool in self.tools if tool.task == task]
            count = int(rng.integers(1, min(len(models), 5) + 1))
            chosen += [models[k] for k in rng.permutation(len(models))[:count]]
        return self.vlm.chat(Toolbox("imagined", chosen))

    def dialogue(self, chat: Chat, imagined: Imagined, rng: np.random.Generator) -> Dialogue:
        dialogue = Dialogue(chat.opening(imagined.images[0]))
        used: list[int] = []
        for name, image in zip(imagined.removed, imagined.images[1:], strict=True):
            tools = [tool.name for tool in chat.toolbox if tool.task == TASK_FOR[name]]
            tool = tools[int(rng.integers(len(tools)))]
            if rng.random() < SLIPS:
                dialogue.pieces += slip(chat, tool, used, rng)
            used.append(chat.toolbox.index(tool))
            dialogue.pieces += [chat.say(words.call(tool)), chat.look(image)]
        dialogue.pieces.append(chat.say(words.DONE))
        return dialogue
