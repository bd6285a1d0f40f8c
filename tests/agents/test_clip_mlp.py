"""The trained agent at work, and agents by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.agent import observer_for, play
from agents.clip_mlp.agent import JSON, WEIGHTS, AgentError, ClipMlpAgent, EncoderSpec
from agents.clip_mlp.network import Actor, Shape
from agents.opening import open_agent
from pool import Problem
from tests.agents.encoders import Statistics
from tests.conftest import LARGER
from tir_env.trajectory import Trajectory
from tir_env.world import World

SPEC = EncoderSpec("tests.agents.encoders:Statistics")


@pytest.fixture
def agent(world: World) -> ClipMlpAgent:
    torch.manual_seed(0)
    actor = Actor(Shape(Statistics.dim, len(world.toolbox), world.horizon))
    with torch.no_grad():
        actor.layers[-1].weight.mul_(100)  # opinions of its own
    return ClipMlpAgent(actor, Statistics(), [tool.name for tool in world.toolbox], SPEC)


def test_it_is_deterministic_and_obeys_the_mask(agent: ClipMlpAgent, world: World) -> None:
    starts = [world.draw(0, k) for k in range(8)]
    one, two = (play(world, observer_for(agent, world), agent, starts) for _ in range(2))
    assert one == two
    assert not any(f.kind == "refused" for t in one for f in t.failures)
    with torch.no_grad():
        agent.actor.layers[-1].bias[LARGER] = 1000.0
    for trajectory in play(world, observer_for(agent, world), agent, starts):
        assert trajectory.actions.count(LARGER) == 1


def test_it_notes_how_likely_its_best_actions_were(agent: ClipMlpAgent, world: World, tmp_path: Path) -> None:
    played = play(world, observer_for(agent, world), agent, [world.draw(0, k) for k in range(4)])
    for trajectory in played:
        for step in trajectory.steps:
            noted = step.notes["probabilities"]
            assert 1 <= len(noted) <= 5
            assert next(iter(noted)) == step.tool, "the likeliest is done"
            assert list(noted.values()) == sorted(noted.values(), reverse=True)
            assert 0 < sum(noted.values()) <= 1.001
    loaded = Trajectory.load(played[0].save(tmp_path / "t"))
    assert loaded.steps[0].notes == played[0].steps[0].notes


def test_saved_and_loaded_it_decides_alike(agent: ClipMlpAgent, world: World, tmp_path: Path) -> None:
    agent.save(tmp_path / "agent")
    starts = [world.draw(0, k) for k in range(6)]
    for spec in (tmp_path, tmp_path / "agent"):
        loaded = open_agent(str(spec), world)
        assert play(world, observer_for(loaded, world), loaded, starts) == play(
            world, observer_for(agent, world), agent, starts
        )
    assert sorted(path.name for path in (tmp_path / "agent").iterdir()) == sorted([JSON, WEIGHTS])


def test_another_toolbox_is_refused(agent: ClipMlpAgent, world: World, tmp_path: Path) -> None:
    agent.save(tmp_path)
    other = World(toolbox=world.toolbox.subset(["denoise"]), crop=32, suite="noise+jpeg")
    with pytest.raises(AgentError, match="other tools than toolbox 'fake' has: super_resolve/larger"):
        open_agent(str(tmp_path), other)


def edited(**changes: object) -> Callable[[Path], object]:
    """The JSON file with other values."""
    return lambda folder: (folder / JSON).write_text(json.dumps(json.loads((folder / JSON).read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / JSON).write_text("{"), "JSONDecodeError"),
        (lambda folder: (folder / WEIGHTS).unlink(), "No such file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"nonsense"), "SafetensorError"),
        (
            lambda folder: (folder / JSON).write_text((folder / JSON).read_text().replace('"hidden": 128', '"hidden": 64')),
            "size",
        ),
        (lambda folder: (folder / JSON).write_text(json.dumps({"shape": {}})), "ValidationError"),
        (
            lambda folder: (folder / JSON).write_text(
                (folder / JSON).read_text().replace('"pretrained": ""', '"pretrained": 3.5')
            ),
            "str",
        ),
        (edited(encoder={"model": "statistics", "pretrained": ""}), r"was built for \d+ features and 5 tools, and names"),
        (edited(tools=["denoise/brighter"]), r"was built for \d+ features and 5 tools, and names \d+ and 1"),
        (lambda folder: (folder / JSON).write_text("[" * 100_000), "RecursionError"),
        (edited(shape={"features": 6, "tools": 5, "horizon": 3, "hidden": 10**30}), "holds no agent that can be read"),
        (edited(shape={"features": Statistics.dim, "tools": 5, "horizon": 0}), "a horizon of 0"),
        (edited(shape={"features": Statistics.dim, "tools": 5, "horizon": 10**30}), "a horizon of 10000"),
        # 4 TB, if anybody believed it
        (
            lambda folder: (folder / JSON).write_text(
                (folder / JSON).read_text().replace('"hidden": 128', f'"hidden": {10**10}')
            ),
            "size mismatch",
        ),
    ],
)
def test_broken_folders_are_named(agent: ClipMlpAgent, tmp_path: Path, spoil, reason: str) -> None:  # type: ignore[no-untyped-def]
    agent.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AgentError, match=reason):
        ClipMlpAgent.load(tmp_path)


def test_agents_by_name(world: World) -> None:
    starts = [world.draw(0, 0)]
    for spec, actions in (("none", [5]), ("denoise/brighter", [0, 5]), ("super_resolve/larger+denoise/darker", [4, 1, 5])):
        agent = open_agent(spec, world)
        assert play(world, observer_for(agent, world), agent, starts)[0].actions == actions
    assert open_agent("random", world, 3).name == "random"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("denoise/bright", "Did you mean 'denoise/brighter'"),
        ("+".join(["denoise/brighter"] * 4), "has 4 tools for 3 decisions"),
        ("/", "holds no trained agent"),
    ],
)
def test_unknown_agents_are_named(world: World, spec: str, reason: str) -> None:
    with pytest.raises(Problem, match=reason):
        open_agent(spec, world)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("json:Nothing", "AttributeError"),
        ("json:JSONDecoder", "Derive your class from pool.model.Model"),
        ("builtins:breakpoint", "Derive your class from pool.model.Model"),
        ("tests.pool.models:Batch", "whole number `dim`"),
    ],
)
def test_encoders_that_are_none_are_named(spec: str, reason: str) -> None:
    with pytest.raises(AgentError, match=reason):
        EncoderSpec(spec).open()


def test_probabilities_add_up(agent: ClipMlpAgent, world: World) -> None:
    [trajectory] = world.begin([world.draw(0, 0)])
    [row] = agent.probabilities(observer_for(agent, world).observe_batch([trajectory]))
    assert row.sum() == pytest.approx(1)
    assert row.argmax() == agent.act(observer_for(agent, world).observe_batch([trajectory]), [trajectory])[0]
    assert np.isfinite(row).all()
