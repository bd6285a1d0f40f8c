from __future__ import annotations

import math
import pickle
import random
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from pool import BadOutput, Call, LoadFailed, LocalPool
from rewards import Metric, MetricError, Score
from rewards.quality import BATCHED, NO_WEIGHTS, full_precision
from tir_env.images import Image


def score(name: str, image: Image, reference: Image | None = None) -> Score:
    metric = Metric(name)
    metric.load()
    [result] = metric.run([(image, reference)])
    return result


def test_psnr_is_psnr(photo: Image) -> None:
    noisy = np.clip(photo.astype(int) + np.random.default_rng(0).integers(-30, 30, photo.shape), 0, 255).astype(np.uint8)
    assert score("psnr", noisy, photo).value == pytest.approx(peak_signal_noise_ratio(photo, noisy), abs=1e-3)


def test_orientation_is_higher_is_better_with_the_raw_value_beside(photo: Image) -> None:
    metric = Metric("gmsd")
    assert metric.lower_better
    good, bad = score("gmsd", photo, photo), score("gmsd", photo[::-1].copy(), photo)
    assert bad.raw > good.raw
    assert bad.value < good.value
    assert good.value == -good.raw


def test_a_loaded_metric_travels_without_its_network(photo: Image) -> None:
    metric = Metric("psnr")
    metric.load()
    again = pickle.loads(pickle.dumps(metric))
    again.load()
    assert again.run([(photo, photo)]) == metric.run([(photo, photo)])


def test_an_unknown_metric_is_answered_with_near_names() -> None:
    with pytest.raises(MetricError, match="Did you mean: psnr"):
        Metric("psnrr")


@pytest.mark.parametrize("name", sorted(NO_WEIGHTS & BATCHED))
def test_they_need_no_download_and_scores_in_a_batch_are_those_alone(name: str, photo: Image) -> None:
    side = {"ms_ssim": 164, "vif": 192}.get(name, 64)  # the smallest that these two take
    crops = [photo[:side, :side], photo[100 : 100 + side, 100 : 100 + side]]
    rng = np.random.default_rng(0)
    noises = rng.normal(0, 20, crops[0].shape), rng.normal(0, 80, crops[0].shape)
    items = [(np.clip(c + noise, 0, 255).astype(np.uint8), c) for c, noise in zip(crops, noises, strict=True)]
    metric = Metric(name)
    metric.load()
    together = metric.run(items)
    alone = [metric.run([item])[0] for item in items]
    assert [s.raw for s in together] == pytest.approx([s.raw for s in alone], rel=1e-4)
    assert together[0].raw != pytest.approx(together[1].raw, rel=1e-3), "the order would not show"


