from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.opening import agent_folder, open_agent
from agents.training_free.bounds import FixedAgent, GreedyOracle, RandomAgent
from pool import Problem
from tests.conftest import BRIGHTER, DARKER, LARGER
from tir_env.observations import Observer
from tir_env.world import World


def test_every_start_is_played_once_in_order(world: World) -> None:
    starts = [world.draw(0, k) for k in range(10)]
    played = play(world, Observer(world, 32), RandomAgent(1), starts, at_once=4)
    assert [t.start for t in played] == starts
    assert all(t.ended for t in played)


def test_random_agents_obey_the_mask_and_their_seed(world: World) -> None:
    starts = [world.draw(0, k) for k in range(40)]
    one, two, three = (play(world, Observer(world, 32), RandomAgent(seed), starts) for seed in (1, 1, 2))
    assert [t.actions for t in one] == [t.actions for t in two] != [t.actions for t in three]
    assert not any(f.kind == "refused" for t in one for f in t.failures)
    assert {a for t in one for a in t.actions} == set(range(6))


@pytest.mark.parametrize("actions", [[], [BRIGHTER], [LARGER, BRIGHTER]])
def test_fixed_agents_do_that_and_stop(world: World, actions: list[int]) -> None:
    [trajectory] = play(world, Observer(world, 32), FixedAgent(actions, world.stop, "fixed"), [world.draw(0, 0)])
    assert trajectory.actions == [*actions, world.stop]
    assert np.isfinite(trajectory.total_reward)


def test_the_greedy_oracle_takes_what_is_best_and_stops_where_nothing_is(world: World) -> None:
    oracle = GreedyOracle(world)
    trajectories = world.begin([world.draw(0, k) for k in range(3)])
    [actions] = [oracle.act({}, trajectories)]
    for trajectory, action in zip(trajectories, actions, strict=True):
        values = {world.stop: trajectory.quality["psnr"].value}
        for tool in (BRIGHTER, DARKER, LARGER):
            [played] = world.begin([trajectory.start])
            world.step([played], [tool])
            values[tool] = played.steps[-1].quality["psnr"].value
        assert action == max(values, key=lambda key: values[key])
    assert [note["tool_calls"] for note in oracle.notes()] == [len(world.toolbox)] * 3, "what it tried, failures among it"
    with pytest.raises(Problem, match="needs no reference"):
        GreedyOracle(world, "piqe")


def test_a_folder_that_is_called_as_an_agent_of_ours_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("4kagent", "random", "oracle:psnr", "mine"):
        Path(name).mkdir()
        if name != "mine":
            assert agent_folder(name) is None
    for name in ("./4kagent", "mine"):
        with pytest.raises(Problem, match="holds no trained agent"):
            agent_folder(name)


class Answers:
    """Says what it was given to say; it has no name and no encoder, as a beginner's."""

    answer: Any = None

    def __init__(self, world: World) -> None:
        self.world = world

    def act(self, observations: object, trajectories: list[Any]) -> Any:
        return self.answer if self.answer is not None else [self.world.stop] * len(trajectories)


@pytest.mark.parametrize("answer", [np.array([-1]), np.array([1.9]), np.array([9]), [0, 0], 0, "stop", np.array([True])])
def test_an_answer_that_is_no_action_is_refused(world: World, answer: object) -> None:
    agent = Answers(world)
    agent.answer = answer
    starts = [world.draw(0, 0)]
    with pytest.raises(Problem, match="agent 'Answers': must answer with 1 whole numbers from 0 to 5"):
        play(world, observer_for(agent, world), agent, starts)


def test_an_agent_of_ones_own_is_named_by_its_class(world: World) -> None:
    agent = open_agent("tests.agents.test_agent:Answers", world)
    [trajectory] = play(world, observer_for(agent, world), agent, [world.draw(0, 0)])
    assert trajectory.actions == [world.stop], "a list will do"
    for spec, words in (
        ("tests.agents.test_agent:World", r"is no such class. Name a class with act\(\) or finish\(\)"),
        ("tests.agents.test_agent:Nobody", "cannot be imported and made: AttributeError"),
        ("no_such_module:Agent", "Is its module on PYTHONPATH"),
        ("os:system", "is no such class"),
    ):
        with pytest.raises(Problem, match=words):
            open_agent(spec, world)
