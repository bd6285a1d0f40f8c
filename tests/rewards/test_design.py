from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import RewardError, Score, make_reward

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
    with pytest.raises(RewardError, match=r"Derive your class from rewards\.RewardDesign"):
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