def test_images_of_several_sizes_in_one_call(photo: Image) -> None:
    metric = Metric("psnr")
    metric.load()
    items = [(photo[:n, :n] // 2, photo[:n, :n]) for n in (32, 48)]
    assert metric.run(items) == [metric.run([item])[0] for item in items]


class Dice(torch.nn.Module):
    """A metric that crops at random, with every generator there is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == 1, "what is not known to be safe in a batch is never batched"
        return images.mean() + torch.rand(1) + np.random.rand() + random.random()  # noqa: NPY002


def test_a_metric_that_crops_at_random_gives_the_same_image_the_same_score(photo: Image) -> None:
    metric = Metric("tres")
    metric._network, metric._device = Dice(), "cpu"
    dark = photo // 2
    first = metric.run([(photo, None), (dark, None)])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert metric.run([(dark, None), (photo, None)]) == first[::-1]
    assert torch.rand(1) == expected, "and leaves the generators to others as they were"


def test_an_image_that_would_take_gigabytes_is_refused_before_it_does() -> None:
    row = np.zeros((1, 8001, 3), np.uint8)
    large = np.broadcast_to(row, (8001, 8001, 3))  # without the memory
    with pytest.raises(MetricError, match=r"takes at most 64 million pixels, and got 8001x8001\. Score a reduced copy"):
        Metric("piqe").run([(large, None)])


def test_sizes_must_be_equal_and_references_given(photo: Image) -> None:
    with LocalPool() as pool:
        pool.add(Metric("ssim"))
        outcomes = pool.run([Call("quality/ssim", (photo[:64, :64], photo[:64, :60])), Call("quality/ssim", (photo, None))])
    assert "got 64x64 and a reference of 60x64" in str(outcomes[0].error)
    assert "compares with a reference, and got none" in str(outcomes[1].error)


@pytest.mark.parametrize("name", ["fid", "inception_score", "clipscore"])
def test_metrics_that_judge_no_single_image_are_refused(name: str) -> None:
    with pytest.raises(MetricError, match="not one image"):
        Metric(name)


def test_missing_weights_name_file_address_folder_variables_and_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photo: Image
) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "hub" / "pyiqa"))
    with LocalPool() as pool:
        pool.add(Metric("musiq"))
        [outcome] = pool.run([Call("quality/musiq", (photo, None))])
    assert isinstance(outcome.error, LoadFailed)
    text = str(outcome.error)
    assert "metric 'musiq'" in text
    assert "musiq_koniq_ckpt-e95806b9.pth are not in " + str(tmp_path / "hub" / "pyiqa") in text
    assert "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/musiq_koniq_ckpt-e95806b9.pth" in text
    for word in ("TORCH_HOME is ", "HF_HOME is ", "HF_HUB_OFFLINE=1", "no network here", "pocket-deqa"):
        assert word in text


def test_weights_that_cannot_be_read_are_told_from_missing_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"half a file")
    with pytest.raises(MetricError, match=r"alexnet-owt-7be5be79\.pth lie in .*checkpoints, and cannot be read") as caught:
        Metric("lpips").load()
    assert "Fetch that file from https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in caught.value.remedy


def test_weights_that_are_missing_from_the_hubs_cache_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the variable does, but it is read at import
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MetricError) as caught:
        Metric("maniqa").load()
    assert "https://huggingface.co/timm/vit_base_patch8_224" in caught.value.reason
    assert f"are not in {tmp_path}" in caught.value.reason
    assert "HF_HUB_OFFLINE is set" in caught.value.remedy


def test_what_fails_for_another_reason_is_not_blamed_on_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a size mismatch, say")

    monkeypatch.setattr("pyiqa.create_metric", broken)
    with pytest.raises(MetricError, match="could not build it: RuntimeError: a size mismatch, say") as caught:
        Metric("psnr").load()
    assert "network" not in caught.value.remedy


def test_a_score_that_is_not_finite_is_no_score(monkeypatch: pytest.MonkeyPatch, photo: Image) -> None:
    metric = Metric("psnr")
    monkeypatch.setattr(metric, "run", lambda items: [Score(math.nan, math.nan)])
    with LocalPool() as pool:
        pool.add(metric)
        [outcome] = pool.run([Call("quality/psnr", (photo, photo))])
    assert isinstance(outcome.error, BadOutput)


@pytest.mark.parametrize(
    "given",
    [
        None,
        0.5,
        "0.5",
        (0.5, 0.5),
        [0.5],
        np.array(0.5),
        Score("a", "b"),
        Score(np.array([0.5]), 0.5),
        Score(True, True),
        Score(0.5, None),
    ],
    ids=repr,
)
def test_what_is_no_score_is_told_from_one(given: object, monkeypatch: pytest.MonkeyPatch, photo: Image) -> None:
    metric = Metric("psnr")
    monkeypatch.setattr(metric, "run", lambda items: [given])
    with LocalPool() as pool:
        pool.add(metric)
        [outcome] = pool.run([Call("quality/psnr", (photo, photo))])
    assert isinstance(outcome.error, BadOutput)
    assert "not a Score of two plain numbers" in outcome.error.reason
    assert outcome.error.remedy


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e308, 10**400])
def test_nor_is_a_number_that_no_reward_can_be_made_of(value: float, monkeypatch: pytest.MonkeyPatch, photo: Image) -> None:
    metric = Metric("psnr")
    monkeypatch.setattr(metric, "run", lambda items: [Score(value, value)])
    with LocalPool() as pool:
        pool.add(metric)
        [outcome] = pool.run([Call("quality/psnr", (photo, photo))])
    assert isinstance(outcome.error, BadOutput)


def test_a_metric_computes_in_full_precision_and_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    assert cudnn.allow_tf32
    monkeypatch.setattr(cudnn, "benchmark", True)
    with full_precision():
        assert not cudnn.allow_tf32
        assert cudnn.benchmark
    assert cudnn.allow_tf32
    cudnn.conv.fp32_precision = "ieee"
    try:
        with full_precision():
            assert cudnn.conv.fp32_precision == "ieee", "who has chosen with the newer switches keeps the choice"
    finally:
        cudnn.conv.fp32_precision = "tf32"
