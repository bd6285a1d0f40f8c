"""A world whose images say by the colour of one pixel how spoilt they are, and tools that change just that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.agent import observer_for, play
from agents.training_free.eyes import PocketEye
from agents.training_free.perceive import NAMES
from agents.training_free.search import Searcher
from pool import Model
from tests.conftest import FakeEngine
from tir_env.tools import Tool, Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World

CODE = ("noise", "rain", "jpeg")  # red, green, blue of the first pixel, 255 being a severity of 1
SPOILT = (200, 200, 200)  # how every image begins, for the perceiver


def coded(image: np.ndarray, code: Sequence[int]) -> np.ndarray:
    out = image.copy()
    out[..., 0, 0, :] = code
    return out


@dataclass(frozen=True)
class Codes(FakeEngine):
    """`noise=0` sets it, `rain=0 if noise<50` sets it where the other is so little, `... if noise>50` where it is so much."""

    def load(self, tool: Tool) -> Any:
        rule, _, condition = self.what.partition(" if ")
        name, value = rule.split("=")
        sign = "<" if "<" in condition else ">"
        if_name, _, limit = condition.partition(sign)

        def run(batch: np.ndarray) -> np.ndarray:
            out = batch.copy()
            for image in out:
                code = image[0, 0]
                if not condition or (int(code[CODE.index(if_name)]) < int(limit)) == (sign == "<"):
                    code[CODE.index(name)] = int(value)
            return out

        return run


class Reads(Model):
    """A perceiver of the code."""

    name = "perceiver/coded"

    def run(self, items: Sequence[Any]) -> list[dict[str, float]]:
        seen = [dict(zip(CODE, (image[0, 0] / 255).tolist(), strict=True)) for image in items]
        return [dict.fromkeys(NAMES, 0.0) | each for each in seen]


def world_of(*tools: tuple[str, str], horizon: int = 4, spoilt: Sequence[int] = SPOILT) -> World:
    """Tools as (task, rule); their models are m0, m1 ..."""
    made = [Tool(task, f"m{k}", Codes(rule)) for k, (task, rule) in enumerate(tools)]
    world = World(toolbox=Toolbox("coded", made), crop=32, horizon=horizon, suite="jpeg", reward="gain:psnr")
    begin = world._trajectory

    def trajectory(start: Any, record: Any, image: Any, clean: Any) -> Trajectory:
        return begin(start, record, coded(image, spoilt), clean)

    world._trajectory = trajectory  # type: ignore[method-assign]
    return world


def eye_of(world: World) -> PocketEye:
    return PocketEye(world, Reads(), {"piqe": 1.0})


def played(world: World, agent: Searcher, count: int = 1) -> list[Trajectory]:
    return play(world, observer_for(agent, world), agent, [world.draw(0, k) for k in range(count)])


def rules(world: World, trajectory: Trajectory) -> list[str]:
    """What a trajectory did, by the rules of its tools."""
    return [world.toolbox[a].engine.what for a in trajectory.actions if a != world.stop]  # type: ignore[attr-defined]
