"""AgenticIR on images that say how spoilt they are: each part of the algorithm shows in what it does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from agents.training_free.agentic_ir import AgenticIR
from agents.training_free.experience import Experience, Record
from agents.training_free.planners import Planner, TablePlanner
from agents.training_free.search import Search, Walk
from tests.agents.training_free.coded import eye_of, played, rules, world_of
from tir_env.world import World


class InOrder(Planner):
    """The tasks as given, but for those that shall not be first."""

    name = "in order"

    def __init__(self, *order: str) -> None:
        self.wanted, self.asked = order, 0

    def order(self, walk: Walk, tasks: Sequence[str], not_first: Collection[str] = ()) -> Search[list[str]]:
        self.asked += 1
        return sorted(tasks, key=lambda task: (task in not_first, self.wanted.index(task)))
        yield


def agent_of(world: World, *order: str, **switches: bool) -> AgenticIR:
    return AgenticIR(eye_of(world), InOrder(*order), **switches)


CLEAN = (("denoise", "noise=0"), ("derain", "rain=0"), ("dejpeg", "jpeg=0"))


def test_it_follows_the_plan_and_stops() -> None:
    world = world_of(*CLEAN)
    [trajectory] = played(world, agent_of(world, "dejpeg", "derain", "denoise"))
    assert rules(world, trajectory) == ["jpeg=0", "rain=0", "noise=0"]
    notes = trajectory.steps[0].notes
    assert (notes["tool_calls"], notes["policy_calls"]) == (3, 4), "one look at the input and at each output"


def test_what_is_low_is_not_on_the_agenda() -> None:
    world = world_of(*CLEAN, spoilt=(200, 60, 0))
    [trajectory] = played(world, agent_of(world, "dejpeg", "derain", "denoise"))
    assert rules(world, trajectory) == ["noise=0"]
    world = world_of(*CLEAN, spoilt=(0, 0, 0))
    [trajectory] = played(world, agent_of(world))
    assert (rules(world, trajectory), trajectory.steps[0].notes["tool_calls"]) == ([], 0)


def test_the_first_tool_that_leaves_very_little_is_taken() -> None:
    world = world_of(*[("denoise", "noise=0")] * 4, spoilt=(200, 0, 0))
    [trajectory] = played(world, agent_of(world, "denoise"))
    assert trajectory.steps[0].notes["tool_calls"] == 1, "early accept"
    world = world_of(("denoise", "noise=190"), ("denoise", "noise=64"), ("denoise", "noise=120"), spoilt=(200, 0, 0))
    [trajectory] = played(world, agent_of(world, "denoise"))
    assert rules(world, trajectory) == ["noise=64"], "low will do where none is very low"
    assert trajectory.steps[0].notes["tool_calls"] == 3


def test_a_failed_task_is_rolled_back_and_comes_later() -> None:
    tools = (("denoise", "noise=0"), ("derain", "rain=0 if noise<50"), ("derain", "noise=255"))
    world = world_of(*tools, spoilt=(200, 200, 0))
    planner = InOrder("derain", "denoise")
    [trajectory] = played(world, AgenticIR(eye_of(world), planner))
    assert rules(world, trajectory) == ["noise=0", "rain=0 if noise<50"]
    assert planner.asked == 2, "it planned anew"
    [kept] = played(world, agent_of(world, "derain", "denoise", rollback=False))
    assert rules(world, kept)[1:] == ["noise=0"], "what failed is kept, and the plan goes on"
    assert rules(world, kept)[0] in ("rain=0 if noise<50", "noise=255")


def test_without_rescheduling_the_plan_is_only_turned() -> None:
    tools = (("denoise", "noise=0"), ("derain", "rain=0 if noise<50"), ("dejpeg", "jpeg=0"))
    world = world_of(*tools)
    planner = InOrder("derain", "dejpeg", "denoise")
    [trajectory] = played(world, AgenticIR(eye_of(world), planner, rescheduling=False))
    assert planner.asked == 1
    assert rules(world, trajectory) == ["jpeg=0", "noise=0", "rain=0 if noise<50"]


def test_without_reflection_the_first_tool_is_taken_unseen() -> None:
    world = world_of(("denoise", "noise=190"), ("derain", "rain=255"), spoilt=(200, 200, 0))
    [trajectory] = played(world, agent_of(world, "derain", "denoise", reflection=False))
    assert rules(world, trajectory) == ["rain=255", "noise=190"]
    assert trajectory.steps[0].notes["policy_calls"] == 1


def test_where_nothing_helps_it_ends_with_the_best_that_it_saw() -> None:
    world = world_of(("denoise", "noise=130"), ("derain", "rain=210"), spoilt=(200, 200, 0))
    [trajectory] = played(world, agent_of(world, "derain", "denoise"))
    assert rules(world, trajectory) == ["noise=130"]
    world = world_of(("denoise", "noise=240"), ("derain", "rain=210"), spoilt=(200, 200, 0))
    [trajectory] = played(world, agent_of(world, "derain", "denoise"))
    assert rules(world, trajectory) == [], "the input was the best"


def test_it_goes_up_where_every_task_failed_on_a_level() -> None:
    world = world_of(("derain", "rain=0"), ("denoise", "noise=0 if rain>100"), spoilt=(200, 200, 0))
    [trajectory] = played(world, agent_of(world, "derain", "denoise"))
    assert rules(world, trajectory) == ["noise=0 if rain>100", "rain=0"]
    assert trajectory.steps[0].notes["tool_calls"] == 4


def test_a_plan_has_no_more_tasks_than_the_episode_has_steps() -> None:
    world = world_of(*CLEAN, horizon=2, spoilt=(250, 180, 220))
    [trajectory] = played(world, agent_of(world, "denoise", "derain", "dejpeg"))
    assert rules(world, trajectory) == ["noise=0", "jpeg=0"], "the severest"


def test_the_table_takes_the_order_that_left_least() -> None:
    world = world_of(*CLEAN)
    raw = {
        "denoise+derain": {
            "denoise>derain": Record(tried=4, survived={"rain": 4}),
            "derain>denoise": Record(tried=4, survived={"rain": 1}),
        },
        "dejpeg+derain": {
            "dejpeg>derain": Record(tried=2, survived={}),
            "derain>dejpeg": Record(tried=2, survived={"jpeg": 2}),
        },
    }
    experience = Experience(toolbox="coded", perceiver="coded", made_from="by hand", raw=raw)
    assert experience.distilled["denoise>derain"] == pytest.approx(0.5)
    planner = TablePlanner(experience)
    [trajectory] = played(world, AgenticIR(eye_of(world), planner))
    assert rules(world, trajectory) == ["jpeg=0", "rain=0", "noise=0"]
    assert "dejpeg before derain leaves 0% of the degradations, derain before dejpeg 50%." in experience.told()


def test_without_experience_the_order_is_random_but_the_same_for_an_image() -> None:
    world = world_of(*CLEAN)
    agent = AgenticIR(eye_of(world), TablePlanner(None))
    once = [rules(world, t) for t in played(world, agent, 12)]
    assert once == [rules(world, t) for t in played(world, agent, 12)]
    assert len({tuple(each) for each in once}) > 2
    other = [rules(world, t) for t in played(world, AgenticIR(eye_of(world), TablePlanner(None), seed=1), 12)]
    assert other != once
