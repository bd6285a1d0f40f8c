from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from tir_env.images import ImageError, write_image
from tir_env.images.sources import PARTS, Images, folder, generated, open_images, skimage_photos


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(60):
        write_image(tmp_path / "a" / f"group-{i % 3}" / f"{i:02}.png", rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    return tmp_path / "a"


def digests(images: Images) -> set[str]:
    return {photo.digest for photo in images}


def test_a_folder_is_read_at_any_depth_in_order_of_names(pictures: Path) -> None:
    images = folder(pictures)
    assert len(images) == 60
    assert [p.name for p in images] == sorted(p.name for p in images)
    assert images.find("group-1/01.png").image.shape == (16, 16, 3)


def test_bad_files_are_reported_and_skipped_or_refused(pictures: Path) -> None:
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (pictures / "empty.jpg").touch()
    images = folder(pictures)
    assert len(images) == 60
    assert [Path(p.thing).name for p in images.problems] == ["bad.png", "empty.jpg"]
    with pytest.raises(ImageError, match=r"bad\.png"):
        folder(pictures, on_bad="raise")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no usable picture"):
        folder(tmp_path)
    with pytest.raises(ImageError, match="no such file or folder"):
        folder(tmp_path / "none")


def test_parts_cover_everything_once(pictures: Path) -> None:
    images = folder(pictures)
    parts = [digests(images.part(part)) for part in PARTS]
    assert sum(map(len, parts)) == 60
    assert set.union(*parts) == digests(images)
    assert len(parts[0]) > 30


def test_a_pictures_part_does_not_depend_on_names_or_neighbours(pictures: Path, tmp_path: Path) -> None:
    train = digests(folder(pictures).part("train"))
    other = tmp_path / "b"
    for i, file in enumerate(sorted(pictures.rglob("*.png"))[:40]):
        other.mkdir(exist_ok=True)
        shutil.copy(file, other / f"renamed-{100 - i}.png")
    moved = folder(other)
    assert digests(moved.part("train")) == train & digests(moved)


def test_fractions_are_checked_and_obeyed(pictures: Path) -> None:
    images = folder(pictures)
    assert len(images.part("test", (0, 0, 1))) == 60
    with pytest.raises(ImageError, match="add up to 1"):
        images.part("test", (0.5, 0.1, 0.1))
    with pytest.raises(ImageError, match="has no validation picture"):
        images.part("validation", (1, 0, 0))


def test_scikit_images_photographs_are_here_and_in_all_parts() -> None:
    photos = skimage_photos()
    assert all(p.image.dtype == np.uint8 and p.image.ndim == 3 and p.image.shape[2] == 3 for p in photos)
    parts = {p.name: part for part in PARTS for p in photos.part(part)}
    assert set(parts.values()) == set(PARTS)
    assert parts["motorcycle_left"] == parts["motorcycle_right"], "a stereo pair must not be split"


def test_generated_pictures_are_seeded() -> None:
    one, two = generated(3, seed=4, size=64), generated(3, seed=4, size=64)
    assert [p.digest for p in one] == [p.digest for p in two]
    assert digests(one).isdisjoint(digests(generated(3, seed=5, size=64)))
    assert all(p.image.std() > 10 for p in one)


def test_a_folder_that_is_opened_again_is_not_decoded_again(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digests(folder(pictures))
    monkeypatch.setattr("tir_env.images.sources.read_image", lambda *_, **__: pytest.fail("was decoded"))
    assert digests(folder(pictures)) == first


def test_photos_travel_without_their_pixels() -> None:
    photo = skimage_photos().find("retina")
    assert photo.image.nbytes > 5_000_000
    assert len(pickle.dumps(photo)) < 1000
    assert pickle.loads(pickle.dumps(photo)).digest == photo.digest


def test_photos_cannot_be_spoilt_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        skimage_photos()[0].image[0, 0] = 0


def test_open_images_by_name(pictures: Path) -> None:
    assert open_images("skimage").name == "skimage"
    assert len(open_images("generated:5")) == 5
    both = open_images(f"skimage,{pictures}")
    assert len(both) == 9 + 60
    assert both.find("skimage/coffee").image.shape == (400, 600, 3)
    for wrong in ("scikit", "generated:²", "generated:-1", "generated:1e3"):
        with pytest.raises(ImageError, match="no such file or folder"):
            open_images(wrong)
    with pytest.raises(ImageError, match="name nothing"):
        open_images("")
    for count in ("0", "9" * 20, "9" * 5000):
        with pytest.raises(ImageError, match="needs a count of 1 to"):
            open_images(f"generated:{count}")
