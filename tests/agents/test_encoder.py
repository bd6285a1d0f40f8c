"""The encoder as a pool model: sizes, company, pickling, text, and errors that help. The network is a small random one in a folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import pool
from agents import encoder as module
from agents.encoder import Encoder, EncoderError, windows
from agents.training_free import perceive
from agents.training_free.perceive import LEVELS, NAMES, Perceiver, word
from experiments.training.encoder import PocketClip, write_folder
from pool import Call
from tir_env.degradations.suites import Case, Stage, degrade
from tir_env.images.sources import skimage_photos

SIZES = [(8, 8), (8, 200), (33, 47), (64, 64), (128, 128), (320, 480), (600, 700)]


def picture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    write_folder(PocketClip().network(), place)
    return place


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(f"local-dir:{folder}")


def test_its_width_is_known_before_anything_is_loaded(folder: Path) -> None:
    encoder = Encoder(f"local-dir:{folder}")
    assert encoder.dim == 128
    assert encoder.native
    assert encoder._network is None
    assert encoder.name == f"encoder/local-dir:{folder}"
    assert Encoder("ViT-B-32", "openai").dim == 512


def test_images_of_any_size_have_features_of_length_one(encoder: Encoder) -> None:
    images = [picture(shape) for shape in SIZES]
    features = encoder.run(images)
    assert len(features) == len(images)
    for image, row in zip(images, features, strict=True):
        encoder.check(image, row)
        assert row.dtype == np.float32
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_company_does_not_matter(encoder: Encoder) -> None:
    images = [picture(shape, seed) for seed, shape in enumerate([*SIZES, (64, 64)])]
    together = encoder.run(images)
    for image, row in zip(images, together, strict=True):
        np.testing.assert_allclose(encoder.run([image])[0], row, atol=1e-6)
    assert np.abs(together[0] - together[4]).max() > 1e-3


def test_a_copy_travels_without_its_network(encoder: Encoder) -> None:
    encoder.run([picture((16, 16))])
    encoder.encode_text(["rain"])
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert copy._network is None
    np.testing.assert_array_equal(copy.run([picture((40, 40))])[0], encoder.run([picture((40, 40))])[0])


def test_read_only_and_strided_views_are_fine(encoder: Encoder) -> None:
    image = picture((80, 80))
    view = image[::-1, ::2]
    view.setflags(write=False)
    np.testing.assert_array_equal(encoder.run([view])[0], encoder.run([np.ascontiguousarray(view)])[0])


def test_texts_have_features_of_the_same_width(encoder: Encoder) -> None:
    texts = encoder.encode_text(["a photo with heavy rain", "a photo with zeppelins", "", "noise " * 100])
    assert texts.shape == (4, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert np.abs(texts[0] - texts[1]).max() > 1e-4


def test_in_a_pool(encoder: Encoder) -> None:
    perceiver = Perceiver(encoder)
    with pool.connect("local") as workers:
        workers.add(encoder, perceiver)
        image = picture((50, 60))
        outcomes = workers.run([Call(encoder.name, image), Call(perceiver.name, image)])
        assert outcomes[0].unwrap().shape == (encoder.dim,)
        assert set(outcomes[1].unwrap()) == set(NAMES)


def test_other_models_resize_as_their_authors_do(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        text = file.read_bytes()
        (tmp_path / file.name).write_bytes(text.replace(b'"native_resolution": true', b'"native_resolution": false'))
    encoder = Encoder(f"local-dir:{tmp_path}")
    flat = np.full((500, 500, 3), 90, np.uint8)
    assert [tuple(view.shape) for view in encoder_views(encoder, flat)] == [(3, 128, 128)]
    np.testing.assert_allclose(encoder.run([flat])[0], encoder.run([flat[:128, :128]])[0], atol=1e-5)


def encoder_views(encoder: Encoder, image: np.ndarray) -> list[torch.Tensor]:
    encoder.load()
    return encoder._views(image)


def test_large_images_are_seen_through_fixed_windows() -> None:
    image = picture((1000, 1500))
    seen = windows(image)
    assert [window.shape for window in seen] == [(256, 256, 3)] * 6
    np.testing.assert_array_equal(seen[0], image[:256, :256])
    np.testing.assert_array_equal(seen[-1], image[-256:, -256:])
    assert [w.shape for w in windows(picture((10, 40_000)))] == [(64, 256, 3)] * 6
    assert windows(picture((320, 480)))[0].shape == (320, 480, 3)
    small = picture((8, 70))
    np.testing.assert_array_equal(windows(small)[0][:16], np.concatenate([small, small[::-1]]))


@pytest.mark.parametrize("model", ["local-dir:/none", "ViT-nothing", "pocket-clp", "local-dir:"])
def test_a_model_that_is_not_there_is_named_at_once(model: str) -> None:
    with pytest.raises(EncoderError) as caught:
        Encoder(model)
    assert caught.value.remedy


def test_weights_that_are_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(EncoderError, match=r"open_clip_model\.safetensors"):
        Encoder(f"local-dir:{tmp_path}").load()
    with pytest.raises(EncoderError, match=r"Its tags: .*openai"):
        Encoder("ViT-B-32").load()
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    with pytest.raises(EncoderError, match=r"make_weights\.py --only pocket-clip"):
        Encoder()


def test_weights_that_are_broken(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 5000 if file.suffix == ".safetensors" else None])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        Encoder(f"local-dir:{tmp_path}").load()


def test_without_a_network_the_error_names_source_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def refused(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", refused)
    with pytest.raises(EncoderError, match="no route to host") as caught:
        Encoder("ViT-B-32", "openai").load()
    assert all(word in str(caught.value) for word in ("ViT-B-32", "openai", "HF_HOME", "HF_HUB_OFFLINE", "local-dir"))


def test_pocket_clip_takes_no_tag() -> None:
    with pytest.raises(EncoderError, match="has its own weights"):
        Encoder("pocket-clip", "openai")


# --- perceiver ------------------------------------------------------------------------------------------------------------------


def test_severities_follow_the_nearest_level() -> None:
    directions = np.eye(40, dtype=np.float32).reshape(8, 5, 40)
    features = directions[np.arange(8), [0, 1, 2, 3, 4, 0, 2, 4]].sum(axis=0, keepdims=True)
    found = perceive.perceive(features, directions, 100.0)
    np.testing.assert_allclose(found[0], [0, 0.25, 0.5, 0.75, 1, 0, 0.5, 1], atol=1e-9)
    flat = perceive.perceive(np.zeros((1, 40), np.float32), directions, 100.0)
    np.testing.assert_allclose(flat, 0.5)


def test_words() -> None:
    assert [word(severity) for severity in (0, 0.1, 0.3, 0.5, 0.8, 1, 7)] == [
        "very low", "very low", "low", "medium", "high", "very high", "very high",
    ]  # fmt: skip
    assert len(perceive.prompts()) == len(NAMES) * len(LEVELS) * len(perceive.TEMPLATES)


def test_prototypes_keep_the_order_of_the_prompts() -> None:
    order = {prompt: index for index, prompt in enumerate(perceive.prompts())}
    text = np.eye(len(order), dtype=np.float32)
    directions = perceive.prototypes(text)
    prompt = perceive.TEMPLATES[1].format(level="high", name=NAMES["rain"])
    assert directions[list(NAMES).index("rain"), LEVELS.index("high"), order[prompt]] == pytest.approx(0.5)


def test_perceiver_answers_for_all_eight(encoder: Encoder) -> None:
    perceiver = Perceiver(encoder)
    image = picture((40, 40))
    [found] = perceiver.run([image])
    perceiver.check(image, found)
    assert pickle.loads(pickle.dumps(perceiver)).run([image]) == [found]
    with pytest.raises(ValueError, match="gave"):
        perceiver.check(image, {**found, "rain": 1.5})


# --- the one that ships -----------------------------------------------------------------------------------------------------------


def test_what_ships_is_small_and_loads() -> None:
    assert sum(file.stat().st_size for file in (module.SHIPPED / "pocket-clip").iterdir()) <= 8 << 20
    encoder = Encoder()
    assert (encoder.name, encoder.dim, encoder.native) == ("encoder/pocket-clip", 128, True)
    assert encoder.run([picture((20, 30))])[0].shape == (128,)


@pytest.mark.parametrize(
    ("degradation", "settings"),
    [
        ("noise", {"sigma": 45.0}),
        ("rain", {"value": 90}),
        ("haze", {"beta": 1.6, "airlight": 0.9}),
        ("defocus blur", {"radius": 6}),
    ],
)
def test_what_ships_sees_a_heavy_degradation(degradation: str, settings: dict) -> None:
    """On average over windows of a photograph that it was not trained on, and against the clean windows."""
    photo = skimage_photos().find("coffee").image
    perceiver = Perceiver()
    corners = [(0, 0), (0, 400), (100, 200), (200, 0), (200, 400)]
    clean = [np.ascontiguousarray(photo[top : top + 192, left : left + 192]) for top, left in corners]
    case = Case(degradation, (Stage(degradation, settings),))
    spoilt = [degrade(image, case, seed).image for seed, image in enumerate(clean)]
    before, after = ([found[degradation] for found in perceiver.run(images)] for images in (clean, spoilt))
    assert np.mean(after) > np.mean(before) + 0.15
