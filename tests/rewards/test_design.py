from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import (
    MetricError,
    Quality,
    RewardDesign,
    RewardError,
    Score,
    Scorer,
    group_advantages,
    judged,
    make_reward,
    open_metric,
    paid,
)
from tir_env.world import World

BEFORE = {"psnr": Score(20.0, 20.0), "lpips": Score(-0.5, 0.5)}
AFTER = {"psnr": Score(23.0, 23.0), "lpips": Score(-0.4, 0.4)}


def test_gain_is_the_difference_of_oriented_values() -> None:
    assert make_reward("gain:psnr").step(BEFORE, AFTER) == pytest.approx(3.0)
    assert make_reward("gain:lpips").step(BEFORE, AFTER) == pytest.approx(0.1), "less LPIPS is a gain"


def test_final_looks_at_the_end_alone() -> None:
    reward = make_reward("final:lpips")
    assert not reward.every_step
    assert reward.step(BEFORE, AFTER) == -0.4


def test_sum_weighs_gains() -> None:
    reward = make_reward("sum:psnr=0.5, lpips=10")
    assert reward.metrics == ("psnr", "lpips")
    assert reward.step(BEFORE, AFTER) == pytest.approx(0.5 * 3 + 10 * 0.1)
    assert make_reward(reward.name).step(BEFORE, AFTER) == reward.step(BEFORE, AFTER), "its name says all of it"


ADDITIVE = ("gain:psnr", "sum:psnr=2", "mar:metrics=psnr", "mar:no-mar,metrics=psnr")


@given(st.sampled_from(ADDITIVE), st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_gains_of_an_episode_add_up_to_the_whole(spec: str, values: list[float]) -> None:
    reward = make_reward(spec)
    qualities = [{"psnr": Score(v, v)} for v in values]
    steps = [reward.step(a, b) for a, b in itertools.pairwise(qualities)]
    assert sum(steps) == pytest.approx(reward.step(qualities[0], qualities[-1]), abs=1e-9)
    assert reward.every_step
    reward.for_groups()
    assert not reward.every_step, "so a learner of groups need not have every step scored"


def test_a_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_reward.py").write_text(
        "from rewards import RewardDesign\n"
        "class Halved(RewardDesign):\n"
        "    name, metrics = 'halved', ('psnr',)\n"
        "    def step(self, before, after):\n"
        "        return (after['psnr'].value - before['psnr'].value) / 2\n"
        "class Other: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    halved = make_reward("my_reward:Halved")
    assert halved.step(BEFORE, AFTER) == pytest.approx(1.5)
    halved.for_groups()
    assert halved.every_step, "nobody said that its steps add up to the whole"
    with pytest.raises(RewardError, match=r"Derive your class from rewards\.design\.RewardDesign"):
        make_reward("my_reward:Other")
    with pytest.raises(RewardError, match="cannot be imported"):
        make_reward("my_reward:Nothing")


@pytest.mark.parametrize(
    "spec",
    ["gain", "psnr", "", "sum:psnr=much", "sum:psnr=nan", "sum:psnr,psnr=2", "no_such_module:Reward", "json:loads", ":x"],
)
def test_what_cannot_be_understood_is_named_with_the_forms(spec: str) -> None:
    with pytest.raises(RewardError) as caught:
        make_reward(spec)
    assert repr(spec) in caught.value.thing
    assert caught.value.remedy


class Own(RewardDesign):
    name, metrics = "own", ("psnr",)

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def step(self, before: Quality, after: Quality) -> Any:
        return self.gives(before, after)


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (lambda before, after: float("nan"), "gave nan for psnr 20, lpips -0.5 before and psnr 23"),
        (lambda before, after: float("inf"), "gave inf"),
        (lambda before, after: after["psnr"].raw * float("nan"), "know `value` and not `raw`"),
        (lambda before, after: None, r"its step\(\) failed: TypeError"),
        (lambda before, after: after["ssim"].value, "KeyError.*Name every metric that it reads"),
    ],
)
def test_a_reward_that_no_learner_can_bear_is_an_error(gives: Any, words: str) -> None:
    with pytest.raises(RewardError, match=words):
        paid(Own(gives), BEFORE, AFTER)
    assert paid(Own(lambda before, after: np.float32(2)), BEFORE, AFTER) == 2.0


def test_the_environment_pays_no_nan(world: World) -> None:
    world.reward = Own(lambda before, after: float("nan"))
    [trajectory] = world.begin([world.draw(0, 0)])
    with pytest.raises(RewardError, match="'own': its step"):
        world.step([trajectory], [0])


def test_a_state_has_all_its_keys_from_the_beginning() -> None:
    class Late(Own):
        def update(self, statistics: Mapping[str, float]) -> None:
            self.state = {"scale": 1.0}

    class Lost(Own):
        state = {"scale": 1.0}  # noqa: RUF012

        def update(self, statistics: Mapping[str, float]) -> None:
            self.state = {"scale": float("nan")}

    ends = np.ones((2, 1))
    with pytest.raises(RewardError, match=r"update\(\) changed which keys `state` has: scale. Give `state` all its keys"):
        Late(None).observe(ends, ends)
    with pytest.raises(RewardError, match=r"update\(\) made scale nan"):
        Lost(None).observe(ends, ends)


def test_what_a_class_forgets_is_said(tmp_path: Path) -> None:
    class Nameless(Own):
        name = None  # type: ignore[assignment]

    class Letters(Own):
        metrics = "psnr"  # type: ignore[assignment]

    with pytest.raises(RewardError, match="Nameless: has no name"):
        make_reward(Nameless(None))
    with pytest.raises(RewardError, match="a comma makes it a tuple"):
        make_reward(Letters(None))


class Brightness(Scorer):
    name = "quality/brightness"

    def run(self, items: Any) -> list[Score]:
        return [Score(float(image.mean()), float(image.mean())) for image, _ in items]


def test_a_metric_of_ones_own_is_named_by_its_class() -> None:
    spec = "tests.rewards.test_design:Brightness"
    world = World(suite="dark", crop=32, toolbox="classical", reward=f"gain:{spec}", metrics=[spec, "psnr"])
    [trajectory] = world.begin([world.draw(0, 0)])
    [reward] = world.step([trajectory], [world.toolbox.index("brighten/gamma")])
    assert reward > 5
    for spec, words in (
        ("json:JSONDecoder", "Derive your class from rewards.quality.Scorer"),
        ("x:Y", "Is its module on PYTHONPATH"),
    ):
        with pytest.raises(MetricError, match=words):
            open_metric(spec)


class Moving(RewardDesign):
    """Pays nothing before it has seen a batch."""

    name, metrics, state = "moving", ("psnr",), MappingProxyType({"weight": 0.0})

    def step(self, before: Quality, after: Quality) -> float:
        return self.state["weight"] * (after["psnr"].value - before["psnr"].value)

    def update(self, statistics: Mapping[str, float]) -> None:
        self.state = {"weight": self.state["weight"] + 2.0}


def test_an_episode_is_judged_by_the_present_state() -> None:
    design, qualities = Moving(), [{"psnr": Score(value, value)} for value in (20.0, 23.0, 22.0)]
    assert judged(design, qualities) == 0.0
    design.advance({})
    assert judged(design, qualities) == 4.0
    design.every_step = False
    assert judged(design, [qualities[0], qualities[1]]) == 6.0


def test_what_is_left_of_steps_that_cancel_is_no_advantage() -> None:
    assert not group_advantages(np.array([[0.0, 0.1 + 0.2 - 0.3, 0.0, 0.0]]), np.ones((1, 4), bool)).any()
