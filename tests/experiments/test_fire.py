"""What burns in the drill `under_fire.py`, without a cluster: tools that fail by their image, orders, and how memory is judged."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from experiments.drills import fire
from experiments.drills.fire import FAILS, ORDERS, Sample, burning, kind_of, small_disk, toolbox
from experiments.drills.under_fire import grown, without_clock
from tir_env.tools import Toolbox
from tir_env.tools.classical.brighten import stretch

TOOL = "brighten/stretch"


@pytest.fixture(autouse=True)
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ORDERS, str(tmp_path))
    return tmp_path


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(40)]


def test_a_tool_fails_by_its_image_and_does_its_work_on_all_others() -> None:
    failed = 0
    for picture in pictures():
        if zlib.crc32(picture.tobytes()) % FAILS == 0:
            failed += 1
            for _ in range(2):
                with pytest.raises(RuntimeError, match="out of luck"):
                    burning(TOOL, picture)
        else:
            assert np.array_equal(burning(TOOL, picture), stretch(picture))
    assert 0 < failed < 15


def test_an_order_is_carried_out_once(orders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(fire.time, "sleep", slept.append)
    (orders / "hang-1").touch()
    (orders / "slow-1").touch()
    picture = next(each for each in pictures() if zlib.crc32(each.tobytes()) % FAILS)
    for _ in range(2):
        burning(TOOL, picture)
    assert slept == [3600.0, fire.SLOW]
    assert list(orders.iterdir()) == []


def test_its_toolbox_holds_tools_that_break_beside_sound_ones(tmp_path: Path) -> None:
    made = Toolbox.load(str(toolbox(tmp_path / "tools.yaml")))
    assert {tool.name for tool in made} == {*fire.BROKEN, *fire.SOUND}
    broken = made.subset([TOOL])[0]
    assert broken.traits.deadline == fire.DEADLINE
    picture = next(each for each in pictures() if zlib.crc32(each.tobytes()) % FAILS)
    assert np.array_equal(broken(picture), stretch(picture))


def test_a_small_disk_can_be_filled_up_and_is_gone_afterwards(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as mounted:
        if not mounted:
            pytest.skip("only root may mount")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "disk" / "file").write_bytes(bytes(2 << 20))
    assert list((tmp_path / "disk").iterdir()) == []


def test_processes_are_known_by_what_they_call_themselves() -> None:
    assert kind_of("ray::_Actor.run_shared") == "tool worker"
    assert kind_of("ray::SingleAgentEnvRunner.apply") == "env runner"
    assert kind_of("ray::RayTrainWorker.poll") == kind_of("ray::_WrappedExecutable.update") == "learner"
    assert kind_of("/usr/bin/python /somewhere/experiments/run.py --algo ppo") == "driver"
    assert kind_of("ray::IDLE") == "idle"
    assert kind_of("ray::PlacementGroupCleaner") == "helper of Ray Train"


def test_growth_is_that_of_the_worst_process_in_the_second_half_of_its_work() -> None:
    leaks = [Sample(10.0 * k, "driver", 1, 1000 if k < 30 else 1000 + 10 * k) for k in range(60)]
    steady = [Sample(10.0 * k, "driver", 2, 700) for k in range(80)]
    short = [Sample(k, "driver", 3, 5000) for k in range(3)]
    found = grown([*leaks, *steady, *short], "driver")
    assert (found["processes"], found["watched"], found["most"]) == (3, 2, 5000)
    assert found["grown"] == pytest.approx(10 * 20), "from the mean of its first third to that of its last"
    waits = [Sample(10.0 * k, "learner", 1, 60 if k < 40 else 500) for k in range(60)]
    assert grown(waits, "learner")["grown"] == 0, "what it loads when its work begins is no leak"
    assert grown([Sample(10.0 * k, "learner", 1, 60 + 10 * k) for k in range(80)], "learner")["grown"] > 100
    assert np.isnan(grown([Sample(k, "learner", 1, 500) for k in range(8)], "learner")["grown"]), "too short to say"


def test_a_row_without_its_clock() -> None:
    row = {"reward": 1.0, "seconds": 2.0, "seconds/tools": 1.0, "tool_calls_per_second": 3.0, "seconds per image": 4.0}
    assert without_clock(row) == {"reward": 1.0}
