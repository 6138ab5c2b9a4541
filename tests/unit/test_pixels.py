"""The quick way from a file to pixels gives what the other one gives, and leaves to it whatever is out of the way."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ftkit.api import UnreadableImage, open_image
from ftkit.data.loading import pixels
from ftkit.data.loading.pixels import file_pixels, pixels_of
from ftkit.testing import draw_image

PICTURE = draw_image(3, (61, 47), "x").convert("RGB")


def saved(path: Path, image: Image.Image = PICTURE, **settings: Any) -> Path:
    image.save(path, quality=90, **settings)
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def agree(path: Path, channels: int = 3) -> bool:
    return torch.equal(file_pixels(path, channels), pixels_of(open_image(path), channels))


@pytest.mark.parametrize("orientation", range(10))
def test_a_jpeg_is_turned_as_its_camera_was_held(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path / "a.jpg", exif=exif(orientation))
    assert pixels._jpeg(path, 3) is not None
    assert agree(path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_every_mode(tmp_path: Path, mode: str, channels: int, progressive: bool) -> None:
    path = saved(tmp_path / "a.jpg", PICTURE.convert(mode), progressive=progressive)
    assert agree(path, channels)
    quick = pixels._jpeg(path, channels) is not None
    assert quick == (mode == "L" or (mode == "RGB" and channels == 3))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".bmp"])
def test_other_files_go_the_other_way(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}")
    assert pixels._jpeg(path, 3) is None
    assert agree(path)


def test_a_jpeg_may_be_called_anything(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert pixels._jpeg(path, 3) is not None
    assert agree(path)


@pytest.mark.parametrize("length", [0, 3, 100, 700, -2])
def test_a_file_that_is_cut_short_is_reported_in_the_same_words(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(saved(tmp_path / "a.jpg").read_bytes()[:length])
    with pytest.raises(UnreadableImage) as quick:
        file_pixels(path, 3)
    with pytest.raises(UnreadableImage) as plain:
        open_image(path)
    assert str(quick.value) == str(plain.value)
    assert str(path) in str(quick.value)


def test_bytes_that_are_wrong_give_the_same_pixels_or_the_same_words(tmp_path: Path) -> None:
    content, path = saved(tmp_path / "a.jpg").read_bytes(), tmp_path / "b.jpg"
    random = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for _ in range(150):
        broken = bytearray(content)
        broken[int(random.integers(len(content)))] = int(random.integers(256))
        path.write_bytes(broken)
        try:
            expected = pixels_of(open_image(path), 3)
        except UnreadableImage as error:
            with pytest.raises(UnreadableImage, match=f"^{re.escape(str(error))}$"):
                file_pixels(path, 3)
        else:
            assert torch.equal(file_pixels(path, 3), expected)
        outcomes[pixels._jpeg(path, 3) is not None] += 1
    assert min(outcomes.values()) > 0


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.jpg")
    monkeypatch.setenv("FTKIT_MAX_IMAGE_PIXELS", "2000")
    with pytest.raises(UnreadableImage, match="61 x 47 pixels exceed the limit of 2000; set FTKIT_MAX_IMAGE_PIXELS"):
        file_pixels(path, 3)


def test_a_second_picture_in_the_file_is_not_the_one(tmp_path: Path) -> None:
    """As cameras write them: PIL calls it an MPO."""
    path, second = tmp_path / "a.jpg", draw_image(1, (61, 47), "y").convert("RGB")
    written = io.BytesIO()
    PICTURE.save(written, "MPO", save_all=True, append_images=[second], quality=90)
    path.write_bytes(written.getvalue())
    assert pixels._jpeg(path, 3) is None
    assert agree(path)


def test_without_the_decoder_the_other_way_takes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.jpg")
    quick = file_pixels(path, 3)
    monkeypatch.setattr(pixels, "decode_jpeg", None)
    assert torch.equal(file_pixels(path, 3), quick)
