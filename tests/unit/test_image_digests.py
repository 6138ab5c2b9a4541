"""Digests of images: by content, in order, remembered between commands."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from ftkit.api import ImageFiles, Split
from ftkit.data.scan.content_digests import image_digests
from ftkit.data.scan.scan_cache import FILE, open_scan_cache
from ftkit.errors import FtkitError
from tests import headers
from tests.dated_images import LONG_AGO, make_dated_images


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dated_images(tmp_path / "data")


def images(data: Path) -> Split:
    names = [str(file) for file in sorted(data.glob("train/*/*.bmp"))]
    return Split(names, [0] * len(names), ImageFiles(data, names))


def test_an_image_replaced_after_it_was_scanned_is_named(data: Path) -> None:
    split = images(data)
    known = image_digests(split)
    known.require_same(range(len(split)))
    file = Path(split.names[3])
    file.touch()
    known.require_same([3])
    with file.open("r+b") as opened:
        opened.write(Path(split.names[-1]).read_bytes())
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    with pytest.raises(FtkitError, match=r"a/11\.bmp: the image was replaced during this command"):
        known.require_same(range(len(split)))


def test_images_are_known_by_order_too_and_files_are_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = images(data)
    backwards = split.subset(list(reversed(range(len(split)))))
    assert image_digests(split).digest != image_digests(backwards).digest
    (file,) = Path("cache").glob("images-*.sqlite3")
    assert len(list(open_scan_cache().contents(split.names))) == len(split)
    monkeypatch.setattr("ftkit.data.scan.scan_cache.content_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert image_digests(split).digest == image_digests(images(data)).digest
    file.unlink()
    with pytest.raises(pytest.fail.Exception, match="was read again"):
        image_digests(split)


def test_an_earlier_format_of_the_scan_cache_is_removed(data: Path) -> None:
    Path("cache").mkdir()
    (Path("cache") / "images-1.sqlite3").write_bytes(b"old")
    image_digests(images(data))
    assert [file.name for file in Path("cache").iterdir()] == [FILE]


def test_more_files_than_the_scan_cache_holds_are_all_kept_while_they_are_used(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftkit.data.scan.scan_cache.MOST", 5)
    split = images(data)
    image_digests(split)
    monkeypatch.setattr("ftkit.data.scan.scan_cache.content_digest", lambda path: pytest.fail(f"{path} was read again"))
    image_digests(split)


def test_images_that_are_no_files_are_known_by_what_their_headers_mean() -> None:
    """The same stored bytes: turned by EXIF or XMP, of another range, or with other low bytes of 16 bits."""
    stored, ramp = headers.stored(1), np.array([[0, 1024, 2048, 4095]], dtype=np.uint16)
    colours = np.repeat(ramp[:, :, None], 3, axis=2)
    contents = [
        headers.jpeg(stored),
        headers.jpeg(stored, [headers.app1(headers.exif(6))]),
        headers.jpeg(stored, [headers.app1_xmp(8)]),
        headers.tiff(ramp),
        headers.tiff(ramp, {341: (headers.SHORT, [4095])}),
        headers.png_of_16_bits(colours),
        headers.png_of_16_bits(colours + 1),
        headers.jpeg(stored)[:-20],
    ]
    digests = [image_digests(Split(["x"], [0], lambda _, c=c: PIL.Image.open(io.BytesIO(c)))).digest for c in contents]  # type: ignore[misc]
    assert len(set(digests)) == len(contents)
