"""The bounds: what every sequence of tools could do at best, in the real world and on a tree of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.opening import open_agent
from agents.training_free.bounds import ExhaustiveOracle, GreedyOracle
from pool import Call, Outcome, Problem, Traits
from pool.errors import WorkerLost
from tests.conftest import Mean, fake_toolbox
from tests.tir_env.tree.forest import grown, real_world, starts_of
from tir_env.images.operations import digest
from tir_env.tools import Tool, Toolbox
from tir_env.tools.weights import Weights
from tir_env.trajectory import Start
from tir_env.tree import TreeError, TreeWorld
from tir_env.world import World

COUNT = 6


@pytest.fixture(scope="module")
def starts() -> list[Start]:
    return starts_of(real_world(), COUNT)


@pytest.fixture(scope="module")
def ends(starts: list[Start]) -> dict[tuple[int, ...], np.ndarray]:
    """PSNR of every start at the end of every sequence of at most three tools, played one by one."""
    world = real_world()
    found = {}
    for length in range(4):
        for actions in itertools.product(range(world.stop), repeat=length):
            trajectories = world.begin(starts)
            for action in [*actions, world.stop][:3]:
                world.step(trajectories, [action] * COUNT)
            found[actions] = np.array([t.end_quality["psnr"].value for t in trajectories])
    return found


def test_who_looks_at_nothing_has_no_policy_calls(starts: list[Start]) -> None:
    world = real_world()
    for name in ("none", "random", "denoise/brighter", "oracle:psnr"):
        agent = open_agent(name, world)
        played = play(world, observer_for(agent, world), agent, starts)
        assert {step.notes["policy_calls"] for t in played for step in t.steps} == {0}


def test_it_looks_no_further_than_the_horizon(starts: list[Start]) -> None:
    world = real_world(horizon=1)
    oracle = open_agent("oracle:psnr:3", world)
    before = world.pool.stats().by_model.copy()
    play(world, observer_for(oracle, world), oracle, starts[:1])
    ran = sum(count - before.get(name, 0) for name, count in world.pool.stats().by_model.items() if name in world.toolbox)
    assert ran <= world.stop + 1, "each tool once, and the best of them for good"


def test_what_may_pass_is_no_fact(starts: list[Start], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree in which a tool had failed because its worker was lost would say so for ever."""
    world = real_world()
    run = world.pool.run

    def lossy(calls: list[Call]) -> list[Outcome]:
        lost = WorkerLost("denoise/brighter", "it was killed")
        return [
            Outcome(c.model, error=lost) if c.model == "denoise/brighter" else o for c, o in zip(calls, run(calls), strict=True)
        ]

    monkeypatch.setattr(world.pool, "run", lossy)
    with pytest.raises(TreeError, match="lost its worker"):
        grown(world, starts[:1])


def test_a_tool_that_has_moods_grows_no_tree() -> None:
    moody = Tool("denoise", "moody", fake_toolbox()[0].engine, traits=Traits(deterministic=False))
    world = World(toolbox=Toolbox("moody", [moody]), crop=32, horizon=2, suite="noise+jpeg")
    with pytest.raises(TreeError, match="denoise/moody: may give another image the next time"):
        open_agent("oracle:psnr:2", world)


def test_the_exhaustive_oracle_finds_the_best_of_all_sequences(
    starts: list[Start], ends: dict[tuple[int, ...], np.ndarray]
) -> None:
    world = real_world()
    oracle = open_agent("oracle:psnr:3", world)
    played = play(world, observer_for(oracle, world), oracle, starts)
    best = np.max(list(ends.values()), axis=0)
    np.testing.assert_array_equal([t.end_quality["psnr"].value for t in played], best)
    greedy = play(world, observer_for(oracle, world), GreedyOracle(world), starts)
    assert (best >= [t.end_quality["psnr"].value for t in greedy]).all()
    # brighter and darker undo each other (but where they clip), so that images are merged: far from 5 + 25 + 125 calls
    calls = [sum(step.notes["tool_calls"] for step in t.steps) for t in played]
    assert all(5 + 4 + 4 + 4 < each < 100 for each in calls)


