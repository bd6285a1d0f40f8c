"""What the policy is worth on photographs that it does not learn from, while it trains; the best one is kept beside the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agents.agent import Agent, observer_for, play
from experiments.runs import Row, RunFolder
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.run import Run

BEST = "best"  # the agent's folder in that of the run
PREFIX = "validation/"


class Validation:
    """Every policy plays the same starts of `world`; the first metric decides which is the best."""

    def __init__(self, world: World, folder: RunFolder, settings: Run) -> None:
        self.world, self.folder, self.metrics = world, folder, settings.metrics
        self.starts = world.draw_many(settings.seed + 1, range(settings.validations))

    def look(self, number: int, agent: Agent, save: Callable[[Path], object]) -> Row:
        """For the row of iteration `number`, which is not in the log yet: the mean gain of each metric, higher being better."""
        played = play(self.world, observer_for(agent, self.world), agent, self.starts)
        gains = {metric: np.array([t.gains().get(metric, np.nan) for t in played]) for metric in self.metrics}
        row: Row = {PREFIX + metric: float(np.nanmean(found)) for metric, found in gains.items() if np.isfinite(found).any()}
        if best([*self.folder.rows(), {"iteration": number, **row}], self.metrics[0]) == number:
            save(self.folder.path / BEST)
        return row


def due(settings: Run, number: int, last: int) -> bool:
    return bool(settings.validate_every) and (number % settings.validate_every == 0 or number == last)


def best(rows: Sequence[Row], metric: str) -> int | None:
    """The iteration with the highest gain, the first one of equals; None where there is none."""
    seen = [row for row in rows if row.get(PREFIX + metric) is not None]
    return int(max(seen, key=lambda row: row[PREFIX + metric])["iteration"]) if seen else None
