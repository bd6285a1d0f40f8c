from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pool import LocalPool, Outcome
from rewards import make_reward
from tests.conftest import BRIGHTER, DARKER, FAILS, LARGER, NAN, STOP, fake_toolbox
from tir_env.images import ImageError, write_image
from tir_env.observations import facts
from tir_env.starts import Pin, WorldError
from tir_env.tools import Toolbox
from tir_env.trajectory import Trajectory
from tir_env.world import World


def one(world: World, *actions: int, seed: int = 0):  # type: ignore[no-untyped-def]
    [trajectory] = world.begin([world.draw(seed, 0)])
    for action in actions:
        world.step([trajectory], [action])
    return trajectory


def test_rewards_are_the_gains_of_the_metric(world: World) -> None:
    trajectory = one(world, BRIGHTER, DARKER, STOP)
    values = [trajectory.quality["psnr"].value, *(s.quality["psnr"].value for s in trajectory.steps)]
    rewards = [s.reward for s in trajectory.steps]
    np.testing.assert_allclose(rewards, [*np.diff(values)], atol=1e-9)
    assert rewards[2] == 0
    assert trajectory.ended
    assert trajectory.total_reward == pytest.approx(trajectory.gains()["psnr"])


def test_a_failing_tool_leaves_the_image_and_gives_no_reward(world: World) -> None:
    trajectory = one(world, FAILS, BRIGHTER, NAN)
    first, second, third = trajectory.steps
    assert (first.failure.kind, first.reward, first.image is trajectory.input) == ("ModelRaised", 0.0, True)
    assert "the fake tool always fails" in first.failure.message
    assert second.failure is None
    assert second.reward != 0
    assert (third.failure.kind, third.reward, third.digest) == ("ModelRaised", 0.0, second.digest)
    assert "not finite" in third.failure.message
    assert trajectory.used == {BRIGHTER}
    assert trajectory.end_quality["psnr"] == second.quality["psnr"]


def test_an_image_is_enlarged_once(world: World) -> None:
    trajectory = one(world, LARGER)
    assert trajectory.image.shape == (128, 128, 3)
    assert world.mask(trajectory).tolist() == [1, 1, 1, 1, 0, 1]
    world.step([trajectory], [LARGER])
    assert trajectory.steps[-1].failure.kind == "refused"
    assert trajectory.image.shape == (128, 128, 3)


def test_outputs_of_another_size_are_scored_at_the_references(world: World) -> None:
    trajectory = one(world, LARGER)
    assert trajectory.reference.shape == (32, 32, 3)
    assert trajectory.steps[0].quality["psnr"].value > 15


def test_the_horizon_ends_it(world: World) -> None:
    assert not one(world, BRIGHTER, BRIGHTER).ended
    assert one(world, BRIGHTER, BRIGHTER, BRIGHTER).ended


def test_extra_metrics_are_scored_at_both_ends_only(toolbox: Toolbox) -> None:
    world = World(toolbox=toolbox, crop=64, suite="noise", metrics=("ssim",), horizon=3)
    trajectory = one(world, BRIGHTER, BRIGHTER, BRIGHTER)
    assert [sorted(s.quality) for s in trajectory.steps] == [["psnr"], ["psnr"], ["psnr", "ssim"]]
    assert set(trajectory.gains()) == {"psnr", "ssim"}
    assert world.pool.stats().by_model["quality/ssim"] == 2


def test_stopping_at_once_costs_no_second_scoring(world: World) -> None:
    one(world, STOP)
    assert world.pool.stats().by_model == {"quality/psnr": 1}


def test_a_reward_for_the_end_alone(toolbox: Toolbox) -> None:
    world = World(toolbox=toolbox, crop=32, suite="noise", reward="final:psnr", horizon=3)
    trajectory = one(world, BRIGHTER, STOP)
    assert [s.reward for s in trajectory.steps] == [0.0, trajectory.end_quality["psnr"].value]
    assert world.pool.stats().by_model["quality/psnr"] == 2, "not scored on the way"


