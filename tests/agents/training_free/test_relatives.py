"""MAIR, Q-Agent and HybridAgent on images that say how spoilt they are; then all of them by name on the pocket toolbox."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.opening import open_agent
from agents.training_free.agentic_ir import AgenticIR
from agents.training_free.experience import POCKET, Experience, explore
from agents.training_free.eyes import PocketEye
from agents.training_free.hybrid import HybridAgent
from agents.training_free.mair import Mair
from agents.training_free.planners import TablePlanner
from agents.training_free.q_agent import QAgent
from agents.training_free.search import State, Walk, side_by_side
from experiments.reporting import summary
from pool import Problem
from pool.errors import LoadFailed
from rewards import Score
from rewards.quality import Scorer
from tests.agents.training_free.coded import Reads, eye_of, played, rules, world_of
from tests.agents.training_free.test_agentic_ir import CLEAN, agent_of
from tir_env.images import Image
from tir_env.tools import Tool, Toolbox
from tir_env.world import World


def test_mair_undoes_the_stages_in_reverse() -> None:
    world = world_of(*CLEAN)
    [trajectory] = played(world, Mair(eye_of(world)))
    assert rules(world, trajectory) == ["jpeg=0", "noise=0", "rain=0"], "compression, imaging, scene"


def test_mair_leaves_out_what_does_not_help() -> None:
    world = world_of(("dejpeg", "jpeg=250"), ("denoise", "noise=100"), ("denoise", "noise=240"))
    [trajectory] = played(world, Mair(eye_of(world)))
    assert rules(world, trajectory) == ["noise=100"]
    assert trajectory.steps[0].notes["tool_calls"] == 3


@dataclass
class Codes(Scorer):
    """A quality that reads the code: how little is left in all; it fails on images with a certain rest of noise."""

    name = "quality/codes"
    metric = "codes"

    def run(self, items: list[tuple[Image, Image | None]]) -> list[Score]:
        left = [image[0, 0].astype(float) for image, _ in items]
        if any(each[0] == 77 for each in left):
            raise ValueError("cannot be scored")
        return [Score(-each.sum(), each.sum()) for each in left]


class CodedEye(PocketEye):
    def __init__(self, world: World) -> None:
        self.perceiver, self.weights = Reads(), {"quality/codes": 1.0}
        world.pool.add(self.perceiver, Codes())


def test_q_agent_takes_the_best_tool_of_all_at_every_step() -> None:
    world = world_of(("denoise", "noise=150"), ("denoise", "noise=20"), ("derain", "rain=60"), ("dejpeg", "jpeg=201"))
    [trajectory] = played(world, QAgent(CodedEye(world)))
    assert rules(world, trajectory) == ["noise=20", "rain=60"], "the largest gain first; what makes it worse is left out"
    assert trajectory.steps[0].notes["tool_calls"] == 4 + 2 + 1
    assert trajectory.steps[0].notes["policy_calls"] == 1


def test_q_agent_leaves_out_what_cannot_be_scored() -> None:
    world = world_of(("denoise", "noise=77"), ("denoise", "noise=100"), spoilt=(200, 0, 0))
    [trajectory] = played(world, QAgent(CodedEye(world)))
    assert rules(world, trajectory) == ["noise=100"]


@dataclass
class Large(Codes):
    """Another one that likes what has little noise, and says nothing of the images that a walk begins with."""

    name = "quality/large"

    def run(self, items: list[tuple[Image, Image | None]]) -> list[Score]:
        if any(image[0, 0, 0] in (200, 33) for image, _ in items):
            raise ValueError("too small for me")
        return [Score(1000.0 * int(image[0, 0, 0]), 0.0) for image, _ in items]


def test_a_metric_that_cannot_score_such_images_is_left_out_and_that_is_said() -> None:
    tools = ("denoise", "noise=150"), ("denoise", "noise=20"), ("derain", "rain=60")
    world = world_of(*tools)
    eye = CodedEye(world)
    world.pool.add(Large())
    eye.weights = {"quality/codes": 1.0, "quality/large": 1.0}
    [trajectory] = played(world, QAgent(eye))
    assert rules(world, trajectory) == ["noise=20", "rain=60"], "as without it, though later it would have a say"
    [remark] = trajectory.steps[0].notes["remarks"]
    assert "too small for me" in remark
    eye.weights = {"quality/large": 1.0}
    [nothing] = played(world, QAgent(eye))
    assert nothing.tool_names == []
    assert all("too small for me" in remark for remark in nothing.steps[0].notes["remarks"]), "nobody need wonder why"


def test_an_agent_without_its_quality_is_no_agent() -> None:
    class Absent(Codes):
        name = "quality/absent"

        def load(self) -> None:
            raise FileNotFoundError("no weights here")

    world = world_of(("denoise", "noise=20"))
    eye = CodedEye(world)
    world.pool.add(Absent())
    eye.weights = {"quality/absent": 1.0}
    with pytest.raises(LoadFailed, match="no weights here"):
        played(world, QAgent(eye))


def test_mair_judges_by_the_image_as_it_is_now() -> None:
    world = world_of(("denoise", "noise=100"), ("brighten", "noise=150"), spoilt=(200, 0, 0))

    class Sees(Reads):
        def run(self, items: Any) -> list[dict[str, float]]:
            # It is as dark as it is noisy, and a little less: denoising lightens it.
            return [each | {"dark": each["noise"] * 0.9} for each in super().run(items)]

    [trajectory] = played(world, Mair(PocketEye(world, Sees(), {"piqe": 1.0})))
    assert rules(world, trajectory) == ["noise=100"], "brightening to 150 was less than the 200 of before, not than 100"


def test_hybrid_has_a_fast_way_for_what_is_easy() -> None:
    world = world_of(*CLEAN, ("denoise", "noise=1"), spoilt=(200, 30, 0))
    agent = HybridAgent(eye_of(world), agent_of(world, "denoise", "derain", "dejpeg"))
    [easy] = played(world, agent)
    assert rules(world, easy) == ["noise=0"]
    assert (easy.steps[0].notes["tool_calls"], easy.steps[0].notes["policy_calls"]) == (1, 1)
    hard_world = world_of(*CLEAN)
    [hard] = played(hard_world, HybridAgent(eye_of(hard_world), agent_of(hard_world, "denoise", "derain", "dejpeg")))
    assert len(hard.tool_names) == 3
    nothing = world_of(*CLEAN, spoilt=(0, 0, 0))
    [left_alone] = played(nothing, HybridAgent(eye_of(nothing), agent_of(nothing)))
    assert left_alone.tool_names == []


def test_hybrids_slow_agent_has_its_seed() -> None:
    world = world_of(*(("denoise", f"noise={k}") for k in range(5)), ("derain", "rain=0"), spoilt=(200, 200, 0))
    found = []
    for seed in range(5):
        slow = AgenticIR(eye_of(world), TablePlanner(None), reflection=False, seed=seed)
        [alone], [within] = (played(world, agent) for agent in (slow, HybridAgent(eye_of(world), slow)))
        assert rules(world, alone) == rules(world, within)
        found.append(rules(world, within))
    assert any(each != found[0] for each in found)


def test_hybrid_prefers_a_tool_for_all_in_one() -> None:
    world = world_of(("denoise", "noise=9"), ("all_in_one", "noise=0"), spoilt=(200, 0, 0))
    [trajectory] = played(world, HybridAgent(eye_of(world), agent_of(world)))
    assert rules(world, trajectory) == ["noise=0"]


def test_exploration_counts_what_survives_each_order() -> None:
    world = world_of(("denoise", "noise=0"), ("denoise", "noise=255"), ("dejpeg", "jpeg=0 if noise<50"), spoilt=(200, 0, 200))
    experience = Experience(toolbox="coded", perceiver="coded", made_from="a test")
    two = World(toolbox=world.toolbox, crop=32, horizon=4, suite="noise+jpeg", reward="gain:psnr")
    two._trajectory = world._trajectory  # type: ignore[method-assign]
    explore(two, eye_of(two), [two.draw(0, k) for k in range(3)], experience)
    orders = experience.raw["dejpeg+denoise"]
    first, last = orders["denoise>dejpeg"], orders["dejpeg>denoise"]
    assert (first.tried, last.tried) == (6, 6), "three images, two tools for noise"
    assert first.survived == {"noise": 3, "jpeg": 3}, "where noise stayed, jpeg did, too"
    assert last.survived == {"noise": 3, "jpeg": 6}, "before denoising dejpeg never helps"
    pairs = experience.distilled
    assert experience.cost(["denoise", "dejpeg"], pairs) < experience.cost(["dejpeg", "denoise"], pairs)


def test_experience_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "experience.json"
    with pytest.raises(Problem, match=r"that can be read.*explore\.py"):
        Experience.load(path)
    path.write_text('{"version": 2, "toolbox": "x", "perceiver": "y", "made_from": "z"}')
    with pytest.raises(Problem, match="version"):
        Experience.load(path)


def test_an_order_that_was_never_tried_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "experience.json"
    for record in ('{"tried": 0}', "{}", '{"tried": 2, "survived": {"noise": -1}}'):
        path.write_text(
            f'{{"toolbox": "t", "perceiver": "p", "made_from": "m", "raw": {{"denoise": {{"denoise": {record}}}}}}}'
        )
        with pytest.raises(Problem, match="holds no experience that can be read"):
            Experience.load(path)


def test_the_experience_that_ships_speaks_of_the_pocket_toolbox() -> None:
    experience, toolbox = Experience.load(POCKET), Toolbox.load("pocket")
    assert experience.toolbox == "pocket"
    assert {task for tasks in experience.raw for task in tasks.split("+")} <= set(toolbox.tasks)
    assert len(experience.raw) == 16, "all cases of MiO100"


@pytest.fixture(scope="module")
def pocket() -> World:
    return World(crop=48, horizon=3, suite="restore-r1-iii", metrics=["psnr", "pocket-deqa"])


@pytest.mark.parametrize(
    "spec",
    [
        "agenticir", "agenticir:no-reflection", "agenticir:no-rollback,no-rescheduling,experience=none", "mair", "q-agent",
        "hybrid", "hybrid:slow=4kagent", "4kagent:profile=fidelity,threshold=0.1",
    ],
)  # fmt: skip
def test_on_the_pocket_toolbox(pocket: World, spec: str) -> None:
    agent = open_agent(spec, pocket)
    starts = [pocket.draw(0, k) for k in range(6)]
    once = play(pocket, observer_for(agent, pocket), agent, starts)
    again = play(pocket, observer_for(agent, pocket), agent, starts, at_once=1)
    assert [t.actions for t in once] == [t.actions for t in again], "side by side or one by one"
    assert any(t.tool_names for t in once)
    assert not any(t.failures for t in once)
    row = summary(once, ["psnr", "pocket-deqa"])
    assert row["calls"] >= np.mean([len(t.tool_names) for t in once])
    assert row["policy calls"] >= 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("agenticir:no-rolback", r"no option 'no-rolback'. Did you mean 'no-rollback'"),
        ("agenticir:eye=clip", r"'clip': is not known. Write endpoint:MODEL"),
        ("agenticir:experience=none.json", r"holds no experience"),
        ("hybrid:slow=hybrid", r"is not one that searches"),
        ("4kagent:threshold=much", r"is not a number: 'much'"),
        ("4kagent:threshold=nan", r"is not a number: 'nan'"),
        ("agenticir:no-rollback=false", r"gives no-rollback a value"),
        ("agenticir:eye=", r"gives eye no value"),
        ("hybrid:slow=mair,experience=none", r"no option 'experience'"),
        ("hybrid:slow=4kagent,planner=table", r"no option 'planner'"),
        ("zero-shot:hub:X,at-once=1", r"gives at-once a value"),
        ("mair:quality=psnr", r"'psnr': is not known"),
        ("zero-shot", r"does not say which model"),
        ("zero-shot:hub:", r"is not known. Write"),
        ("agentic-ir", r"is not known"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(pocket: World, spec: str, words: str) -> None:
    with pytest.raises(Problem, match=words):
        open_agent(spec, pocket)


def test_an_eye_perceives_a_state_once(pocket: World) -> None:
    [trajectory] = pocket.begin([pocket.draw(0, 0)])
    walk, eye = Walk(pocket, trajectory), PocketEye(pocket)
    same, other = walk.start, State(walk.start.image)
    seen = [side_by_side(pocket.pool, [eye.look(walk, state)])[0] for state in (same, same, other)]
    assert seen[0] == seen[1] == seen[2]
    assert walk.policy_calls == 2


def test_a_walk_knows_what_may_be_done() -> None:
    world = world_of(("denoise", "noise=0"), ("dejpeg", "jpeg=0"), horizon=2)
    larger = Toolbox("large", [*world.toolbox, Tool("super_resolve", "x4", world.toolbox[0].engine, scale=4)])
    world = World(toolbox=larger, crop=32, horizon=2, suite="jpeg")
    [trajectory] = world.begin([world.draw(0, 0)])
    walk = Walk(world, trajectory)
    assert walk.tools(walk.start, "super_resolve") == [2]
    assert walk.tools(State(walk.start.image, (2,)), "super_resolve") == [], "enlarged already"
    assert walk.tools(State(walk.start.image, (2,)), "denoise") == [0]
    assert walk.tools(State(walk.start.image, (2, 0)), "dejpeg") == [], "no room for a third step"
    assert walk.tasks(["jpeg", "noise", "haze", "motion blur"]) == ["dejpeg", "denoise"]
