"""Stage 2: GRPO in the environment, with the advantages of a reward design (MAR, eqs. 5–9). `Grpo.step` reads top to bottom.

A step is a function of the weights, the optimizer, the reward design's state and (seed, number of the step): a run that was killed
goes on as if it had not been.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.diversity import diversity
from agents.vlm import words
from agents.vlm.chat import Chat, Dialogue
from agents.vlm.learner import Learner
from agents.vlm.lessons import Lesson, parts, read
from agents.vlm.model import Vlm
from agents.vlm.objective import clipped, ratios, token_losses, token_weights
from agents.vlm.rollout import Clock, Engine, Episode, Own, rollout
from agents.vlm.settings import Effort, GrpoSettings
from agents.vlm.team import Team
from pool import Problem
from rewards import RewardDesign, judged
from tir_env.trajectory import Trajectory
from tir_env.world import World


class Grpo(Learner):
    """`stream` is the world's, from which the starts are drawn in turn; who speaks is the model itself, or `engine`."""

    def __init__(
        self, vlm: Vlm, chat: Chat, world: World, settings: GrpoSettings, team: Team, seed: int, stream: int, effort: Effort,
        engine: Engine | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vlm, chat, team, settings.lr, settings.grad_clip, settings.decay, effort)
        if settings.prompts % team.size:
            reason = f"cannot be dealt out to {team.size} learners"
            raise Problem(f"prompts {settings.prompts}", reason, "Choose a multiple.")
        self.world, self.settings, self.seed, self.stream = world, settings, seed, stream
        self.design: RewardDesign = world.reward
        self.engine = engine or Own(vlm, chat)
        self.reference = self._reference()

    def _reference(self) -> dict[str, Tensor] | None:
        """What learns as it is before training, for the KL term."""
        if not self.settings.aim.beta:
            return None
        if self.team.sharded and self.team.size > 1:
            reason = "needs the model before training whole on every learner"
            raise Problem(f"beta {self.settings.aim.beta}", reason, "Use beta=0, or do not shard.")
        return self.vlm.snapshot()

    def step(self) -> dict[str, float]:
        clock = Clock()
        self.optimizer.zero_grad(set_to_none=True)  # rollouts want the memory
        with self.team.whole(self.vlm):
            with clock("generation"):
                self.engine.follow(self.vlm)
            groups, failures = self.play(clock)
        episodes, counts = flat(groups), self.counts(groups)
        self.observe([e for e, c in zip(episodes, counts, strict=True) if c])
        advantages = self.advantages(groups, counts)
        with clock("learning"):
            if not self.engine.exact:
                self.recall([e.dialogue for e, c in zip(episodes, counts, strict=True) if c])
            learned = self.learn([(e, a) for e, a, c in zip(episodes, advantages, counts, strict=True) if c])
        self.done += 1
        return self.figures(groups, failures, counts, clock) | learned

    # -- rollouts ------------------------------------------------------------------------------------------------------------

    def play(self, clock: Clock) -> tuple[list[list[Episode]], Counter[str]]:
        """This learner's groups. One in which too few finished is drawn again, and in the end counts for nothing."""
        size, group = self.settings.prompts // self.team.size, self.settings.rollouts
        first = self.done * self.settings.prompts + self.team.rank * size
        numbers = list(range(first, first + size))
        groups: dict[int, list[Episode]] = {}
        failures: Counter[str] = Counter()
        for attempt in range(1 + self.settings.redraws):
            waiting = [number for number in numbers if not self._enough(groups.get(number, []))]
            side_by_side = max(1, self.settings.at_once // self.team.size // group)
            for k in range(0, len(waiting), side_by_side):
                some = waiting[k : k + side_by_side]
                starts = self.world.draw_many(self.stream, some, in_turn=True)
                seed = int(np.random.SeedSequence([self.seed, some[0], attempt]).generate_state(1)[0])
                manner = self.settings.manner
                episodes = rollout(self.vlm, self.chat, self.world, starts, group, manner, seed, clock, self.engine)
                failures.update(f.kind for e in episodes for f in e.trajectory.failures)
                groups |= {number: episodes[i * group : (i + 1) * group] for i, number in enumerate(some)}
        return [groups[number] for number in numbers], failures

    def _enough(self, group: Sequence[Episode]) -> bool:
        return bool(group) and sum(e.valid for e in group) >= max(1, self.settings.finished * len(group))

    # -- reward --------------------------------------------------------------------------------------------------------------

    def observe(self, valid: Sequence[Episode]) -> None:
        """The reward design takes note of the whole batch; all learners end up with the same state."""
        starts, ends = (self.design.values([q(e) for e in valid]) for q in (quality_before, quality_after))
        self.design.advance(self.team.sum(self.design.statistics(starts, ends)))

    def counts(self, groups: Sequence[Sequence[Episode]]) -> list[bool]:
        """Of all episodes in turn, whether they teach anything."""
        return [self._enough(group) and e.valid for group in groups for e in group]

    def advantages(self, groups: Sequence[Sequence[Episode]], counts: Sequence[bool]) -> list[float]:
        """Of all episodes in turn; 0 for what does not count."""
        shape = len(groups), self.settings.rollouts
        ends = self.design.values([quality_after(e) for e in flat(groups)]).reshape(*shape, -1)
        valid = np.array(counts).reshape(shape) & np.isfinite(ends).all(axis=-1)
        returns = np.array([return_by(self.design, e.trajectory) for e in flat(groups)]).reshape(shape)
        slips = np.array([e.wrong.total() + e.cut for e in flat(groups)]).reshape(shape)
        judged = self.design.advantages(returns, ends, valid) - self.settings.slip_cost * excess(slips, valid)
        return [float(a) for a in judged.reshape(-1)]

    # -- learning ------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def recall(self, dialogues: Sequence[Dialogue]) -> None:
        """What was said gets the log-probabilities that learning sees, in place of those of whoever spoke."""
        for members in parts(dialogues, self.chat.shared, self.effort.tokens, self.effort.share):
            lesson = read(self.vlm, self.chat, dialogues, members, self.settings.manner.temperature or 1.0, self.effort.share)
            for member in members:
                logps = iter(lesson.logps[lesson.owner == member].tolist())
                for piece in dialogues[member].pieces:
                    piece.logps = [next(logps) for _ in piece.logps]

    def learn(self, judged: Sequence[tuple[Episode, float]]) -> dict[str, float]:
        settings = self.settings
        totals: dict[str, float] = {}
        for epoch in range(settings.epochs):
            order = np.random.default_rng([self.seed, 13, self.done, epoch]).permutation(settings.updates)
            for update in order:
                # Neighbours belong to a group and stay together, so that they share a row.
                ends = np.linspace(0, len(judged), settings.updates + 1).round().astype(int)
                for key, value in self.update(judged[ends[update] : ends[update + 1]]).items():
                    totals[key] = totals.get(key, 0.0) + value
        steps = settings.epochs * settings.updates
        return {key: value / steps for key, value in totals.items()}

    def update(self, judged: Sequence[tuple[Episode, float]]) -> dict[str, float]:
        """One gradient step."""
        aim, manner = self.settings.aim, self.settings.manner
        alike = merged(judged)
        dialogues = [judged[first][0].dialogue for first in alike]
        copies = torch.tensor(list(alike.values()))
        advantage = torch.tensor([judged[first][1] for first in alike], dtype=torch.float32, device=self.team.device)
        lengths = torch.tensor([d.spoken for d in dialogues])
        batch = self.team.sum({"dialogues": float(len(judged)), "tokens": float((copies * lengths).sum())})
        if not batch["dialogues"]:
            return {}
        longest = manner.turn * (self.world.horizon + manner.slips)
        weights = token_weights(lengths, aim.loss_type, int(batch["dialogues"]), int(batch["tokens"]), longest) * copies
        weight = weights.float().to(self.team.device)
        figures = dict.fromkeys(("loss", "share", "entropy", "clipped", "moved", *(["kl"] if aim.beta else [])), 0.0)

        def loss(lesson: Lesson) -> Tensor:
            logps, owner = lesson.logps, lesson.owner
            old = torch.tensor([p for m in lesson.members for p in said(dialogues[m])], device=logps.device)
            ratio = ratios(logps, old, owner, len(dialogues), aim.importance_sampling_level)
            reference = self.reference_of(dialogues, lesson) if aim.beta else None
            losses = token_losses(ratio, advantage[owner], logps, reference, aim) * weight[owner]
            with torch.no_grad():
                share = weight[owner]
                figures["loss"] += float(losses.sum())
                figures["share"] += float(share.sum())
                figures["entropy"] += float((lesson.entropies * share).sum())
                figures["clipped"] += float((clipped(ratio, advantage[owner], aim) * share).sum())
                figures["moved"] += float(((logps - old).abs() * share).sum())
                if reference is not None:
                    gap = reference - logps
                    figures["kl"] += float(((gap.exp() - gap - 1) * share).sum())
            return losses.sum()

        norm = self.gradient_step(dialogues, loss, self.settings.lr, manner.temperature or 1.0)
        told = self.team.sum(figures)
        whole = told.pop("share")  # 1, but for dr_grpo: all but the loss are means over what was said
        return {key: value if key == "loss" else value / whole for key, value in told.items()} | {"gradient": norm}

    @torch.no_grad()
    def reference_of(self, dialogues: Sequence[Dialogue], lesson: Lesson) -> Tensor:
        """Log-probabilities of the same by the model before training."""
        assert self.reference is not None
        with self.vlm.as_in(self.reference):
            temperature = self.settings.manner.temperature or 1.0
            return read(self.vlm, self.chat, dialogues, lesson.members, temperature, self.effort.share).logps

    # -- telling -------------------------------------------------------------------------------------------------------------

    def figures(
        self, groups: Sequence[Sequence[Episode]], failures: Counter[str], counts: Sequence[bool], clock: Clock
    ) -> dict[str, float]:
        """This step in numbers, over all learners; diversity is the mean of the learners'."""
        episodes = flat(groups)
        sums: dict[str, float] = {
            "tool_calls": sum(len(e.trajectory.tool_names) for e in episodes),
            "tokens": sum(e.dialogue.spoken for e in episodes),
            "failed": sum(not e.valid for e in episodes),
            "failures": sum(failures.values()),
            "learnt": sum(counts),
            **{kind: sum(e.wrong[kind] for e in episodes) for kind in words.WRONG},
        }
        means: dict[str, Sequence[float]] = {
            "reward": [return_by(self.design, e.trajectory) for e in episodes if e.valid],
            "stops": [not e.cut and e.trajectory.steps[-1].action == self.world.stop for e in episodes],
            "cut": [e.cut for e in episodes],
            "turns": [e.turns for e in episodes],
            **{f"seconds/{kind}": [clock.spent[kind]] for kind in ("generation", "tools", "learning")},
        }
        for metric in self.world.metrics:
            known = [e.trajectory for e in episodes if metric in e.trajectory.end_quality]
            means[f"quality/{metric}"] = [t.end_quality[metric].value for t in known]
            means[f"gain/{metric}"] = [t.gains()[metric] for t in known]
        plans = [[tuple(e.trajectory.tool_names) for e in group] for group in groups]
        means |= {f"diversity/{name}": [value] for name, value in diversity(plans).items()}
        total = self.team.sum({name: float(np.sum(values)) for name, values in means.items()})
        count = self.team.sum({name: float(len(values)) for name, values in means.items()})
        row = {name: value / count[name] if count[name] else float("nan") for name, value in total.items()}
        return self.team.sum(sums) | row | {f"reward_design/{key}": value for key, value in self.design.log().items()}

    # -- state ---------------------------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, float]:
        return self.design.state_dict()

    def load_extra_state(self, state: dict[str, float]) -> None:
        self.design.load_state_dict(state)


def flat(groups: Sequence[Sequence[Episode]]) -> list[Episode]:
    return [episode for group in groups for episode in group]


def return_by(design: RewardDesign, trajectory: Trajectory) -> float:
    """What a trajectory has earned, by a design whose state has moved on since the world paid it."""
    if not design.state or not all(step.valid for step in trajectory.steps):
        return trajectory.total_reward
    after = [s.quality for s in trajectory.steps if s.changed] if design.every_step else [trajectory.end_quality]
    return judged(design, [trajectory.quality, *after])


def excess(slips: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How many more wrong calls a rollout made than its group on average; 0 for what is not valid. All are [groups, rollouts].

    A wrong call leaves the image as it is, which is better than many a tool: without a cost a policy may learn to talk nonsense.
    """
    mean = np.where(valid, slips, 0).sum(axis=1, keepdims=True) / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return np.where(valid, slips - mean, 0.0)


def merged(judged: Sequence[tuple[Episode, float]]) -> dict[int, int]:
    """Rollouts that heard, said and saw the same and are judged alike are read once: the first of them, and how many they are.

    The more certain a policy is, the more of a group are alike, and the less there is to read.
    """
    first: dict[Any, int] = {}
    copies: Counter[int] = Counter()
    for index, (episode, advantage) in enumerate(judged):
        tokens = tuple(tuple(piece.ids) for piece in episode.dialogue.pieces)
        seen = (episode.trajectory.input_digest, *(step.digest for step in episode.trajectory.steps))
        copies[first.setdefault((tokens, seen, advantage), index)] += 1
    return dict(copies)


def said(dialogue: Dialogue) -> list[float]:
    """The log-probabilities of its spoken tokens when they were sampled."""
    return [p for piece in dialogue.pieces if piece.spoken for p in piece.logps]


def quality_before(episode: Episode) -> Any:
    return episode.trajectory.quality


def quality_after(episode: Episode) -> Any:
    return episode.trajectory.end_quality
