"""The tables of the label-free benchmark, on trajectories whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from agents.agent import observer_for, play
from agents.opening import open_agent
from experiments.bench_label_free import METRICS, SETTINGS, Bench, paths, qualities, rewards_table, settings_table, steps_table
from tests.conftest import fake_toolbox
from tir_env.world import World


@pytest.fixture
def settings() -> Bench:
    return Bench("skimage", rewards=("gain:pocket-deqa", "gain:psnr"), seeds=2, horizon=2, tests=3, crop=32)


def test_every_step_of_every_image_is_scored(settings: Bench) -> None:
    every = "sum:psnr=1,ssim=1"
    world = World(toolbox=fake_toolbox(), suite="dark", crop=32, horizon=2, reward=every)
    agent = open_agent("random", world, 0)
    starts = [world.draw(0, number) for number in range(6)]
    played = play(world, observer_for(agent, world), agent, starts)
    rows = np.array(paths(played, "psnr", 2))
    assert rows.shape == (6, 3)
    assert rows[:, 0].tolist() == [t.quality["psnr"].raw for t in played]
    assert rows[:, -1].tolist() == [t.end_quality["psnr"].raw for t in played]


def test_a_random_agent_has_values_in_all_settings(settings: Bench) -> None:
    every = "sum:" + ",".join(f"{metric}=1" for metric in METRICS)
    worlds = {suite: World(suite=suite, toolbox=fake_toolbox(), crop=48, horizon=2, reward=every) for suite in SETTINGS[:2]}
    done = qualities("random", settings, worlds, seed=0)
    assert set(done) == set(SETTINGS[:2])
    for values in done.values():
        assert len(values["calls"]) == settings.tests
        assert all(np.isfinite(values[metric]).all() and np.shape(values[metric]) == (3, 3) for metric in METRICS)


def test_the_tables_hold_means_over_seeds_and_gains(settings: Bench) -> None:
    def run(before: float, after: float) -> dict[str, object]:
        rows = {metric: [[before, after, after + 1]] * 2 for metric in METRICS}
        return {suite: {**rows, "calls": [1, 2]} for suite in SETTINGS}

    done = {"none 0": run(20, 20), "random 0": run(20, 19), "random 1": run(20, 21)}
    done |= {f"{reward} {seed}": run(20, 24 + seed) for reward in settings.rewards for seed in (0, 1)}
    cells = [[str(cell) for cell in column.cells] for column in settings_table(done, settings).columns]
    assert cells[0][:3] == ["I"] * 3
    assert cells[1][:3] == ["no tool", "random", "ppo"]
    assert cells[2][2] == "25.50 ±0.71"
    cells = [[str(cell) for cell in column.cells] for column in rewards_table(done, settings).columns]
    assert cells[0] == ["random", *settings.rewards]
    assert cells[1] == ["1.00 ±1.41", "5.50 ±0.71", "5.50 ±0.71"]
    cells = [[str(cell) for cell in column.cells] for column in steps_table(done, settings).columns]
    assert cells[0] == ["0 steps", "1 step", "2 steps"]
    assert cells[1][:2] == ["20.00 ±0.00", "24.50 ±0.71"]
