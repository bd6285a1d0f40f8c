"""The scorer's training: ratings worked out by hand, variants of a picture, pictures made once, three steps and three more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from experiments import bench_scorer
from experiments.training import ratings
from experiments.training.pictures import Pictures
from experiments.training.scorer import Scorer, fidelity, read_arrays, tools_of, view
from experiments.training.trainer import Plan, TrainingError, train
from experiments.training.variants import OVERDOING, Maker, sharpen, smooth, without_tools
from rewards import Metric
from rewards.pocket_deqa import PocketDeqa
from rewards.scorer_network import ScorerNetwork
from tests.conftest import FakeEngine
from tir_env.images import Image, write_image
from tir_env.images.generate import dead_leaves
from tir_env.tools import Tool, Toolbox

TOOLBOX = """
name: three
tools:
  - {task: brighten, model: gamma, call: "tir_env.tools.classical.brighten:gamma"}
  - {task: denoise, model: median, call: "tir_env.tools.classical.denoise:median"}
  - {task: super_resolve, model: lanczos, scale: 4, call: "tir_env.tools.classical.super_resolve:lanczos"}
"""


@pytest.fixture
def clean() -> Image:
    return dead_leaves(0, 128)


@pytest.fixture
def job(tmp_path: Path) -> Scorer:
    (tmp_path / "three.yaml").write_text(TOOLBOX)
    return Scorer(
        toolboxes=(str(tmp_path / "three.yaml"),),
        pictures=Pictures(leaves=2),
        count=2,
        plain=3,
        steps=3,
        batch=2,
        group=3,
        photos=0.0,
    )


# --- ratings -----------------------------------------------------------------------------------------------------------------------


def test_ratings_follow_the_table() -> None:
    assert ratings.ratings(40, 0.99, 0.004) == pytest.approx([5, 5, 5])
    assert ratings.ratings(25, 0.9, 0.04) == pytest.approx([3, 3, 3])
    assert ratings.ratings(10, 0, 0.4) == pytest.approx([1, 1, 1])
    assert ratings.ratings(100, 1, 0) == pytest.approx([5, 5, 5])


def test_an_equal_picture_is_a_five_and_disagreement_widens_the_spread(clean: Image) -> None:
    assert ratings.label(ratings.measure(clean, clean)) == (5.0, ratings.SPREAD)
    brighter = np.minimum(clean, 215) + 40  # PSNR and SSIM do not agree on this
    score, spread = ratings.label(ratings.measure(brighter.astype(np.uint8), clean))
    assert score < 4.5
    assert spread > 2 * ratings.SPREAD


def test_measures_are_those_of_the_libraries(clean: Image) -> None:
    spoilt = smooth(clean, 1.5)
    psnr, ssim, gmsd = ratings.measures(ratings.measure(spoilt, clean))
    own = dict(zip(bench_scorer.TRUTH, bench_scorer.scores(spoilt, clean), strict=True))
    assert psnr == pytest.approx(own["psnr"], abs=1e-3)
    assert ssim == pytest.approx(own["ssim"], abs=0.01)  # the library leaves the border out
    metric = Metric("gmsd")
    metric.load()
    [other] = metric.run([(spoilt, clean)])
    assert gmsd == pytest.approx(other.raw, rel=0.1)


def test_overdone_pictures_are_rated_lower_the_more_they_are_overdone(clean: Image) -> None:
    for way, strengths in ((lambda x: sharpen(clean, x, 1.5), (0.5, 1, 2, 4)), (lambda x: smooth(clean, x), (0.7, 1, 2, 4))):
        scores = [ratings.label(ratings.measure(way(strength), clean))[0] for strength in strengths]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] < 4.8
        assert scores[-1] < 2.5


def test_a_crop_is_rated_from_its_own_blocks(clean: Image) -> None:
    half = clean.copy()
    half[:, 64:] = smooth(clean, 3)[:, 64:]
    maps = ratings.measure(half, clean)
    assert ratings.label(maps[:, :, :14])[0] == 5
    assert ratings.label(maps[:, :, 18:])[0] < 3


# --- variants ----------------------------------------------------------------------------------------------------------------------


def test_variants_are_of_one_size_no_two_alike_and_the_same_by_seed(clean: Image, job: Scorer) -> None:
    maker = Maker(tools_of(job.toolboxes))
    made = maker.make(clean, np.random.default_rng(5))
    assert made[0].kind == "clean"
    assert np.array_equal(made[0].image, clean)
    assert {v.kind for v in made} == {"clean", "spoilt", "restored", "meddled", "overdone"}
    assert {v.image.shape for v in made} == {clean.shape}
    assert len({v.image.tobytes() for v in made}) == len(made) > 15
    again = maker.make(clean, np.random.default_rng(5))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(made, again, strict=True))


def test_variants_without_tools(clean: Image) -> None:
    made = without_tools(clean, np.random.default_rng(5))
    assert np.array_equal(made[0].image, clean)
    assert {v.kind for v in made} == {"clean", "spoilt", "overdone"}
    assert {v.image.shape for v in made} == {clean.shape}
    assert len({v.image.tobytes() for v in made}) == len(made) > 10


def test_a_failing_tool_leaves_the_image_as_it_was(clean: Image) -> None:
    maker = Maker(Toolbox("one", [Tool("denoise", "fails", FakeEngine("fails"))]))
    kinds = [v.kind for v in maker.make(clean, np.random.default_rng(0))]
    assert "spoilt" in kinds
    assert "meddled" not in kinds  # nothing changed, so nothing was made


@pytest.mark.parametrize("name", OVERDOING)
def test_every_way_to_overdo_it_changes_the_picture(name: str, clean: Image) -> None:
    result = OVERDOING[name][0](clean, np.random.default_rng(0))
    assert result.shape == clean.shape
    assert result.dtype == np.uint8
    assert ratings.label(ratings.measure(result, clean))[0] < 4.9


# --- the job -----------------------------------------------------------------------------------------------------------------------


def test_fidelity_by_hand() -> None:
    """Two variants, labels 4 and 2 with spread 1; the network says excellent-or-fair and fair-or-bad, evenly: the same."""
    even = torch.tensor([[[0.0, -99, 0, -99, -99], [-99, -99, 0, -99, 0]]])
    same = fidelity(even, torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
    assert float(same) == pytest.approx(0, abs=1e-4)
    swapped = fidelity(even, torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 1.0]]))
    p = ndtr(2 / np.sqrt(2))
    assert float(swapped) == pytest.approx(1 - 2 * np.sqrt(p * (1 - p)), abs=1e-3)


def test_three_steps_and_three_more_on_pictures_made_once(job: Scorer, tmp_path: Path) -> None:
    plan = Plan(states=tmp_path / "states", workers=0)
    train(job, plan)
    made = {path: path.stat().st_mtime_ns for path in job.files}
    assert (len(job.files), len(job.plain_files)) == (2, 3)
    pictures = job.files[1].with_name("00001.npz")
    for path in (job.files[1], pictures):
        path.unlink()
    job.steps = 6
    network, progress = train(job, plan)
    assert progress.step == 6
    assert job.files[0].stat().st_mtime_ns == made[job.files[0]]  # kept
    assert job.files[1].is_file()  # made again
    assert pictures.is_file()

    elsewhere = replace(job, files=())
    elsewhere.prepare(Plan(states=tmp_path / "elsewhere", workers=0))
    for ours, theirs in zip([*job.files, *job.plain_files], [*elsewhere.files, *elsewhere.plain_files], strict=True):
        assert np.array_equal(*(read_arrays(path, "numbers")[0] for path in (ours, theirs)))

    job.ship(network, tmp_path, {"seed": 0, "steps": 6, "figures": {"some figure": 1.0}})
    scorer = PocketDeqa(tmp_path / "rewards" / "weights" / "pocket-deqa.safetensors")
    [score] = scorer.run([(dead_leaves(1, 64), None)])
    assert 1 <= score.value <= 5
    card = (tmp_path / "rewards" / "weights" / "pocket-deqa.md").read_text()
    assert "2 clean ones" in card
    assert "without tools 3 more" in card
    assert "some figure" in card


def test_a_view_has_the_statistics_and_labels_of_its_crop(clean: Image) -> None:
    images = np.stack([clean, smooth(clean, 2)])
    maps = np.stack([ratings.measure(image, clean) for image in images])
    numbers, labels = view(images, maps, 128, np.random.default_rng(0))
    assert numbers.shape == (2, ScorerNetwork().norm.num_features)
    assert labels.tolist() == pytest.approx(np.array([ratings.label(m) for m in maps]))
    numbers, labels = view(images, maps, 96, np.random.default_rng(0))
    assert labels[0].tolist() == pytest.approx([5, ratings.SPREAD])
    assert labels[1, 0] < 4


def test_a_batch_has_pictures_of_both_kinds(job: Scorer, tmp_path: Path) -> None:
    job.prepare(Plan(states=tmp_path / "states", workers=0))
    job.touched = 0.0
    job.sample(np.random.default_rng(0))
    assert set(job._read) <= set(job.plain_files)
    job.touched = 1.0
    job.sample(np.random.default_rng(0))
    assert set(job._read) & set(job.files)


def test_labels_of_a_sample_are_soft_labels_of_its_scores(job: Scorer, tmp_path: Path) -> None:
    job.prepare(Plan(states=tmp_path / "states", workers=0))
    sample = job.sample(np.random.default_rng(1))
    assert sample["numbers"].shape[0] == job.group
    assert sample["labels"].sum(-1).tolist() == pytest.approx([1] * job.group)
    assert (sample["labels"] @ torch.arange(5.0, 0, -1)).tolist() == pytest.approx(sample["scores"].tolist(), abs=0.01)


def test_a_damaged_picture_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "00000.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(TrainingError, match="Delete it"):
        read_arrays(tmp_path / "00000.npz", "images")


# --- the bench ---------------------------------------------------------------------------------------------------------------------


def test_bench_writes_every_figure_and_goes_on(tmp_path: Path, job: Scorer, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(2):
        write_image(tmp_path / "photos" / f"{index}.png", dead_leaves(index, 96))
    options = bench_scorer.Options(str(tmp_path / "photos"), job.toolboxes[0], tmp_path / "f.json", limit=1, mixed=1, tools=2)
    bench_scorer.bench(options)
    first = options.json.read_text()
    bench_scorer.bench(bench_scorer.Options(**{**vars(options), "limit": 0}))
    results = json.loads(options.json.read_text())
    assert len(results["images"]) == 2
    assert json.loads(first)["images"].items() <= results["images"].items()
    summary = results["summary"]
    assert -1 <= summary["pocket-deqa: rank correlation with psnr"]["within"][0] <= 1
    assert 0 <= summary["sharpened below clean"][0] <= 1
    assert "smoothed below clean" in capsys.readouterr().out


def test_correlation_with_both_is_that_with_the_mean_rank() -> None:
    rows = [
        {"psnr": 10.0, "ssim": 0.9, "m": 1.0},
        {"psnr": 20.0, "ssim": 0.8, "m": 2.0},
        {"psnr": 30.0, "ssim": 0.95, "m": 3.0},
    ]
    assert bench_scorer.correlation(rows, "m", "psnr") == pytest.approx(1)
    assert bench_scorer.correlation(rows, "m", "ssim") == pytest.approx(0.5)
    assert bench_scorer.correlation(rows, "m", "both") == pytest.approx(np.sqrt(0.75))  # mean ranks 1.5, 1.5, 3
