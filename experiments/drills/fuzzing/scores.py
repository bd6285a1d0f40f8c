"""What a metric may give back: NaN, infinity, other shapes, other types, nothing, or an exception. Fed through the pool."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Generator, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.drills.fuzzing.trials import Trial
from pool import Call, connect
from rewards import Score, Scorer, make_reward
from rewards.design import group_advantages
from rewards.quality import Metric

ODD: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, -0.0, 0, 1, True, None, "0.5", "nan", b"1", [], [1.0], [[1.0]], {}, {"value": 1.0},
    1e308, -1e308,
    5e-324, 10**400, 10**30, 1 + 2j, Decimal("0.5"), Decimal("NaN"), Fraction(1, 3), np.float32(0.5), np.float64("nan"),
    np.int64(3),
    np.float16("inf"), np.bool_(True), np.array(0.5), np.array([0.5]), np.array([[0.5, 0.5]]), np.array(np.nan), np.array([]),
    np.array(["a"]), np.array([None]), np.datetime64("NaT"), object, lambda: 1, Ellipsis,
)  # fmt: skip


class Given(Scorer):
    """A metric that gives what it is told to."""

    def __init__(self, name: str) -> None:
        self.name = f"quality/{name}"
        self.given: Any = None

    def run(self, items: Sequence[Any]) -> list[Score]:
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given(len(items)) if callable(self.given) else self.given


class Rude(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raised(rng: random.Random) -> BaseException:
    return rng.choice(
        (ValueError("x"), MemoryError(), RecursionError("deep"), SystemExit(3), Rude(), StopIteration(), KeyError("\ud800"))
    )


def given(rng: random.Random) -> Any:
    """In place of a list of one score for each item."""
    if rng.random() < 0.05:
        return raised(rng)
    if rng.random() < 0.1:
        return rng.choice(ODD)
    value, raw = (rng.choice(ODD) if rng.random() < 0.3 else rng.uniform(-50, 50) for _ in range(2))
    score = rng.choice((Score(value, raw), Score(value, raw), (value, raw), value, [value, raw]))
    many = rng.choice((1, 1, 1, 1, 0, 2))
    return lambda count: [score] * (count * many)


def metric_outputs(rng: random.Random, folder: Path) -> Generator[Trial]:
    """What comes through is a number, and every design makes finite rewards and advantages of it."""
    image = np.zeros((8, 8, 3), np.uint8)
    designs = [make_reward(spec) for spec in ("gain:psnr", "final:psnr", "sum:psnr=1,ssim=2", "mar:metrics=psnr+ssim")]
    models = {name: Given(name) for name in ("psnr", "ssim")}
    with connect("local", cache_bytes=0) as pool:
        pool.add(*models.values())

        def trial(outputs: dict[str, Any]) -> object:
            for name, model in models.items():
                model.given = outputs[name]
            outcomes = {name: pool.run([Call(model.name, (image, None))])[0] for name, model in models.items()}
            for outcome in outcomes.values():
                if outcome.error is not None:
                    return outcome.error
            after = {name: outcome.value for name, outcome in outcomes.items()}
            for score in after.values():
                assert isinstance(score, Score)
                assert all(isinstance(part, int | float) and math.isfinite(part) for part in score), f"{score} came through"
            before = {name: Score(1.0, 1.0) for name in models}
            for design in designs:
                ends = design.values([before, after])
                design.observe(design.values([before, before]), ends)
                returns = np.array([[0.0, design.step(before, after)]])
                valid = np.ones((1, 2), bool)
                for advantages in (design.advantages(returns, ends[None], valid), group_advantages(returns, valid)):
                    assert np.isfinite(advantages).all(), f"{design.name} makes {advantages} of {after}"
                assert np.isfinite(np.float32(returns)).all(), f"{design.name} pays {returns} for {after}"
                assert np.isfinite(list(design.state.values())).all(), f"{design.name} now holds {design.state}"
            return "result"

        while True:
            outputs = {name: given(rng) for name in models}
            if rng.random() < 0.5:
                outputs["ssim"] = lambda count: [Score(0.5, 0.5)] * count
            yield partial(trial, outputs)


def fail(error: BaseException) -> Any:
    raise error


def tensors(rng: random.Random) -> Callable[[], Any]:
    shape = rng.choice(((), (1,), (1, 1), (2,), (0,), (1, 3, 8, 8), (1, 1, 1, 1)))
    kind = rng.choice((torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64))
    fill = rng.choice((0.5, math.nan, math.inf, -math.inf, 1e38))
    if kind in (torch.int64, torch.bool):
        fill = 1.0
    return lambda: torch.full(shape, fill, dtype=kind) if kind is not torch.bool else torch.ones(shape, dtype=kind)


def metric_networks(rng: random.Random, folder: Path) -> Generator[Trial]:
    """A network of pyiqa's that gives other tensors than a score, or raises."""
    image = np.zeros((8, 8, 3), np.uint8)
    metrics = [Metric("psnr"), Metric("piqe")]
    made: Callable[[], Any] = tensors(rng)

    def network(*_: Any) -> Any:
        return made()

    for metric in metrics:
        metric.load()
        metric._network = network
        metric.load = lambda: None  # type: ignore[method-assign]
    with connect("local", cache_bytes=0) as pool:
        pool._models = {metric.name: metric for metric in metrics}  # type: ignore[attr-defined]

        def trial(metric: Metric) -> object:
            [outcome] = pool.run([Call(metric.name, (image, image if metric.needs_reference else None))])
            if outcome.error is not None:
                return outcome.error
            assert all(type(part) is float and math.isfinite(part) for part in outcome.value), f"{outcome.value} came through"
            return "result"

        while True:
            tensor = tensors(rng)
            made = rng.choice((tensor, tensor, tensor, partial(fail, raised(rng)), partial(copy.copy, rng.choice(ODD))))
            yield partial(trial, rng.choice(metrics))
