"""The benchmark of tools on a small folder: right gains, and a second run that goes on where the first stopped."""

import json

import numpy as np
import pytest

from experiments import bench_tools
from pool import Problem
from tir_env.images import write_image
from tir_env.images.generate import dead_leaves

TOOLBOX = """
name: two
tools:
  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}
  - {task: super_resolve, model: lanczos, scale: 4, call: "tir_env.tools.classical.super_resolve:lanczos"}
"""


@pytest.fixture
def options(tmp_path):
    for index in range(3):
        write_image(tmp_path / "photos" / f"{index}.png", dead_leaves(index, 64))
    (tmp_path / "two.yaml").write_text(TOOLBOX)

    def make(**more):
        return bench_tools.Options(
            images=str(tmp_path / "photos"), toolbox=str(tmp_path / "two.yaml"), json=tmp_path / "out" / "results.json", **more
        )

    return make


def test_gains_are_kept_image_by_image_and_a_second_run_goes_on(options, capsys):
    bench_tools.bench(options(limit=1))
    first = json.loads(options().json.read_text())
    assert [len(first["images"][name]) for name in ("brighten/gamma", "super_resolve/lanczos")] == [1, 1]
    bench_tools.bench(options())
    second = json.loads(options().json.read_text())
    assert len(second["images"]["brighten/gamma"]) == 3
    assert second["seconds"] == first["seconds"]
    assert first["images"]["brighten/gamma"].items() <= second["images"]["brighten/gamma"].items()
    gains = second["images"]
    assert len(gains["super_resolve/lanczos"]) == 3
    assert all(row["psnr"] > 0 for row in gains["brighten/gamma"].values())
    assert "brighten/gamma" in capsys.readouterr().out


def test_results_of_other_settings_are_not_mixed(options):
    bench_tools.bench(options(limit=1))
    with pytest.raises(Problem, match="other settings"):
        bench_tools.bench(options(limit=1, seed=1))


def test_scores_of_equal_images_and_of_another_size():
    image = dead_leaves(0, 64)
    assert bench_tools.scores(image, image) == (bench_tools.BEST_PSNR, 1.0)
    psnr, ssim = bench_tools.scores(np.ascontiguousarray(image[::4, ::4]), image)
    assert psnr < 40
    assert ssim < 1
