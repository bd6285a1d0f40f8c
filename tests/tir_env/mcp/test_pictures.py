"""What may be read and written: inside one folder, within limits, never over another file."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tir_env.images import Image, read_image, write_image
from tir_env.images.reading import ImageError
from tir_env.mcp.pictures import Folder, Inline, Limits, PictureError, check_place, hand_out, read_picture

LIMITS = Limits(bytes=200_000, pixels=40_000)


@pytest.fixture
def small(photo: Image) -> Image:
    return np.ascontiguousarray(photo[100:160, 200:280])


@pytest.fixture
def folder(tmp_path: Path, small: Image) -> Folder:
    root = tmp_path / "pictures"
    write_image(root / "one.png", small)
    write_image(root / "deeper" / "two.png", small)
    write_image(tmp_path / "secret.png", small)
    (root / "notes.txt").write_text("no picture")
    return Folder(root)


def test_a_picture_is_read_by_path_or_inline(folder: Folder, small: Image) -> None:
    data = base64.b64encode((folder.root / "one.png").read_bytes()).decode()
    for picture in ("one.png", "deeper/../one.png", str(folder.root / "one.png"), Inline(data=data)):
        np.testing.assert_array_equal(read_picture(picture, folder, LIMITS), small)
    for text in (f"data:image/png;base64,{data}", data[:40] + "\n" + data[40:]):
        np.testing.assert_array_equal(read_picture(Inline(data=text), None, LIMITS), small)


def test_names_are_sorted_and_limited_and_lead_nowhere_else(folder: Folder, tmp_path: Path) -> None:
    (folder.root / "way-out.png").symlink_to(tmp_path / "secret.png")
    (folder.root / "elsewhere").symlink_to(tmp_path)
    (folder.root / "again.png").symlink_to("one.png")
    (folder.root / "round.png").symlink_to("round.png")
    (folder.root / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert folder.names(9) == (["again.png", "one.png", "deeper/two.png"], False)
    assert folder.names(1) == (["again.png"], True)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "deeper/../../secret.png",
        "/etc/passwd",
        "{outside}",
        "link.png",
        "links/secret.png",
        "../none.png",
        "..",
    ],
)
@pytest.mark.parametrize("job", ["read", "write"])
def test_no_way_leads_out_of_the_folder(folder: Folder, tmp_path: Path, name: str, job: str) -> None:
    (folder.root / "link.png").symlink_to(tmp_path / "secret.png")
    (folder.root / "links").symlink_to(tmp_path)
    before = (tmp_path / "secret.png").read_bytes()
    attempt: Callable[[], object]
    if job == "read":
        attempt = partial(folder.read, name.format(outside=tmp_path / "secret.png"), LIMITS)
    else:
        attempt = partial(folder.write, name.format(outside=tmp_path / "new.png"), b"")
    with pytest.raises(PictureError, match="lies outside of the folder"):
        attempt()
    assert (tmp_path / "secret.png").read_bytes() == before
    assert not (tmp_path / "new.png").exists()


def test_what_cannot_be_read_says_why(folder: Folder) -> None:
    (folder.root / "large.png").write_bytes(bytes(LIMITS.bytes + 1))
    write_image(folder.root / "wide.png", np.zeros((201, 200, 3), np.uint8))
    os.mkfifo(folder.root / "pipe.png")  # to open it would wait for ever
    (folder.root / "round.png").symlink_to("round.png")
    for name, kind, reason in (
        ("none.png", PictureError, "there is no such picture"),
        ("deeper", PictureError, "there is no such picture"),
        ("pipe.png", PictureError, "there is no such picture"),
        ("large.png", PictureError, "over 200,000 bytes"),
        ("wide.png", ImageError, "has 200x201 pixels, over the limit"),
        ("notes.txt", ImageError, "is no picture"),
        ("round.png", PictureError, "is no path|no such picture|lies outside"),
        ("a\0b.png", PictureError, "is no path"),
        ("x" * 300 + ".png", PictureError, "cannot be read"),
    ):
        with pytest.raises(kind, match=reason):
            read_picture(name, folder, LIMITS)
    with pytest.raises(PictureError, match="without a folder"):
        read_picture("one.png", None, LIMITS)


def test_inline_pictures_are_limited_and_checked() -> None:
    for data, kind, reason in (
        ("A" * 300_000, PictureError, "over 200,000 bytes"),
        ("no base64!", PictureError, "is no base64"),
        ("", ImageError, "is no picture"),
        (base64.b64encode(b"GIF89a" + bytes(50)).decode(), ImageError, "is no picture in PNG"),
    ):
        with pytest.raises(kind, match=reason):
            read_picture(Inline(data=data), None, LIMITS)


@pytest.mark.parametrize("text", ["iVBORw0KGgo" + "A" * 20_000, "data:image/png;base64,iVBORw0KGgo"])
def test_a_picture_in_place_of_a_path(folder: Folder, text: str) -> None:
    for place in (folder, None):
        with pytest.raises(PictureError, match=r'is no path. Give a picture itself as {"data": BASE64}') as caught:
            read_picture(text, place, LIMITS)
        assert len(str(caught.value)) < 200
    with pytest.raises(PictureError) as caught:
        check_place(text, folder)
    assert len(str(caught.value)) < 200


def test_results_take_a_new_name(folder: Folder, small: Image) -> None:
    assert hand_out(small, "deeper/new.png", folder, LIMITS) == ("deeper/new.png", None)
    np.testing.assert_array_equal(read_image(folder.root / "deeper" / "new.png"), small)
    (folder.root / "dangling.png").symlink_to("nothing.png")
    for name, reason in (
        ("one.png", "is there already"),
        ("deeper/new.png", "is there already"),
        ("none/new.png", "a folder that there is not"),
        ("new.jpg", "end it in .png"),
        ("new", "end it in .png"),
        ("x" * 300 + ".png", "is no file's name"),
    ):
        with pytest.raises(PictureError, match=reason):
            check_place(name, folder)
        with pytest.raises(PictureError, match=reason):
            hand_out(small, name, folder, LIMITS)
    with pytest.raises(PictureError, match="without a folder"):
        check_place("new.png", None)


def test_half_a_picture_is_not_left(folder: Folder, small: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", *rest: Any) -> Any:
        file = opened(path, mode, *rest)
        return Full(file) if "x" in mode else file

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:10])

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(PictureError, match="No space left"):
        hand_out(small, "new.png", folder, LIMITS)
    monkeypatch.undo()
    assert hand_out(small, "new.png", folder, LIMITS) == ("new.png", None)


def test_inline_results_are_limited(small: Image) -> None:
    saved, data = hand_out(small, "", None, LIMITS)
    assert saved is None
    np.testing.assert_array_equal(read_picture(Inline(data=base64.b64encode(data or b"").decode()), None, LIMITS), small)
    with pytest.raises(PictureError, match="Give save_as"):
        hand_out(small, "", None, Limits(bytes=100))
