"""A contest of agents on the same starts, one at a time and in turns: what each made of them, and what it took."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from agents.agent import Agent, finish, observer_for
from agents.opening import open_agent
from agents.training_free.bounds import ExhaustiveOracle
from experiments.evaluate import trained_with
from pool import Call
from rewards import Score
from tir_env.images.sources import Images
from tir_env.observations import Observer
from tir_env.starts import Pin
from tir_env.tools import Toolbox
from tir_env.trajectory import Failure, Trajectory
from tir_env.world import AS_IS, World

if TYPE_CHECKING:
    from experiments.compare import Compare

Episode = dict[str, Any]


@dataclass
class Contestant:
    """An agent, and a world of its own on a pool of its own."""

    world: World
    agent: Agent
    observer: Observer

    @classmethod
    def enter(cls, stack: ExitStack, spec: str, suite: str, settings: Compare) -> Contestant:
        trained = trained_with(spec)
        # It scores what an episode came to while the clock runs: by what takes a millisecond, whatever is reported.
        quick = "piqe" if suite == AS_IS.name else "psnr"
        world = world_of(suite, settings, stack, (quick,), settings.horizon if trained is None else trained.horizon)
        agent = open_agent(spec, world, settings.seed)
        return cls(world, agent, observer_for(agent, world))

    def warm_up(self, settings: Compare) -> None:
        """All tools run once: otherwise who calls few of them would load them when the clock runs. Then the hardest of the cases."""
        hardest = max(range(len(self.world.suite)), key=lambda case: len(self.world.suite[case].degradations))
        place = stream_for(self.world.suite.name, settings.seed), settings.episodes
        [trajectory] = self.world.open([place], Pin(case=hardest))
        self.world.pool.run([Call(tool.name, trajectory.image) for tool in self.world.toolbox])
        if not isinstance(self.agent, ExhaustiveOracle):  # it needs nothing but the tools, and many minutes
            finish(self.world, self.observer, self.agent, [trajectory])

    def restore(self, number: int, settings: Compare) -> tuple[Trajectory, float]:
        """One start, and the seconds that its restoration took: without spoiling the image."""
        place = stream_for(self.world.suite.name, settings.seed), number
        [trajectory] = self.world.open([place], case_of(self.world, number))
        began = time.perf_counter()
        finish(self.world, self.observer, self.agent, [trajectory])
        return trajectory, time.perf_counter() - began


def world_of(suite: str, settings: Compare, stack: ExitStack, metrics: Sequence[str], horizon: int) -> World:
    toolbox = Toolbox.load(settings.toolbox).with_weights_only()
    pool = stack.enter_context(settings.tool_pool.open())
    reward = f"final:{metrics[0]}"
    return World(
        settings.images, settings.part, suite, toolbox, reward, metrics, horizon, settings.crop, depth=settings.depth, pool=pool
    )


def stream_for(suite: str, seed: int) -> int:
    """Each suite begins from photographs and corners of its own: means over suites are of so many more."""
    return seed + (zlib.crc32(suite.encode()) << 16)


def case_of(world: World, number: int) -> Pin:
    """All cases alike often."""
    return Pin(case=number % len(world.suite))


def contest(suite: str, names: dict[str, str], settings: Compare, console: Console) -> dict[str, list[Episode]]:
    """Every start by every agent, in turns; who begins changes. Before that all tools are run once, and a start that does not count."""
    done: dict[str, list[Episode]] = {name: [] for name in names.values()}
    with ExitStack() as stack:
        contestants = {names[spec]: Contestant.enter(stack, spec, suite, settings) for spec in names}
        judge = world_of(suite, settings, stack, settings.metrics, settings.horizon)  # scores when the clock is stopped
        for contestant in track(contestants.values(), "warming up", console=console, transient=True):
            contestant.warm_up(settings)
        tell_of_a_low_bound(contestants, names.get(settings.bound, ""), console)
        order = list(contestants)
        for number in track(range(settings.episodes), escape(suite), console=console, transient=True):
            for name in [*order[number % len(order) :], *order[: number % len(order)]]:
                done[name].append(episode_of(*contestants[name].restore(number, settings), judge))
    return done


def scene_of(image: str, images: Images) -> str:
    """What photographs that are kin share."""
    return next((photo.kin for photo in images if photo.name == image), "") or image


def episode_of(trajectory: Trajectory, seconds: float, judge: World) -> Episode:
    notes, pictures = [step.notes for step in trajectory.steps], (trajectory.input, trajectory.image)
    pairs = [(image, trajectory.reference) for image in pictures if image is not None]
    before, after = judge.score(pairs, [list(judge.metrics)] * 2)
    return {
        "image": trajectory.start.image, "scene": scene_of(trajectory.start.image, judge.images),
        "case": trajectory.start.case, "seed": trajectory.start.seed,
        "degradations": len(trajectory.record), "tools": trajectory.tool_names,
        "gain": {metric: value(after[metric]) - value(before[metric]) for metric in judge.metrics},
        "value": {metric: value(after[metric], "raw") for metric in judge.metrics},
        "calls": trajectory.calls,
        "policy calls": sum(n.get("policy_calls", 1) for n in notes),
        "fallbacks": sum(n.get("fallbacks", 0) for n in notes),
        "remarks": [remark for n in notes for remark in n.get("remarks", [])],
        "failures": [failure.message for failure in trajectory.failures],
        "seconds": seconds,
    }  # fmt: skip


def tell_of_a_low_bound(contestants: dict[str, Contestant], bound: str, console: Console) -> None:
    steps = max(contestant.world.horizon for contestant in contestants.values())
    if bound and (depth := getattr(contestants[bound].agent, "depth", steps)) < steps:
        told = (
            f"{bound} looks {depth} steps ahead, and others may take {steps}: it is no bound for them. Give --horizon {depth}."
        )
        console.print(f"Mind that {told}", soft_wrap=True)


def value(score: Score | Failure, what: str = "value") -> float:
    """What could not be scored, such as a black image by PIQE, is not known."""
    return float("nan") if isinstance(score, Failure) else float(getattr(score, what))