def fail_metric(world: World, metric: str, monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Make some calls of a metric fail, counted from 1 (the input's score)."""
    honest, made = world.metrics[metric].run, []

    def flaky(items):  # type: ignore[no-untyped-def]
        made.append(1)
        if len(made) in calls:
            raise RuntimeError("no score today")
        return honest(items)

    monkeypatch.setattr(world.metrics[metric], "run", flaky)


@pytest.mark.parametrize(
    ("actions", "valid"),
    [
        ((BRIGHTER, DARKER, DARKER), [False, False, True]),
        ((BRIGHTER, STOP), [False] * 2),
        ((BRIGHTER, FAILS, DARKER), [False] * 3),
    ],
)
def test_an_image_that_was_not_scored_costs_its_own_step_the_reward_and_no_more(
    toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch, actions: tuple[int, ...], valid: list[bool], tmp_path: Path
) -> None:
    """The step after it is paid for both, so that it says nothing of its own decision either."""
    world = World(toolbox=toolbox, crop=32, suite="noise", horizon=3)
    fail_metric(world, "psnr", monkeypatch, 2)
    trajectory = one(world, *actions)
    first = trajectory.steps[0]
    assert (first.reward, first.valid, first.failure, first.unscored.kind) == (0.0, False, None, "ModelRaised")
    assert first.changed
    assert BRIGHTER in trajectory.used
    assert [step.valid for step in trajectory.steps] == valid
    assert trajectory.end_quality["psnr"].value == pytest.approx(score_of(trajectory.image, trajectory.reference))
    assert trajectory.total_reward == pytest.approx(trajectory.gains()["psnr"])
    assert world.remake(Trajectory.load(trajectory.save(tmp_path / "t"))) == trajectory


def score_of(image: np.ndarray, reference: np.ndarray) -> float:
    return 10 * math.log10(255**2 / ((image.astype(float) - reference) ** 2).mean())


def test_a_metric_that_is_only_reported_does_not_touch_the_reward(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(toolbox=toolbox, crop=64, suite="noise", metrics=("ssim",), horizon=2)
    fail_metric(world, "ssim", monkeypatch, 2)
    trajectory = one(world, BRIGHTER, BRIGHTER)
    assert trajectory.steps[-1].valid
    assert trajectory.steps[-1].unscored.model == "quality/ssim"
    assert set(trajectory.end_quality) == {"psnr"}
    info = facts(trajectory, live=False)
    assert info["quality"]["ssim"] == trajectory.quality["ssim"].value, "an earlier image's"
    assert info["scored"] == {"psnr": True, "ssim": False}
    assert trajectory.total_reward == pytest.approx(trajectory.gains()["psnr"])


def test_a_tool_that_fails_after_an_image_that_was_not_scored_is_not_paid_for_it(
    toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(toolbox=toolbox, crop=32, suite="noise", horizon=2)
    fail_metric(world, "psnr", monkeypatch, 2)
    trajectory = one(world, BRIGHTER, FAILS)
    assert "psnr" in trajectory.end_quality
    assert [(step.reward, step.valid) for step in trajectory.steps] == [(0.0, False)] * 2


@pytest.mark.parametrize("reward", ["final:psnr", "gain:psnr"])
@pytest.mark.parametrize("before", [(), (BRIGHTER, BRIGHTER)])
def test_a_tool_that_fails_at_the_end_is_never_paid(toolbox: Toolbox, reward: str, before: tuple[int, ...]) -> None:
    design = make_reward(reward)
    design.every_step = False  # as in GRPO, which judges the end alone
    world = World(toolbox=toolbox, crop=32, suite="noise", reward=design, horizon=len(before) + 1)
    last = one(world, *before, FAILS).steps[-1]
    assert (last.reward, last.valid) == (0.0, False)


@pytest.mark.parametrize("last", [STOP, DARKER])
def test_a_reward_for_the_end_is_paid_there(toolbox: Toolbox, last: int) -> None:
    world = World(toolbox=toolbox, crop=32, suite="noise", reward="final:psnr", horizon=3)
    trajectory = one(world, BRIGHTER, BRIGHTER, last)
    assert [s.reward for s in trajectory.steps[:2]] == [0, 0]
    assert trajectory.steps[2].reward == trajectory.end_quality["psnr"].value > 5
    assert trajectory.steps[2].valid


def test_an_episode_that_has_ended_takes_no_action(world: World) -> None:
    trajectory = one(world, STOP)
    with pytest.raises(WorldError, match="has ended"):
        world.step([trajectory], [BRIGHTER])


def test_quality_keeps_the_last_value_of_every_metric(toolbox: Toolbox) -> None:
    world = World(toolbox=toolbox, crop=64, suite="noise", metrics=("ssim",), horizon=3)
    trajectory = one(world, BRIGHTER)
    assert set(trajectory.image_quality) == {"psnr"}
    assert set(trajectory.last_quality) == {"psnr", "ssim"}
    assert trajectory.last_quality["ssim"] == trajectory.quality["ssim"]


def test_depth_from_a_file_is_of_the_whole_photograph(toolbox: Toolbox, tmp_path: Path) -> None:
    photo = np.full((64, 256, 3), 40, np.uint8)
    photo[::2] = 42
    write_image(tmp_path / "photos" / "x" / "1.png", photo)
    depth = np.zeros((64, 256))
    depth[:, 128:] = 1  # the right half is far
    (tmp_path / "depth" / "x").mkdir(parents=True)
    np.save(tmp_path / "depth" / "x" / "1.npy", depth)
    np.save(tmp_path / "depth" / "1.npy", np.ones((64, 256)))  # of another photograph of that name
    for suite in ("haze", "haze+low resolution"):
        world = World(tmp_path / "photos", "all", suite, toolbox, crop=64, depth=f"folder:{tmp_path / 'depth'}")
        means = []
        for left in (0, 192):
            [trajectory] = world.begin([world.draw(0, 0, Pin(corner=(0, left)))])
            means.append(trajectory.input.mean())
            assert world.remake(trajectory) == trajectory
        assert means[0] == pytest.approx(41, abs=0.6), "near: no haze"
        assert means[1] > 120


def test_a_start_that_cannot_be_scored_is_an_error(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(toolbox=toolbox, crop=32, suite="noise")
    monkeypatch.setattr(world.metrics["psnr"], "run", lambda items: [][0])
    with pytest.raises(WorldError, match="cannot be scored"):
        one(world)


def test_equal_starts_are_made_and_scored_once(world: World) -> None:
    start = world.draw(1, 2)
    group = world.begin([start] * 8)
    assert world.pool.stats().by_model == {"quality/psnr": 1}
    world.step(group[:1], [BRIGHTER])
    assert [len(t.steps) for t in group] == [1] + [0] * 7


def test_a_step_keeps_its_calls_in_flight_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    honest = LocalPool.run

    def run(self, calls, **options):  # type: ignore[no-untyped-def]
        batches.append(len(calls))
        return honest(self, calls, **options)

    monkeypatch.setattr(LocalPool, "run", run)
    trajectories = world.begin([world.draw(s, 0) for s in range(6)])
    world.step(trajectories, [BRIGHTER, DARKER, FAILS, STOP, BRIGHTER, LARGER])
    assert batches == [6, 5, 4], "starts scored; tools; scores of what changed"


def test_pins(world: World) -> None:
    free = world.draw(3, 1)
    assert world.draw(3, 1) == free
    assert world.draw(3, 2) != free
    pinned = world.draw(3, 1, Pin(image="rocket", case="noise+jpeg", seed=5, corner=(1, 2)))
    assert (pinned.image, pinned.case, pinned.seed, pinned.corner) == ("rocket", "noise+jpeg", 5, (1, 2))
    assert world.draw(3, 1, Pin(seed=5)).image == free.image
    assert world.draw(3, 1, Pin(image=0)).image == world.images[0].name
    with pytest.raises(ImageError, match="is not in"):
        world.draw(3, 1, Pin(image="moon"))
    with pytest.raises(WorldError, match="out of range"):
        world.draw(3, 1, Pin(case=7))


def test_photographs_as_they_are(toolbox: Toolbox) -> None:
    with pytest.raises(WorldError, match="have none: psnr"):
        World(toolbox=toolbox, suite="as-is")
    world = World(toolbox=toolbox, suite="as-is", reward="gain:piqe", crop=128)
    trajectory = one(world, BRIGHTER, STOP)
    assert trajectory.reference is None
    assert trajectory.record == []
    assert "piqe" in trajectory.gains()


def test_a_picture_of_the_users_own(world: World, photo: np.ndarray) -> None:
    trajectory = world.enter(photo, "me.jpg", reference=photo)
    world.step([trajectory], [DARKER])
    assert trajectory.image.shape == photo.shape
    with pytest.raises(ValueError, match="expected uint8"):
        world.enter(photo.astype(float))


@pytest.mark.parametrize("reward", ["gain:piqe", "final:piqe"])
def test_a_picture_without_a_score_can_be_restored_and_earns_nothing(
    toolbox: Toolbox, photo: np.ndarray, reward: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(toolbox=toolbox, suite="as-is", reward=reward, metrics=("entropy",), horizon=2)
    black = world.enter(np.zeros((64, 64, 3), np.uint8))
    assert list(black.quality) == ["entropy"]
    assert black.failures[0].model == "quality/piqe"
    honest = world.pool.run
    crop = np.ascontiguousarray(photo[:64, :64])
    seen = [Outcome("denoise/brighter", crop)]
    monkeypatch.setattr(world.pool, "run", lambda calls: seen if calls[0].model == "denoise/brighter" else honest(calls))
    for action in (BRIGHTER, STOP):
        world.step([black], [action])
    assert [(step.reward, step.valid) for step in black.steps] == [(0.0, reward == "final:piqe"), (0.0, reward == "gain:piqe")]
    assert set(black.end_quality) == {"piqe", "entropy"}
    assert black.gains().keys() == {"entropy"}
    assert Trajectory.load(black.save(tmp_path / "black")).unscored == black.unscored


def test_a_given_pool_is_shared_and_left_open(toolbox: Toolbox) -> None:
    pool = LocalPool()
    world = World(toolbox=toolbox, suite="noise", crop=32, pool=pool)
    world.close()
    assert pool.run([]) == []
    one(world, STOP)
    owner = World(toolbox=toolbox, suite="noise", crop=32)
    owner.close()
    with pytest.raises(WorldError, match="the pool is closed"):
        one(owner)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"horizon": 0}, "horizon"), ({"horizon": 2.5}, "horizon"), ({"crop": 3}, "crop"), ({"crop": 31}, "crop")],
)
def test_settings_that_make_no_sense(toolbox: Toolbox, settings: dict, reason: str) -> None:
    with pytest.raises(WorldError, match=reason):
        World(toolbox=toolbox, **settings)


def test_a_photograph_that_was_replaced_is_noticed(toolbox: Toolbox, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    world = World(tmp_path, "all", "noise", toolbox, crop=32)
    start = world.draw(0, 0)
    write_image(tmp_path / "a.png", photo[::-1])
    world.begin([start])  # still in memory
    again = World(tmp_path, "all", "noise", toolbox, crop=32)
    with pytest.raises(WorldError, match="has other pixels than the start recorded"):
        again.begin([start])


def test_a_limited_set_of_starts_is_spread_evenly_over_the_cases() -> None:
    world = World(toolbox=fake_toolbox(), crop=32, suite="restore-r1-i", starts=10)
    drawn = {world.draw(stream, episode) for stream in range(6) for episode in range(60)}
    assert len(drawn) == 10
    assert sorted(start.case for start in drawn) == sorted([case.name for case in world.suite] * 2)
    assert {world.draw(77, episode) for episode in range(60)} <= drawn, "whoever draws"
    with pytest.raises(WorldError, match="starts"):
        World(toolbox=fake_toolbox(), starts=-1)
