"""How different the rollouts of a policy are: TIR-Agent's figure 3, for any trained agent.

    python experiments/diversity.py --agent out/run
    python experiments/diversity.py --agent out/run/after-sft --images FOLDER --json diversity.json

The policy draws its actions. `distinct` is the mean number of different sequences among the rollouts of a start, `identical` the
share of rollouts that another one equals, `order` and `tool` the share of pairs of different sequences that do the same tasks in
another order, or with other tools; `tool entropy` is that of the tool given the task.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich import box
from rich.table import Table

from agents.agent import Agent, observer_for, play
from agents.diversity import diversity
from agents.opening import open_agent
from experiments.console import at_least, main, plain_console, write_json
from experiments.evaluate import trained_with
from experiments.run import Run
from experiments.tool_pool import ToolPool
from pool import Problem
from tir_env.images.sources import Part
from tir_env.tools import Toolbox
from tir_env.world import World


@dataclass
class Diversity:
    agent: tuple[str, ...]
    """Folders of runs, or of stages of them."""
    suite: str = "mio100-a"
    """What spoils the images."""
    images: str = "skimage"
    """Clean photographs."""
    part: Part = "test"
    """Which part of them."""
    depth: str = "synthetic"
    """Depth for haze: synthetic, folder:PATH (a map for each photograph) or model:ID."""
    starts: int = 32
    """Starts; the same for every agent."""
    rollouts: int = 8
    """Of each start."""
    temperature: float = 1.0
    """Of the drawing."""
    seed: int = 0
    """Of starts and drawing."""
    json: Path | None = None
    """Write all figures here."""
    tool_pool: tyro.conf.OmitArgPrefixes[ToolPool] = field(default_factory=ToolPool)
    """Where the tools run."""


def measure(settings: Diversity) -> None:
    at_least(0, seed=settings.seed)
    at_least(1, starts=settings.starts, agent=len(settings.agent))
    at_least(2, rollouts=settings.rollouts)
    rows: dict[str, dict[str, float]] = {}
    with settings.tool_pool.open() as pool:
        for name in settings.agent:
            known = trained_with(name) or Run()
            toolbox = Toolbox.load(known.toolbox).with_weights_only()
            world = World(
                settings.images, settings.part, settings.suite, toolbox, "final:psnr", (), known.horizon, known.crop,
                depth=settings.depth, pool=pool,
            )  # fmt: skip
            rows[name] = of(
                open_agent(name, world), world, settings.starts, settings.rollouts, settings.seed, settings.temperature
            )
    console = plain_console()
    console.print(show(rows))
    write_json(settings.json, {"settings": asdict(settings), "rows": rows})


def of(agent: Agent, world: World, starts: int, rollouts: int, seed: int, temperature: float = 1.0) -> dict[str, float]:
    """Of rollouts that the agent draws."""
    if not hasattr(agent, "sampling"):
        raise Problem(f"agent {agent.name}", "does not draw its actions", "Name a trained one.")
    drawing: Any = agent.sampling(seed, temperature)
    drawn = [start for start in world.draw_many(seed, range(starts)) for _ in range(rollouts)]
    plans = [tuple(t.tool_names) for t in play(world, observer_for(drawing, world), drawing, drawn, at_once=len(drawn))]
    return diversity([plans[k : k + rollouts] for k in range(0, len(plans), rollouts)])


def show(rows: dict[str, dict[str, float]]) -> Table:
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("agent")
    names = list(next(iter(rows.values())))
    for name in names:
        made.add_column(name.replace("_", " "), justify="right")
    for agent, row in rows.items():
        made.add_row(agent, *(f"{row[name]:.3f}" for name in names))
    return made


if __name__ == "__main__":
    main(Diversity, measure, __doc__)