def test_no_image_meets_a_tool_twice(starts: list[Start], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(toolbox=fake_toolbox(), crop=32, horizon=3, suite="restore-r1-i", metrics=("psnr",))
    met: list[tuple[str, str]] = []
    run = world.pool.run

    def watched(calls: list[Call]) -> list[Outcome]:
        met.extend((call.model, digest(call.item)) for call in calls if call.model in world.toolbox)
        return run(calls)

    monkeypatch.setattr(world.pool, "run", watched)
    oracle = ExhaustiveOracle(world)
    oracle.act({}, world.begin(starts[:1]))
    assert len(met) == len(set(met)) == oracle.notes()[0]["tool_calls"]


def test_the_best_sequence_is_best_on_average(starts: list[Start], ends: dict[tuple[int, ...], np.ndarray]) -> None:
    world = real_world()
    agent = ExhaustiveOracle(world).best_sequence(starts)
    best = max(values.mean() for values in ends.values())
    assert ends[tuple(agent.actions)].mean() == pytest.approx(best, abs=1e-12)
    assert agent.name == ("+".join(world.toolbox[action].name for action in agent.actions) or "no tool")


def test_on_a_tree_they_are_the_same(starts: list[Start]) -> None:
    real = real_world()
    kept = TreeWorld(grown(real, starts), "all", metrics=("psnr", "ssim"))
    for spec in ("oracle:psnr", "oracle:ssim:3", "oracle:psnr:2", "none", "random"):
        played = []
        for world in (real, kept):
            agent = open_agent(spec, world)
            played.append(play(world, observer_for(agent, world), agent, starts))
        assert played[0] == played[1]
        assert [[s.notes for s in t.steps] for t in played[0]] == [[s.notes for s in t.steps] for t in played[1]]
    assert ExhaustiveOracle(real).best_sequence(starts).actions == ExhaustiveOracle(kept).best_sequence(starts).actions


def test_what_was_searched_is_kept(starts: list[Start], tmp_path: Path) -> None:
    world = real_world()
    spec = f"oracle:psnr:2:{tmp_path}"
    first = open_agent(spec, world).act({}, world.begin(starts[:3]))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    again = real_world()
    begun = again.begin(starts[:3])
    before = again.pool.stats().calls
    assert (open_agent(spec, again).act({}, begun) == first).all()
    assert again.pool.stats().calls == before
    open_agent(f"oracle:psnr:1:{tmp_path}", again).act({}, begun)
    assert len(list(tmp_path.glob("*.safetensors"))) == 6, "another depth is another search"


def test_what_was_searched_with_other_parameters_or_weights_is_not_taken(starts: list[Start], tmp_path: Path) -> None:
    weights = tmp_path / "w.bin"

    def search(by: int, place: Path = tmp_path) -> int:
        toolbox = Toolbox("one", [Tool("denoise", "add", Adds(by, Weights("w.bin", place)))])
        world = World(toolbox=toolbox, crop=32, horizon=1, suite="restore-r1-i", metrics=("psnr",))
        oracle = open_agent(f"oracle:psnr:1:{tmp_path}", world)
        oracle.act({}, world.begin(starts[:1]))
        return len(list(tmp_path.glob("*.safetensors")))

    weights.write_bytes(b"one")
    assert [search(by) for by in (3, 4, 3)] == [1, 2, 2]
    elsewhere = tmp_path / "another checkout"
    elsewhere.mkdir()
    (elsewhere / "w.bin").write_bytes(b"one")
    assert search(3, elsewhere) == 2, "the same weights in another place"
    weights.write_bytes(b"two")
    assert search(3) == 3


@dataclass(frozen=True)
class Adds:
    by: int
    weights: Weights

    def load(self, tool: Tool) -> Any:
        return lambda batch: np.clip(batch.astype(int) + self.by, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("oracle:psnr:x", "has no depth 'x'"),
        ("oracle:psnr:", "has no depth ''"),
        ("oracle:psnr:0", "depth: must be at least 1"),
        ("oracle:piqe:2", "needs no reference"),
    ],
)
def test_mistakes_are_named(spec: str, reason: str) -> None:
    with pytest.raises(Problem, match=reason):
        open_agent(spec, real_world())


def test_a_tree_bounds_how_far_an_oracle_looks(starts: list[Start]) -> None:
    world = TreeWorld(grown(real_world(), starts[:1], Mean(), depth=1), "all")
    with pytest.raises(Problem, match="looks further than this tree's 1"):
        open_agent("oracle:psnr:2", world)
