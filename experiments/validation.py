"""What the policy is worth on photographs that it does not learn from, while it trains; the best one is kept beside the last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ValidationError

from agents.agent import Agent, observer_for, play
from experiments.runs import Row, RunFolder
from tir_env.files import write_aside
from tir_env.world import World

if TYPE_CHECKING:
    from experiments.run import Run

BEST = "best"  # the agent's folder in that of the run
RECORD = "validation.json"  # in there
PREFIX = "validation/"


class Record(BaseModel):
    """Which trial the agent in `best/` did best in."""

    iteration: int
    metric: str
    gain: float
    starts: str  # their digest: other starts are another trial


class Validation:
    """Every policy plays the same starts of `world`; the first metric decides which is the best."""

    def __init__(self, world: World, folder: RunFolder, settings: Run) -> None:
        self.world, self.folder, self.metrics = world, folder, settings.metrics
        self.starts = world.draw_many(settings.seed + 1, range(settings.validations))
        # Not by the names of photographs and suite, which may be paths: a run that was moved has the same trials.
        told = repr([(start.digest, start.corner, start.crop, start.case, start.seed) for start in self.starts])
        self.digest = hashlib.sha256(told.encode()).hexdigest()[:16]

    def look(self, number: int, agent: Agent, save: Callable[[Path], object]) -> Row:
        """For the row of iteration `number`: the mean gain of each metric, higher being better."""
        played = play(self.world, observer_for(agent, self.world), agent, self.starts)
        gains = {metric: np.array([t.gains().get(metric, np.nan) for t in played]) for metric in self.metrics}
        row: Row = {PREFIX + metric: float(np.nanmean(found)) for metric, found in gains.items() if np.isfinite(found).any()}
        metric, best = self.metrics[0], self.folder.path / BEST
        if PREFIX + metric in row and self._beaten(number, row[PREFIX + metric]):
            record = Record(iteration=number, metric=metric, gain=row[PREFIX + metric], starts=self.digest)
            save(best)
            text = record.model_dump_json(indent=1) + "\n"
            write_aside(best / RECORD, lambda path: path.write_text(text, encoding="utf-8"), lasting=True)
        return row

    def _beaten(self, number: int, gain: float) -> bool:
        """Whether the one that is kept is worse, or not of this run's past: a killed run may have kept one that will come again."""
        kept = read_record(self.folder)
        if kept is None or kept.iteration >= number or (kept.metric, kept.starts) != (self.metrics[0], self.digest):
            return True
        return gain > kept.gain


def read_record(folder: RunFolder) -> Record | None:
    try:
        return Record.model_validate_json((folder.path / BEST / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def due(settings: Run, number: int, last: int) -> bool:
    return bool(settings.validate_every) and (number % settings.validate_every == 0 or number == last)
