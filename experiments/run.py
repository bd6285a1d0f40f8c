"""Run a policy in the real environment: `python experiments/run.py`.

Until the trainers exist the policy is a random one, beside "no tool" and every single tool on the same starts. You see a table of
what each gains, and in the output folder pictures of the best, the median and the worst random trajectory, and all trajectories.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from agents.agent import Agent, play
from agents.training_free.bounds import FixedAgent, RandomAgent
from experiments.console import at_least, main, write_json
from tir_env.drawing import save_figure
from tir_env.images.sources import Part
from tir_env.observations import Observer
from tir_env.trajectory import Trajectory
from tir_env.world import World


@dataclass
class Run:
    images: str = "skimage"
    """Clean photographs: skimage, generated:COUNT, a folder, or several joined by commas."""
    part: Part = "test"
    """Which part of the photographs."""
    suite: str = "mio100-a"
    """What spoils them: a suite's name, a YAML file, or a case such as rain+haze."""
    toolbox: str = "pocket"
    """The tools: pocket, full, rl-restore, or a YAML file."""
    reward: str = "gain:psnr"
    """The reward design: gain:METRIC, final:METRIC, sum:METRIC=WEIGHT,..., or module:Class."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """Qualities to report."""
    horizon: int = 3
    """Decisions in an episode."""
    crop: int = 128
    """Side of the random crop; 0 for whole photographs."""
    episodes: int = 48
    """Starts; every policy gets the same ones."""
    policy: Literal["random"] = "random"
    """Who decides."""
    pool: Literal["local", "ray"] = "local"
    """Where the tools run: in this process, or in worker processes on Ray."""
    seed: int = 0
    """Decides photographs, crops, degradations and the random policy."""
    out: Path = Path("out/run")
    """Output folder: table.json, figures/, trajectories/."""


def run(settings: Run) -> None:
    at_least(1, episodes=settings.episodes, metrics=len(settings.metrics))
    settings.out.mkdir(parents=True, exist_ok=True)  # now, not after the work
    console = Console()
    world = World(
        settings.images, settings.part, settings.suite, settings.toolbox, settings.reward, settings.metrics, settings.horizon,
        settings.crop, pool=settings.pool,
    )  # fmt: skip
    observer = Observer(world)
    console.print(f"{len(world.images)} photographs, {len(world.suite)} cases, {world.toolbox!r}, reward {world.reward.name}")
    starts = [world.draw(settings.seed, episode) for episode in range(settings.episodes)]
    rivals: list[Agent] = [FixedAgent([], world.stop, "no tool")]
    rivals += [FixedAgent([i], world.stop, tool.name) for i, tool in enumerate(world.toolbox)]
    began = time.perf_counter()
    chosen = play(world, observer, RandomAgent(settings.seed), starts)
    seconds = time.perf_counter() - began
    results = {"random": chosen}
    for agent in track(rivals, "on the same starts", console=console, transient=True):
        results[agent.name] = play(world, observer, agent, starts)
    rows = {name: summary(trajectories, settings.metrics) for name, trajectories in results.items()}
    console.print(table(rows, settings.metrics))
    calls = sum(len(t.tool_names) for t in chosen)
    failures = [f for trajectories in results.values() for t in trajectories for f in t.failures]
    console.print(
        f"random policy: {calls} tool calls in {seconds:.1f} s, {calls / seconds:.1f} calls/s; {len(failures)} failures"
    )
    for message, count in Counter(f.message for f in failures).most_common(3):
        console.print(f"  {count} x {message}")
    write_json(settings.out / "table.json", {"settings": {k: str(v) for k, v in vars(settings).items()}, "rows": rows})
    draw(chosen, settings)
    world.close()
    console.print(f"wrote {settings.out}/table.json, figures/ (look at them) and trajectories/")


def summary(trajectories: list[Trajectory], metrics: tuple[str, ...]) -> dict[str, float]:
    """Means and standard deviations over episodes."""
    row = {"reward": float(np.mean([t.total_reward for t in trajectories]))}
    for metric in metrics:
        scored = [t for t in trajectories if metric in t.gains()]  # a metric that failed is among the failures below
        end = np.array([t.end_quality[metric].raw for t in scored] or [np.nan])
        gain = np.array([t.gains()[metric] for t in scored] or [np.nan])
        row |= {metric: float(end.mean()), f"{metric} gain": float(gain.mean()), f"{metric} gain std": float(gain.std())}
        row[f"{metric} better"] = float((gain > 0).mean())
    row["calls"] = float(np.mean([len(t.tool_names) for t in trajectories]))
    row["failures"] = float(sum(len(t.failures) for t in trajectories))
    return row


def table(rows: dict[str, dict[str, float]], metrics: tuple[str, ...]) -> Table:
    """Fits 80 columns: of the first metric the value and the gain, of the others the gain."""
    title = "Means over episodes, ± standard deviation between them. better: share with a gain"
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("policy", no_wrap=True)
    for column in (metrics[0], *(f"{metric} gain" for metric in metrics), "better", "calls"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, row in rows.items():
        digits = {m: 1 if abs(row[m]) >= 10 else 3 for m in metrics}
        gains = [f"{row[f'{m} gain']:+.{digits[m]}f} ±{row[f'{m} gain std']:.{digits[m]}f}" for m in metrics]
        better = f"{row[f'{metrics[0]} better']:.0%}"
        cells = [f"{row[metrics[0]]:.{digits[metrics[0]]}f}", *gains, better, f"{row['calls']:.1f}"]
        made.add_row(name, *cells, style="bold" if name == "random" else "")
    return made


def draw(trajectories: list[Trajectory], settings: Run) -> None:
    order = sorted(trajectories, key=lambda t: t.total_reward)
    for name, trajectory in (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])):
        save_figure(trajectory.figure(settings.metrics), settings.out / "figures" / f"{name}.png")
    for number, trajectory in enumerate(trajectories):
        trajectory.save(settings.out / "trajectories" / f"{number:04d}", images="reference")


if __name__ == "__main__":
    main(Run, run, __doc__)
