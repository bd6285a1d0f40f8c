"""4KAgent on a fake toolbox whose best tool is known, and on the pocket toolbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.opening import open_agent
from agents.training_free.eyes import PocketEye
from agents.training_free.four_k_agent import FourKAgent, plan, preferred
from agents.training_free.perceive import NAMES
from agents.training_free.search import Walk, side_by_side
from experiments.reporting import summary
from pool import Model, Problem
from tests.conftest import FakeEngine
from tir_env.tools import Tool, Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World


@dataclass(frozen=True)
class Engine(FakeEngine):
    @staticmethod
    def same(batch: np.ndarray) -> np.ndarray:
        return batch.copy()

    @staticmethod
    def ruins(batch: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 80, batch.shape)
        return np.clip(batch + noise, 0, 255).astype(np.uint8)


class Says(Model):
    """A perceiver that sees the same in every image."""

    def __init__(self, **severities: float) -> None:
        self.name = f"perceiver/{severities}"
        self.severities = dict.fromkeys(NAMES, 0.0) | {name.replace("_", " "): each for name, each in severities.items()}

    def run(self, items: Sequence[Any]) -> list[dict[str, float]]:
        return [self.severities for _ in items]


def world_of(*tools: str, horizon: int = 3) -> World:
    """Tools as "task/what"; "larger" enlarges."""
    made = [Tool(task, what, Engine(what), scale=4 if what == "larger" else 1) for task, what in (t.split("/") for t in tools)]
    return World(toolbox=Toolbox("fake", made), crop=32, horizon=horizon, suite="jpeg")


def played(world: World, agent: FourKAgent, count: int = 1) -> list[Trajectory]:
    """The first start is one that `pocket-deqa` likes, so that ruining it shows."""
    return play(world, observer_for(agent, world), agent, [world.draw(0, 1 + k) for k in range(count)])


def test_a_plan_by_hand() -> None:
    severities = Says(noise=0.5, jpeg=0.4, haze=0.9, rain=0.2, low_resolution=1.0).severities
    tasks = ("denoise", "dejpeg", "dehaze", "derain", "all_in_one")  # no super-resolution
    assert plan(severities, tasks, 0.375, 3) == ("dejpeg", "denoise", "dehaze")
    assert plan(severities, tasks, 0.375, 2) == ("denoise", "dehaze"), "the severest"
    assert plan(severities, tasks, 0.1, 9) == ("dejpeg", "denoise", "dehaze", "derain")
    assert plan(severities, (*tasks, "super_resolve"), 0.9, 9) == ("super_resolve", "dehaze")
    assert plan(Says(motion_blur=1).severities, ("deblur",), 0.3, 3) == ("deblur",)


def test_every_tool_of_a_task_is_tried_and_the_best_is_taken() -> None:
    world = world_of("denoise/ruins", "denoise/same", "dejpeg/same", "dehaze/same")
    [trajectory] = played(world, FourKAgent(world, Says(noise=1, jpeg=1)))
    assert trajectory.tool_names == ["dejpeg/same", "denoise/same"]
    assert trajectory.steps[1].remembered, "the environment's own call is answered by the trial"
    notes = [step.notes for step in trajectory.steps]
    assert [note["tool_calls"] for note in notes] == [3, 0, 0]
    assert [note["policy_calls"] for note in notes] == [1, 0, 0]
    assert notes[0]["scored_images"] == 4, "the input, and every output"
    row = summary([trajectory], ["psnr"])
    assert (row["calls"], row["policy calls"]) == (3, 1)


def test_a_tool_that_ruins_is_rolled_back() -> None:
    world = world_of("dejpeg/ruins", "denoise/same")
    [trajectory] = played(world, FourKAgent(world, Says(noise=1, jpeg=1)))
    assert trajectory.tool_names == ["denoise/same"]
    assert trajectory.steps[0].notes["tool_calls"] == 2, "what was tried in vain counts"
    [lenient] = played(world, FourKAgent(world, Says(noise=1, jpeg=1), threshold=9))
    assert lenient.tool_names == ["dejpeg/ruins", "denoise/same"]
    [nothing] = played(world, FourKAgent(world, Says(jpeg=1)))
    assert nothing.tool_names == []
    assert summary([nothing], ["psnr"])["calls"] == 1


def test_a_tool_that_fails_is_out_of_the_choice() -> None:
    world = world_of("denoise/fails", "denoise/nan", "denoise/same", "dehaze/fails", "derain/same")
    [trajectory] = played(world, FourKAgent(world, Says(noise=1, haze=1, rain=1)))
    assert trajectory.tool_names == ["denoise/same", "derain/same"]
    assert trajectory.failures == []
    assert [step.notes["tool_calls"] for step in trajectory.steps] == [5, 0, 0]
    assert len(trajectory.steps[0].notes["remarks"]) == 3, "of each failure in words"


def test_the_mask_is_obeyed() -> None:
    world = world_of("super_resolve/larger", "dehaze/larger", "derain/same")
    agent = FourKAgent(world, Says(low_resolution=1, haze=1, rain=1), threshold=9)
    [trajectory] = played(world, agent)
    assert trajectory.tool_names == ["super_resolve/larger", "derain/same"]
    assert trajectory.failures == []


def test_it_stops_at_the_horizon_having_done_the_severest() -> None:
    world = world_of("denoise/same", "dejpeg/same", "dehaze/same", horizon=2)
    [trajectory] = played(world, FourKAgent(world, Says(noise=0.6, jpeg=0.5, haze=0.7)))
    assert trajectory.actions == [0, 2]


def test_an_episode_that_has_begun_has_less_room() -> None:
    world = world_of("denoise/same", "dejpeg/same", "dehaze/same")
    trajectories = world.begin([world.draw(0, k) for k in range(2)])
    world.step(trajectories[1:], [1])
    FourKAgent(world, Says(noise=1, jpeg=0.9, haze=1)).finish(world, trajectories)
    assert [t.actions for t in trajectories] == [[1, 0, 2], [1, 0, 2]]
    assert "tool_calls" not in trajectories[1].steps[0].notes, "that step was somebody else's"


def test_profiles_choose_among_the_tools_of_a_task() -> None:
    made = [Tool("super_resolve", model, Engine("same")) for model in ("swinir_psnr", "swinir_gan", "compact_sharp")]
    toolbox = Toolbox("fake", [*made, Tool("denoise", "plain", Engine("same"))])
    assert preferred([0, 1, 2], toolbox, "all") == [0, 1, 2]
    assert preferred([0, 1, 2], toolbox, "fidelity") == [0]
    assert preferred([0, 1, 2], toolbox, "perception") == [1, 2]
    assert preferred([3], toolbox, "perception") == [3], "a task without such a tool keeps those that it has"


def test_a_quality_that_needs_the_reference_is_refused(world: World) -> None:
    with pytest.raises(Problem, match="must not see: psnr"):
        FourKAgent(world, Says(), quality={"pocket-deqa": 1, "psnr": 1})
    with pytest.raises(Problem, match=r"'fidelity': is not known\. Use pocket, perception"):
        FourKAgent(world, Says(), quality="fidelity")
    with pytest.raises(Problem, match=r"'pocket': is not known\. Use all, fidelity, perception"):
        FourKAgent(world, Says(), profile="pocket")
    for weights in ({}, {"pocket-deqa": float("nan")}):
        with pytest.raises(Problem, match="no finite weights"):
            FourKAgent(world, Says(), quality=weights)


def test_quality_is_a_weighted_sum_of_oriented_values(world: World) -> None:
    [trajectory] = world.begin([world.draw(0, 0)])

    def quality(**weights: float) -> float:
        eye = PocketEye(world, Says(), {name.replace("_", "-"): weight for name, weight in weights.items()})
        walk = Walk(world, trajectory)
        [[score]] = side_by_side(world.pool, [eye.score(walk, [walk.start])])
        return score

    assert quality(piqe=1) < 0, "of piqe less is better"
    both = quality(pocket_deqa=2.0, piqe=0.5)
    assert both == pytest.approx(2 * quality(pocket_deqa=1) + 0.5 * quality(piqe=1))


@pytest.fixture(scope="module")
def pocket() -> World:
    return World(crop=48, horizon=3, metrics=["psnr", "pocket-deqa"])


def test_on_the_pocket_toolbox(pocket: World) -> None:
    agent = open_agent("4kagent", pocket)
    assert isinstance(agent, FourKAgent)
    once = played(pocket, agent, 6)
    assert once == played(pocket, FourKAgent(pocket), 6)
    assert np.mean([t.gains()["pocket-deqa"] for t in once]) > 0
    for t in once:
        assert t.gains()["pocket-deqa"] * 0.25 >= -agent.threshold * len(t.tool_names)
        tasks = [name.partition("/")[0] for name in t.tool_names]
        assert len(set(tasks)) == len(tasks)


def test_it_does_not_see_the_clean_reference(pocket: World) -> None:
    agent = FourKAgent(pocket)
    trajectories = pocket.begin([pocket.draw(0, k) for k in range(4)])
    walks = [Walk(pocket, t) for t in (*trajectories, *(replace(t, reference=None, quality={}) for t in trajectories))]
    ends = [end.actions for end in side_by_side(pocket.pool, [agent.restore(walk) for walk in walks])]
    assert ends[:4] == ends[4:]
