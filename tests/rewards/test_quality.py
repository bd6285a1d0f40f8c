from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from pool import BadOutput, Call, LoadFailed, LocalPool
from rewards import Metric, MetricError, Score
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


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim", "vif", "nlpd", "piqe"])
def test_metrics_that_need_no_download(name: str, photo: Image) -> None:
    crop = photo[:192, :192]
    result = score(name, crop, np.roll(crop, 3, axis=0) if Metric(name).needs_reference else None)
    assert math.isfinite(result.value)


def test_a_loaded_metric_travels_without_its_network(photo: Image) -> None:
    metric = Metric("psnr")
    metric.load()
    again = pickle.loads(pickle.dumps(metric))
    again.load()
    assert again.run([(photo, photo)]) == metric.run([(photo, photo)])


def test_an_unknown_metric_is_answered_with_near_names() -> None:
    with pytest.raises(MetricError, match="Did you mean: psnr"):
        Metric("psnrr")


def test_missing_weights_name_the_metric_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, photo: Image
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the variable does, but it is read at import
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with LocalPool() as pool:
        pool.add(Metric("musiq"))
        [outcome] = pool.run([Call("quality/musiq", (photo, None))])
    assert isinstance(outcome.error, LoadFailed)
    assert "TORCH_HOME" in str(outcome.error)
    assert "musiq" in str(outcome.error)


def test_a_score_that_is_not_finite_is_no_score(monkeypatch: pytest.MonkeyPatch, photo: Image) -> None:
    metric = Metric("psnr")
    monkeypatch.setattr(metric, "run", lambda items: [Score(math.nan, math.nan)])
    with LocalPool() as pool:
        pool.add(metric)
        [outcome] = pool.run([Call("quality/psnr", (photo, photo))])
    assert isinstance(outcome.error, BadOutput)
