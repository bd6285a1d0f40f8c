"""Stage 1: supervised fine-tuning on demonstrations. Several turns, several images, loss on the policy's own words only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue, Piece
from agents.vlm.learner import Learner
from agents.vlm.lessons import Lesson
from agents.vlm.model import Vlm
from agents.vlm.settings import Effort, SftSettings
from agents.vlm.team import Team
from pool import Problem
from tir_env.trajectory import STOP, Trajectory


def dialogue_of(
    chat: Chat, trajectory: Trajectory, ended: bool = True, slips: float = 0.0, rng: np.random.Generator | None = None
) -> Dialogue:
    """What policy and environment would have said in a trajectory, step by step. With `ended` the policy has the last word.

    With probability `slips` something wrong was said before a call, and answered: it is read, not learnt, and what is learnt is to go
    on as if nothing had happened.
    """
    start = trajectory.input
    assert start is not None, "a trajectory with its images"
    dialogue = Dialogue(chat.opening(start))
    calls = [step for step in trajectory.steps if step.tool != STOP]
    if chat.at_once:
        dialogue.pieces.append(chat.say(words.plan([step.tool for step in calls])))
        return dialogue
    for number, step in enumerate(calls, start=1):
        assert step.image is not None, "a trajectory with its images"
        if rng is not None and rng.random() < slips:
            dialogue.pieces += slip(chat, step.tool, [before.action for before in calls[: number - 1]], rng)
        dialogue.pieces.append(chat.say(words.call(step.tool)))
        # After the last step that the horizon allows nothing more is heard.
        if number < len(calls) or trajectory.steps[-1].tool == STOP or not ended:
            dialogue.pieces.append(chat.look(step.image))
    if ended and trajectory.steps[-1].tool == STOP:
        dialogue.pieces.append(chat.say(words.DONE))
    return dialogue


def slip(chat: Chat, tool: str, used: list[int], rng: np.random.Generator) -> list[Piece]:
    """A call that is cut short, of a tool that does not exist, or of one that ran already; and the answer to it."""
    text = words.call(tool)
    names = [each.name for each in chat.toolbox]
    candidates = [text[: int(rng.integers(len("<tool_call>"), len(text) - 1))]]
    task, other = tool.partition("/")[0], names[int(rng.integers(len(names)))].partition("/")[2]
    candidates += [words.call(f"{task}/{other}")] if f"{task}/{other}" not in names else []
    candidates += [words.call(names[used[int(rng.integers(len(used)))]])] if used else []
    wrong = candidates[int(rng.integers(len(candidates)))]
    said = chat.say(wrong)
    return [Piece(said.ids), chat.tell(words.parse(wrong, chat.toolbox, used)[0].answer)]


class Sft(Learner):
    """Demonstrations in an order that follows from the seed, each once in an epoch."""

    def __init__(
        self, vlm: Vlm, chat: Chat, demonstrations: Sequence[Trajectory], settings: SftSettings, team: Team, seed: int,
        effort: Effort,
    ) -> None:  # fmt: skip
        super().__init__(vlm, chat, team, settings.lr, settings.grad_clip, settings.decay, effort)
        if not demonstrations:
            raise Problem("SFT", "has no demonstrations to learn from", "Make some, or leave it out with --no-sft.")
        self.demonstrations, self.settings, self.seed = demonstrations, settings, seed
        self.steps = settings.steps(len(demonstrations))

    def batch(self, number: int) -> list[int]:
        """Which demonstrations the `number`-th step learns from, over all learners."""
        count, size = len(self.demonstrations), self.settings.batch
        out = []
        for place in range(number * size, (number + 1) * size):
            epoch, at = divmod(place, count)
            out.append(int(np.random.default_rng([self.seed, 11, epoch]).permutation(count)[at]))
        return out

    def dialogue(self, index: int) -> Dialogue:
        """Of a demonstration, the same every time; made when it is needed, since a stage's images may not fit into memory."""
        rng = np.random.default_rng([self.seed, 17, index])
        return dialogue_of(self.chat, self.demonstrations[index], True, self.settings.slips, rng)

    def step(self) -> dict[str, float]:
        mine = [self.dialogue(index) for index in self.batch(self.done)[self.team.rank :: self.team.size]]
        tokens = self.team.sum({"tokens": sum(dialogue.spoken for dialogue in mine)})["tokens"]
        figures = {"loss": 0.0, "right": 0.0}

        def loss(lesson: Lesson) -> Tensor:
            figures["loss"] -= float(lesson.logps.detach().sum()) / tokens
            figures["right"] += float((lesson.logps.detach() > math.log(0.5)).sum()) / tokens  # surely the likeliest
            return -lesson.logps.sum() / tokens

        lr = self.settings.lr_at(self.done / self.steps)
        norm = self.gradient_step(mine, loss, lr)
        self.done += 1
        return {**self.team.sum(figures), "gradient": norm, "lr": lr}
