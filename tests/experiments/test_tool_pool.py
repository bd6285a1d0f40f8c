"""Where tools run, as the command line says it: here, on a Ray that starts, or on one that is joined."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from experiments.light import LightWorkplace
from experiments.run import Run, settings_from
from experiments.tool_pool import ToolPool, beside_learners, on_ray
from pool import Problem
from pool.options import Options
from tests.experiments.test_scripts import script, within
from tir_env.images.sources import skimage_photos
from tir_env.world import World


@pytest.mark.parametrize("options", [{"workers": 2}, {"worker_memory": 16.0}, {"ray_address": "auto"}])
def test_options_of_workers_need_workers(options: dict[str, object]) -> None:
    with pytest.raises(Problem, match="are for a pool on Ray"):
        ToolPool(**options).open()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [("--workers", 0), ("--worker-memory", 0), ("--worker-memory", "nan"), ("--worker-gpus", -1)]
)
@pytest.mark.parametrize("command", [("run.py",), ("evaluate.py", "--agent", "none", "--pool", "ray")])
def test_no_worker_and_no_memory_are_refused(command: tuple[str, ...], options: tuple[object, ...]) -> None:
    done = within(*command, *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {options[0]}: must be ")


def test_memory_is_said_in_gib() -> None:
    assert Options(**on_ray(3, 16.0, 0.5)) == Options(workers=3, gpus=0.5, memory=16 << 30)
    assert Options(**on_ray(None, None, None)) == Options()
    assert settings_from(["--preset", "paper"]).worker_memory == 24  # DeQA-Score's 16 GiB, and tools beside it


@pytest.mark.parametrize(
    ("workers", "share", "learners", "there", "expected"),
    [
        (None, None, 0, 0, (None, 0.0)),  # no GPU at all: a worker for each core
        (None, None, 0, 2, (2, 1.0)),
        (None, None, 1, 1, (None, 0.0)),  # the learner has the only one
        (None, None, 6, 8, (2, 1.0)),
        (None, 0.25, 6, 8, (8, 0.25)),
        (6, 0.25, 6, 8, (6, 0.25)),
        (32, None, 6, 8, (32, 1 / 16)),  # those that are wanted share what is left
        (4, None, 0, 1, (4, 0.25)),
        (None, 0.6, 1, 3, (2, 0.6)),  # none lies on two GPUs
        (3, 0.0, 1, 1, (3, 0.0)),
        (None, 0.3, 0, 0.9, (3, 0.3)),
    ],
)
def test_workers_leave_the_learners_their_gpus(
    workers: int | None, share: float | None, learners: float, there: float, expected: tuple[int | None, float]
) -> None:
    found = beside_learners(on_ray(workers, None, share), learners, there, there)
    assert (found["workers"], found["gpus"]) == expected


@pytest.mark.parametrize(
    ("workers", "share", "learners", "there", "message"),
    [
        (32, 1.0, 6, 8, "the pool's workers: 32 of 1 GPUs each do not fit into the 2 that the learners leave"),
        (3, 0.6, 1, 3, "the pool's workers: 3 of 0.6 GPUs each do not fit into the 2"),
        (None, 0.5, 1, 1, "the pool's workers: 1 of 0.5 GPUs each do not fit into the 0"),
    ],
)
def test_what_has_no_room_is_said_at_once(workers: Any, share: Any, learners: float, there: float, message: str) -> None:
    with pytest.raises(Problem, match=message):
        beside_learners(on_ray(workers, None, share), learners, there, there)


def test_an_autoscaler_is_asked_for_what_somebody_wants() -> None:
    assert beside_learners(on_ray(None, None, None), 4, 8, 1e18)["workers"] == 4, "those that are up"
    assert beside_learners(on_ray(None, None, None), 8, 4, 16)["gpus"] == 0.0
    assert beside_learners(on_ray(16, None, 0.5), 8, 4, 16)["workers"] == 16


def test_more_than_ray_has_is_refused_wherever_the_tools_run() -> None:
    for pool in ("local", "ray"):
        place = LightWorkplace(Run(pool=pool, gpus=1.0, policy="clip_mlp"))
        place.check_room({"CPU": 1, "GPU": 1})
        with pytest.raises(Problem, match="--gpus 1: asks for 1 GPUs for the learners, and Ray has 0"):
            place.check_room({"CPU": 8})
    place = LightWorkplace(Run(env_runners=4, learners=1, policy="clip_mlp"))
    with pytest.raises(Problem, match="--env-runners 4 and --learners 1: want 5 cores, and Ray has 2"):
        place.check_room({"CPU": 2})
    with pytest.raises(Problem, match="--learners 2: would wait for each other"):
        LightWorkplace(Run(learners=2, policy="clip_mlp"))


def test_haze_by_maps_of_ones_own(tmp_path: Path) -> None:
    """Every photograph gets one: the record says which."""
    for photo in skimage_photos():
        np.save(tmp_path / f"{photo.name}.npy", np.linspace(0, 1, photo.image.size // 3).reshape(photo.image.shape[:2]))
    settings = Run(suite="haze", images="skimage", pool="local", depth=f"folder:{tmp_path}")
    world_settings = LightWorkplace(settings).world_settings("test")
    with pytest.raises(Problem, match="no such folder"):
        LightWorkplace(Run(pool="local", depth=f"folder:{tmp_path}/none"))
    world = World(**world_settings, pool="local")
    [trajectory] = world.begin([world.draw(0, 0)])
    assert f"file:{trajectory.start.image}.npy" in str(trajectory.record)


@pytest.mark.parametrize("command", [("run.py",), ("evaluate.py", "--agent", "none", "--pool", "ray")])
def test_a_ray_that_is_not_there_is_said_at_once(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:  # a port that nobody listens at
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = within(*command, "--ray-address", address)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: Ray at {address}: cannot be reached: ")


@pytest.mark.ray
def test_evaluate_joins_a_running_ray(cluster: None, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    jobs = len(ray.state.jobs())
    sizes = ("--agent", "denoise/dct", "--suite", "noise", "--episodes", 2, "--crop", 32)
    there = ("--pool", "ray", "--workers", 1, "--worker-memory", 1, "--ray-address", address)
    done = script("evaluate.py", *sizes, *there, "--json", tmp_path / "there.json")
    assert done.returncode == 0, done.stderr
    assert len(ray.state.jobs()) == jobs + 1
    assert within("evaluate.py", *sizes, "--json", tmp_path / "here.json").returncode == 0
    there_, here = (json.loads((tmp_path / f"{name}.json").read_text())["episodes"] for name in ("there", "here"))
    assert there_ == here
