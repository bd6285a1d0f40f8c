"""Who perceives for a training-free agent: how severe each degradation is, and which of several results is best.

`PocketEye` needs no network: pocket-clip's severities, and no-reference metrics to choose by. `ChatEye` asks a language model that
sees, as the papers do; where its answer is none, pocket-clip stands in for it, and the record says so.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from agents.training_free.perceive import LEVELS, NAMES, Perceiver, Severities, word
from agents.training_free.search import Search, State, Walk
from agents.training_free.speaking import Asked, Question, Speaker, said
from pool import Call, Model, Problem
from rewards import open_metric
from tir_env.world import World

# Weights of no-reference metrics. 4KAgent's quality is HPSv2 + (CLIPIQA+ + MANIQA + 0.01 MUSIQ + (1 - NIQE/10)) / 4. HPSv2 needs a
# description of the image and is left out, and so is the constant, as only differences count. All span about 1.
QUALITIES: dict[str, dict[str, float]] = {
    "pocket": {"pocket-deqa": 0.25},
    "perception": {"clipiqa+": 0.25, "maniqa": 0.25, "musiq": 0.0025, "niqe": 0.025},
}
LOOK = (
    "Rate how severe each degradation of this photograph is. Answer with one JSON object, its keys "
    f"{', '.join(NAMES)}, its values one of {', '.join(LEVELS)}."
)
COMPARE = "Which of the two photographs is better restored, the first (A) or the second (B)? Answer with one letter."
OBJECT = re.compile(r"\{.*\}", re.DOTALL)
# A letter is a vote where the answer begins with it or names it, or says that it is better; "A closer look" is none.
WORDS = "the|better|restored|answer|is|image|photo|photograph|picture|one|option|first|second"
VOTE = re.compile(
    rf"(?:^|\b(?i:choose|prefer|pick|better|answer)\b)\W*(?i:(?:{WORDS})\W+)*([AB])\b(?![^\S\n]+\w|[^\w\n]*[AB]\b)"
    r"|\b([AB])\b\W*\s(?i:is|looks|seems|appears)\s(?i:\w+ly\s|much\s|the\s)*(?i:better)\b"
)


class Eye(ABC):
    """Perceives a state once, however often it is looked at."""

    name: str

    def look(self, walk: Walk, state: State) -> Search[Severities]:
        if state not in walk.perceived:
            walk.perceived[state] = yield from self.perceive(walk, state)
        return walk.perceived[state]

    @abstractmethod
    def perceive(self, walk: Walk, state: State) -> Search[Severities]: ...

    @abstractmethod
    def best(self, walk: Walk, states: Sequence[State]) -> Search[State]:
        """Of one state at least."""


class PocketEye(Eye):
    name = "pocket-clip"

    def __init__(self, world: World, perceiver: Model | None = None, quality: str | Mapping[str, float] = "pocket") -> None:
        self.perceiver = perceiver or Perceiver()
        self.weights = in_pool(world, quality)
        world.pool.add(self.perceiver)

    def perceive(self, walk: Walk, state: State) -> Search[Severities]:
        walk.policy_calls += 1
        [outcome] = yield [Call(self.perceiver.name, state.image)]
        severities: Severities = outcome.unwrap()
        return severities

    def best(self, walk: Walk, states: Sequence[State]) -> Search[State]:
        if len(states) == 1:
            return states[0]
        return leading(states, (yield from self.score(walk, states)), least=-math.inf)[0] or states[0]

    def score(self, walk: Walk, states: Sequence[State]) -> Search[list[float]]:
        """NaN where a metric failed."""
        return (yield from walk.score([state.image for state in states], self.weights))


class ChatEye(Eye):
    """AgenticIR's way: DepictQA is asked for each degradation's severity in five words, and to compare two results."""

    def __init__(self, speaker: Speaker, instead: PocketEye) -> None:
        self.name, self.speaker, self.instead = speaker.name, speaker, instead

    def perceive(self, walk: Walk, state: State) -> Search[Severities]:
        walk.policy_calls += 1
        [reply] = yield [Asked(self.speaker, Question([said(LOOK, state.image)]))]
        severities = reply if isinstance(reply, Problem) else read_severities(reply)
        if isinstance(severities, Problem):
            walk.fall_back(f"{self.instead.name} perceived instead: {severities}")
            return (yield from self.instead.perceive(walk, state))
        return severities

    def best(self, walk: Walk, states: Sequence[State]) -> Search[State]:
        """The first that no later one beats."""
        leader = states[0]
        for rival in states[1:]:
            walk.policy_calls += 1
            [reply] = yield [Asked(self.speaker, Question([said(COMPARE, leader.image, rival.image)]))]
            vote = None if isinstance(reply, Problem) else read_vote(reply)
            if vote is None:
                walk.fall_back(f"{self.instead.name} compared instead: {self.speaker.name} said {str(reply)[:200]!r}")
                leader = yield from self.instead.best(walk, [leader, rival])
            elif vote == "B":
                leader = rival
        return leader


def leading(states: Sequence[State], scores: Sequence[float], least: float) -> tuple[State | None, float]:
    """The best of those that could be scored, above `least`; None and `least` if there is none."""
    known = [each for each in zip(states, scores, strict=True) if each[1] > least]  # NaN is not
    return max(known, key=lambda each: each[1], default=(None, least))


def read_severities(text: str) -> Severities | Problem:
    """From what a language model wrote around it or in it."""
    problem = Problem(f"the answer {text[:200]!r}", "does not rate each degradation in the five words", "Try another model.")
    found = OBJECT.search(text)
    try:
        told = json.loads(found[0]) if found else None
    except (ValueError, RecursionError):
        return problem
    if not isinstance(told, dict):
        return problem
    levels = {str(key).strip().lower(): str(value).strip().lower() for key, value in told.items()}
    if any(levels.get(name) not in LEVELS for name in NAMES):
        return problem
    return {name: LEVELS.index(levels[name]) / (len(LEVELS) - 1) for name in NAMES}


def read_vote(text: str) -> str | None:
    """A or B; None where a text votes for neither or for both."""
    votes = {found[1] or found[2] for found in VOTE.finditer(text[:2000])}  # its time grows with the square
    return votes.pop() if len(votes) == 1 else None


def agenda(severities: Severities, least: str = "medium") -> list[str]:
    """The degradations that are so severe or worse, the severest first."""
    wanted = [name for name in severities if LEVELS.index(word(severities[name])) >= LEVELS.index(least)]
    return sorted(wanted, key=lambda name: -severities[name])


def in_pool(world: World, quality: str | Mapping[str, float]) -> dict[str, float]:
    """Weights by the names under which the pool knows the metrics."""
    metrics = {name: open_metric(name) for name in weights_of(quality)}
    if needy := [name for name, metric in metrics.items() if metric.needs_reference]:
        reason = f"needs a clean reference, which an agent must not see: {', '.join(needy)}"
        raise Problem("the quality that results are chosen by", reason, "Use no-reference metrics, such as pocket-deqa.")
    world.pool.add(*metrics.values())
    return {metrics[name].name: weight for name, weight in weights_of(quality).items()}


def weights_of(quality: str | Mapping[str, float]) -> dict[str, float]:
    if isinstance(quality, str):
        if quality not in QUALITIES:
            reason = "is not known"
            raise Problem(f"quality {quality!r}", reason, f"Use {', '.join(QUALITIES)}, or weights by metric.")
        return QUALITIES[quality]
    if not quality or not all(math.isfinite(weight) for weight in quality.values()):
        raise Problem(
            "the quality that results are chosen by", f"has no finite weights: {dict(quality)}", "Give each a number."
        )
    return dict(quality)
