"""AgenticIR's experience: which orders of tasks left which degradations behind, learnt by trying all of them on training images.

Raw: for each set of tasks and each of its orders, how often it was tried and how often each degradation survived. Distilled: for each
pair of tasks, the share of degradations that survived where the one came before the other. Both are one JSON file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from agents.training_free.eyes import Eye, agenda
from agents.training_free.search import Search, State, Walk, side_by_side
from pool import Problem
from tir_env.files import write_aside
from tir_env.trajectory import Start
from tir_env.world import World

POCKET = Path(__file__).parent.parent / "weights" / "experience" / "pocket.json"
THEN = ">"


class Record(BaseModel):
    """Of one order: how often it was tried, and how often each degradation was still medium or worse at the end."""

    model_config = ConfigDict(extra="forbid")

    tried: int = Field(ge=1)
    survived: dict[str, NonNegativeInt] = {}

    @property
    def rate(self) -> float:
        """Degradations left for each try."""
        return sum(self.survived.values()) / self.tried


class Experience(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    toolbox: str
    perceiver: str
    made_from: str
    raw: dict[str, dict[str, Record]] = {}  # "dejpeg+denoise" to "denoise>dejpeg" to what became of it

    @property
    def distilled(self) -> dict[str, float]:
        """ "denoise>dejpeg": the share of degradations that survived where denoising came first, over all sets with both."""
        left: dict[str, list[float]] = {}
        for orders in self.raw.values():
            for order, record in orders.items():
                tasks = order.split(THEN)
                for first, later in combinations(tasks, 2):
                    left.setdefault(first + THEN + later, []).append(record.rate / len(tasks))
        return {pair: sum(rates) / len(rates) for pair, rates in left.items()}

    def cost(self, order: Sequence[str], pairs: dict[str, float]) -> float:
        """What share of its degradations an order is expected to leave: that which it left, if it was tried; else by the distilled
        `pairs`."""
        orders = self.raw.get("+".join(sorted(order)), {})
        if record := orders.get(THEN.join(order)):
            return record.rate / len(order)
        known = [pairs[pair] for pair in map(THEN.join, combinations(order, 2)) if pair in pairs]
        return sum(known) / len(known) if known else math.inf

    def told(self) -> str:
        """For a language model: of each pair of tasks which order leaves less."""
        pairs = self.distilled
        lines = []
        for a, b in combinations(sorted({task for pair in pairs for task in pair.split(THEN)}), 2):
            if (one := pairs.get(a + THEN + b)) is not None and (other := pairs.get(b + THEN + a)) is not None:
                lines.append(f"{a} before {b} leaves {one:.0%} of the degradations, {b} before {a} {other:.0%}.")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        text = self.model_dump_json(indent=1) + "\n"
        write_aside(path, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> Experience:
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # pydantic's is a ValueError
            reason = f"holds no experience that can be read: {error}"
            raise Problem(path, reason, "Make one: python experiments/explore.py --out FILE.") from error


def explore(world: World, eye: Eye, starts: Sequence[Start], experience: Experience) -> None:
    """Self-exploration: every order of each start's tasks, with every tool of each task. What became of them is added."""
    trajectories = world.begin(starts)
    walks = [Walk(world, trajectory) for trajectory in trajectories]
    spoilt = [[each["degradation"] for each in t.record] for t in trajectories]
    seen = side_by_side(world.pool, [_all_orders(eye, walk, each) for walk, each in zip(walks, spoilt, strict=True)])
    for each, ends in zip(spoilt, seen, strict=True):
        for order, left in ends:
            orders = experience.raw.setdefault("+".join(sorted(order)), {})
            if record := orders.get(THEN.join(order)):
                record.tried += 1
            else:
                record = orders[THEN.join(order)] = Record(tried=1)
            for degradation in sorted(set(left) & set(each)):
                record.survived[degradation] = record.survived.get(degradation, 0) + 1


def _all_orders(eye: Eye, walk: Walk, spoilt: Sequence[str]) -> Search[list[tuple[tuple[str, ...], list[str]]]]:
    """(order, what is still there) for every order and every choice of tools."""
    ends = []
    for order in permutations(walk.tasks(spoilt)):
        states: list[State] = [walk.start]
        for task in order:
            made: list[State] = []
            for state in states:
                made += yield from walk.apply(state, walk.tools(state, task))
            states = made
        for state in states:
            left = agenda((yield from eye.look(walk, state)))
            ends.append((order, left))
    return ends
