"""Run folders for tests of the report: played in a fake world, with texts that would do harm if they were taken for HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.agent import observer_for, play
from agents.training_free.bounds import RandomAgent
from experiments.report_page.pictures import keep
from experiments.reporting import by_case, summary
from experiments.run import Run
from experiments.runs import RunFolder
from tests.conftest import fake_toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

SCRIPT = "<script>window.harm = 1</script>.png"
BREAKOUT = '</script><img src=x onerror="window.harm = 1">'
METRICS = ("psnr", "ssim")


def played(count: int, suite: str = "mio100-a", seed: int = 0) -> list[Trajectory]:
    """By a random agent; one of its tools always fails, and one gives no image."""
    world = World(toolbox=fake_toolbox(), crop=32, horizon=3, suite=suite, metrics=METRICS)
    agent = RandomAgent(seed)
    return play(world, observer_for(agent, world), agent, [world.draw(seed, k) for k in range(count)])


def hostile(trajectories: Sequence[Trajectory]) -> None:
    """A name, a case, and what a policy said and noted."""
    first, second = trajectories[:2]
    first.start = replace(first.start, image=SCRIPT)
    second.start = replace(second.start, case=BREAKOUT)
    first.steps[0].notes.update(said=[BREAKOUT], probabilities={BREAKOUT: 0.5, first.steps[0].tool: 0.25})


def make_run(folder: Path, trajectories: Sequence[Trajectory], pictures: bool = True, **settings: Any) -> Path:
    """As run.py leaves one."""
    run = RunFolder.create(
        folder, replace(Run(), policy="clip_mlp", metrics=METRICS, test_episodes=len(trajectories), **settings)
    )
    for number in range(1, 31):
        share = number / 30
        row = {
            "iteration": number,
            "reward": share,
            "entropy": 1 - share,
            "seconds": 2.0,
            "reward_design/psnr/weight": share / 2,
        }
        run.append({**row, "gain/psnr": 3 * share, "gain/ssim": -share / 100, "reward_design/ssim/weight": 1 - share / 2})
    row = summary(trajectories, METRICS, seconds=1.0)
    idle = {key: 0.0 if isinstance(value, float) else value for key, value in row.items()}
    rows = {
        "ppo clip_mlp": row,
        "random": {**row, "psnr gain": -9.0},
        "denoise/brighter": idle,
        "denoise/darker": idle,
        BREAKOUT: idle,
    }
    cases = {name: by_case(trajectories, METRICS) for name in ("ppo clip_mlp", "denoise/brighter")}
    (folder / "table.json").write_text(json.dumps({"settings": asdict(Run()), "rows": rows, "by case": cases}, default=str))
    for number, trajectory in enumerate(trajectories):
        trajectory.save(folder / "trajectories" / f"{number:04d}", images="reference")
    if pictures:
        keep(folder, trajectories)
    return folder
