from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from pool import Problem
from tir_env.images import ImageError, decode_image, read_image, reading, write_image

COLOURS = np.zeros((16, 24, 3), np.uint8)
COLOURS[:8, :12], COLOURS[:8, 12:], COLOURS[8:, :12] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path: Path, picture: Pillow.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Pillow.fromarray(COLOURS))
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_webp_lossless_and_round_trip(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.webp", Pillow.fromarray(COLOURS), lossless=True)), COLOURS)
    write_image(tmp_path / "deep" / "b.png", COLOURS)
    np.testing.assert_array_equal(read_image(tmp_path / "deep" / "b.png"), COLOURS)


def test_a_picture_whose_writing_breaks_off_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", COLOURS)

    def torn(picture: Pillow.Image, place: Path, kind: str) -> None:
        Path(place).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Pillow.Image, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "a.png", 255 - COLOURS)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(Problem, match=r"a\.text: is no picture that can be written. End the name in \.png"):
        write_image(tmp_path / "a.text", COLOURS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = read_image(save(tmp_path / "g.png", Pillow.fromarray(grey)))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_type(tmp_path: Path, suffix: str) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = read_image(save(tmp_path / f"g.{suffix}", Pillow.fromarray(deep)))
    np.testing.assert_array_equal(image[..., 1], np.arange(256).reshape(16, 16))
    dim = read_image(save(tmp_path / "dim.png", Pillow.fromarray(np.full((16, 16), 257 * 10, np.uint16))))
    assert (dim == 10).all(), "a dark 16-bit picture must stay dark"


def test_float_tiff_on_either_scale(tmp_path: Path) -> None:
    for peak in (1.0, 255.0):
        values = np.linspace(0, peak, 256, dtype=np.float32).reshape(16, 16)
        image = read_image(save(tmp_path / "f.tif", Pillow.fromarray(values)))
        assert (int(image.min()), int(image.max())) == (0, 255)


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:8] = (255, 0, 0, 255)
    image = read_image(save(tmp_path / "a.png", Pillow.fromarray(rgba)))
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[15, 0].tolist() == [255, 255, 255]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = Pillow.fromarray(COLOURS).convert("P", palette=Pillow.Palette.ADAPTIVE)
    clear = picture.getpixel((0, 0))
    image = read_image(save(tmp_path / "p.png", picture, transparency=clear))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 20].tolist() == [0, 255, 0]


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "c.jpg", Pillow.fromarray(COLOURS).convert("CMYK"), quality=100, subsampling=0))
    for y, x in ((2, 2), (2, 20), (13, 2), (13, 20)):
        assert np.abs(image[y, x].astype(int) - COLOURS[y, x]).max() < 12


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn 90° clockwise to view
    path = save(tmp_path / "r.jpg", Pillow.fromarray(COLOURS), exif=exif, quality=100, subsampling=0)
    image = read_image(path)
    assert image.shape == (24, 16, 3)
    assert np.abs(image.astype(int) - np.rot90(COLOURS, -1)).max() < 12


def test_a_missing_file_a_folder_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for path, reason in ((tmp_path / "none.png", "no such file"), (tmp_path, "is a folder"), (tmp_path / "empty.png", "empty")):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(path)
        assert caught.value.thing == str(path)
        assert caught.value.remedy


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as a library that this process imported has it
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"a.{suffix}", Pillow.fromarray(noise))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"damaged or cut short|is no picture"):
        read_image(path)


def test_text_under_a_pictures_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ImageError, match="is no picture in PNG"):
        read_image(tmp_path / "a.png")


def test_formats_that_pillow_reads_but_we_do_not_claim() -> None:
    stream = io.BytesIO()
    Pillow.fromarray(COLOURS).save(stream, "GIF")
    with pytest.raises(ImageError, match="is no picture in PNG, JPEG, WEBP, TIFF, BMP"):
        decode_image(stream.getvalue())


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="pixels"):
        decode_image(bomb)


def test_limits_are_the_callers() -> None:
    stream = io.BytesIO()
    Pillow.fromarray(COLOURS).save(stream, "PNG")
    with pytest.raises(ImageError, match="over the limit of 100"):
        decode_image(stream.getvalue(), max_pixels=100)
    with pytest.raises(ImageError, match="shorter side must be at least 32"):
        decode_image(stream.getvalue(), min_side=32)


def test_a_limit_over_pillows_own_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 40)  # which refuses more than 80
    monkeypatch.setattr(reading, "PILLOWS", 80)
    stream = io.BytesIO()
    Pillow.fromarray(COLOURS).save(stream, "PNG")
    with pytest.raises(ImageError, match="Crop or shrink it first"):
        decode_image(stream.getvalue(), max_pixels=80)
    assert np.array_equal(decode_image(stream.getvalue()), COLOURS)
    assert Pillow.MAX_IMAGE_PIXELS == 40


def test_a_phones_two_picture_jpeg_gives_the_first() -> None:
    stream = io.BytesIO()
    pictures = [Pillow.fromarray(COLOURS), Pillow.fromarray(COLOURS[::-1])]
    pictures[0].save(stream, "MPO", save_all=True, append_images=pictures[1:], quality=100, subsampling=0)
    assert np.abs(decode_image(stream.getvalue()).astype(int) - COLOURS).max() < 12


def test_floats_a_little_over_their_range_are_not_turned_black(tmp_path: Path) -> None:
    values = np.linspace(-0.002, 1.003, 256, dtype=np.float32).reshape(16, 16)
    image = read_image(save(tmp_path / "f.tif", Pillow.fromarray(values)))
    assert (int(image[0, 0, 0]), int(image[-1, -1, 0])) == (0, 255)
    assert abs(int(image[8, 0, 0]) - 128) <= 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((16, 16), 40_000.0, np.float32), "float pixels range from 40000 to 40000"),
        (np.full((16, 16), np.nan, np.float32), "float pixels"),
        (np.full((16, 16), 200, np.int32), "32-bit integer pixels"),
    ],
)
def test_deep_pixels_without_an_agreed_range_are_refused(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_image(save(tmp_path / "d.tif", Pillow.fromarray(values)))


@pytest.mark.parametrize(("byteorder", "photometric"), [("<", "minisblack"), (">", "minisblack"), ("<", "miniswhite")])
def test_sixteen_bit_tiffs_of_both_byte_orders_and_polarities(tmp_path: Path, byteorder: str, photometric: str) -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    tifffile.imwrite(tmp_path / "t.tif", deep, byteorder=byteorder, photometric=photometric)
    expected = np.arange(256).reshape(16, 16)
    image = read_image(tmp_path / "t.tif")[..., 0]
    np.testing.assert_array_equal(image, expected if photometric == "minisblack" else 255 - expected)


def test_signed_sixteen_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t.tif", np.full((16, 16), 100, np.int16))
    with pytest.raises(ImageError, match=r"no agreed range|is no picture"):
        read_image(tmp_path / "t.tif")
