"""The leaderboard of a tree: who comes how far from no tool to the exhaustive oracle, on photographs that training never saw.

    python experiments/bench_tree.py --json out/bench_tree.json          the tree that ships; nine trainings, about a minute each

What is chosen (the best single tool, the best fixed sequence) is chosen on the starts to train on. You see the mean gains over all test
starts, each played once, and for whom it matters the standard deviation between seeds, as a Markdown table; then steps per second of
1,024 environments at random actions on one core, and the seconds that PPO trained until its return, as a moving mean, had come 95 % of
its way.

Everything that is done is kept under --out: run it again to go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.agent import Agent, observer_for, play
from agents.opening import open_agent
from agents.training_free.bounds import ExhaustiveOracle, FixedAgent
from experiments.cells import Cells, train_run
from experiments.console import at_least, main, write_json
from experiments.grids import spread
from experiments.reporting import smooth
from experiments.runs import Row, RunFolder
from tir_env.trajectory import Start
from tir_env.tree import RestorationTreeVector, Tree, TreeWorld

METRICS = ("psnr", "ssim", "pocket-deqa")
LEARNERS: dict[str, tuple[object, ...]] = {
    "PPO": ("--algo", "ppo"),
    "GRPO": ("--algo", "grpo"),
    "GRPO with MAR": ("--algo", "grpo", "--reward", "mar"),
}
CHOSEN = ("best single tool", "best fixed sequence")
ENVS, STEPS = 1024, 300
ENOUGH = 0.95


@dataclass
class Bench:
    tree: str = "pocket"
    """The tree: pocket, or a file."""
    seeds: int = 3
    """Trainings of each learner, and random policies."""
    iterations: int = 60
    """Of each training."""
    options: tuple[str, ...] = ()
    """More options of run.py, for all."""
    out: Path = Path("out/bench_tree")
    """Results cell by cell, and the runs."""
    json: Path | None = None
    """Write the figures here, too."""


def bench(settings: Bench) -> None:
    at_least(1, seeds=settings.seeds, iterations=settings.iterations)
    tree = Tree.load(settings.tree)
    told = {key: getattr(settings, key) for key in ("tree", "iterations", "options")}
    cells = Cells(settings.out / "cells.json", {**told, "states": len(tree), "starts": len(tree.starts)})
    for name, agent_for in rivals(tree, settings.seeds).items():
        cells.fill(name, gains, tree, agent_for)
    for name, options in LEARNERS.items():
        for seed in range(settings.seeds):
            cells.fill(f"{name} {seed}", trained, name, options, seed, settings, tree)
    cells.fill("steps per second", steps_per_second, tree)
    console = Console()
    console.print(leaderboard(cells.done, settings.seeds), soft_wrap=True, highlight=False)
    console.print(f"\n{cells.done['steps per second']:,.0f} steps/s with {ENVS} environments on one core")
    reached = [cells.done[f"PPO {seed}"] for seed in range(settings.seeds)]
    seconds, whole = ([run[key] for run in reached] for key in ("seconds to 95 %", "seconds"))
    console.print(
        f"PPO: {np.mean(seconds):.1f} s (at most {max(seconds):.1f}) to 95 % of the way of its return, {np.mean(whole):.1f} s in all"
    )
    write_json(settings.json, cells.done)


# -- cells -------------------------------------------------------------------------------------------------------------------------


def rivals(tree: Tree, seeds: int) -> dict[str, Callable[[TreeWorld], Agent]]:
    """Who learns nothing; what is chosen among is chosen on the train part."""
    depth = tree.ground.depth
    return {
        **{f"random {seed}": partial(open_agent, "random", seed=seed) for seed in range(seeds)},
        "no tool": partial(open_agent, "none"),
        "best single tool": lambda world: chosen(tree, 1),
        "best fixed sequence": lambda world: chosen(tree, depth),
        "greedy oracle": partial(open_agent, "oracle:psnr"),
        "exhaustive oracle": partial(open_agent, f"oracle:psnr:{depth}"),
    }


def chosen(tree: Tree, depth: int) -> FixedAgent:
    return ExhaustiveOracle(world_of(tree, "train"), "psnr", depth).best_sequence(starts_of(tree, "train"))


def world_of(tree: Tree, part: str) -> TreeWorld:
    return TreeWorld(tree, part, "gain:psnr", METRICS)


def starts_of(tree: Tree, part: str) -> list[Start]:
    return [tree.starts[number].start for number in tree.part(part)]


def gains(tree: Tree, agent_for: Callable[[TreeWorld], Agent]) -> dict[str, Any]:
    """Mean gains over every start of a part, each played once."""
    found: dict[str, Any] = {}
    for part in ("train", "test"):
        world = world_of(tree, part)
        agent = agent_for(world)
        played = play(world, observer_for(agent, world), agent, starts_of(tree, part))
        found |= {f"{part} {metric}": float(np.mean([t.gains()[metric] for t in played])) for metric in METRICS}
        found |= {f"{part} calls": float(np.mean([t.calls for t in played])), "actions": agent.name}
    return found


def trained(name: str, options: tuple[object, ...], seed: int, settings: Bench, tree: Tree) -> dict[str, Any]:
    folder = train_run(
        settings.out / "runs" / f"{name.replace(' ', '-')}-{seed}", *options, "--policy", "clip_mlp", "--env", f"tree:{settings.tree}",
        "--seed", seed, "--iterations", settings.iterations, "--test-episodes", 8, "--checkpoint-every", settings.iterations,
        "--horizon", tree.ground.depth, *settings.options,
        share="trees",
    )  # fmt: skip
    rows = RunFolder(folder).rows()
    seconds = [row["seconds"] for row in rows]
    reached = {"seconds to 95 %": float(np.sum(seconds[: iterations_to(rows)])), "seconds": float(np.sum(seconds))}
    return gains(tree, partial(open_agent, str(folder))) | reached


def iterations_to(rows: Sequence[Row], share: float = ENOUGH) -> int:
    """How many until the return, as a moving mean, has come so far from the first to the last."""
    returns = smooth(np.array([row["reward"] for row in rows]))
    return int(np.argmax(returns >= returns[0] + share * (returns[-1] - returns[0]))) + 1


def steps_per_second(tree: Tree) -> float:
    """Of random actions; the first round, in which pairs of states are met for the first time, is played before."""
    envs = RestorationTreeVector(ENVS, tree=tree)
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, envs.world.stop + 1, (2, STEPS, ENVS))
    for each in actions[0]:
        envs.step(each)
    began = time.perf_counter()
    for each in actions[1]:
        envs.step(each)
    return STEPS * ENVS / (time.perf_counter() - began)


# -- the table ---------------------------------------------------------------------------------------------------------------------


def leaderboard(done: dict[str, Any], seeds: int) -> str:
    """In Markdown."""
    several = {name: [done[f"{name} {seed}"] for seed in range(seeds)] for name in ("random", *LEARNERS)}
    order = ["random", "no tool", "best single tool", "best fixed sequence", "greedy oracle", *LEARNERS, "exhaustive oracle"]
    best = done["exhaustive oracle"]["test psnr"]
    lines = ["| | train psnr | " + " | ".join(METRICS) + " | of the way | calls |", "|---" * (len(METRICS) + 4) + "|"]
    for name in order:
        runs = several.get(name) or [done[name]]
        cells = [
            spread([run[key] for run in runs], 2 if "psnr" in key else 3, "+")
            for key in ("train psnr", *(f"test {m}" for m in METRICS))
        ]
        way = f"{np.mean([run['test psnr'] for run in runs]) / best:.0%}"
        told = f" ({runs[0]['actions']})" if name in CHOSEN else ""
        lines.append(f"| {name}{told} | {' | '.join(cells)} | {way} | {np.mean([run['test calls'] for run in runs]):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Bench, bench, __doc__)
