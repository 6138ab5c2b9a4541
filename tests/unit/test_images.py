"""Images are read upright and in the colours that a viewer shows; what can't be read says why in one line."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftkit.api import ImageFiles, Split, UnreadableImage, is_image, open_image
from ftkit.data.images import ORIENTATION, sample_file, sample_name, with_channels

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def rgb(path: Path) -> list[object]:
    image = with_channels(open_image(path), 3)
    assert image.mode == "RGB"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def grey(path: Path) -> list[object]:
    image = with_channels(open_image(path), 1)
    assert image.mode == "L"
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path: Path, orientation: int) -> None:
    # Where the stored rows and columns begin, for each orientation, as the EXIF standard has them.
    upright = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8) * 40
    stored = {
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[3, 6], [2, 5], [1, 4]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[4, 1], [5, 2], [6, 3]],
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for suffix in ("png", "webp", "tiff"):
        pixels = np.array(stored, dtype=np.uint8) * 40
        path = save(Image.fromarray(pixels).convert("RGB"), tmp_path / f"a.{suffix}", exif=exif, lossless=True)
        assert np.array_equal(np.asarray(with_channels(open_image(path), 1)), upright), suffix


def test_a_jpeg_from_a_turned_camera_is_upright(tmp_path: Path) -> None:
    stored = Image.new("RGB", (32, 16), "black")
    stored.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = open_image(save(stored, tmp_path / "phone.jpg", exif=exif, quality=95))
    assert image.size == (16, 32)
    assert image.getpixel((8, 4)) == WHITE
    assert image.getpixel((8, 28)) == (0, 0, 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (8, 8), RED), tmp_path / "a.png", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff\x01")
    assert open_image(path).size == (8, 8)


def test_black_and_white_and_grey(tmp_path: Path) -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert rgb(save(bits, tmp_path / "bits.png")) == [(0, 0, 0), WHITE]
    assert grey(tmp_path / "bits.png") == [0, 255]
    assert rgb(save(Image.new("L", (1, 1), 77), tmp_path / "grey.png")) == [(77, 77, 77)]
    assert grey(save(Image.new("RGB", (1, 1), GREEN), tmp_path / "green.png")) == [150]


def test_palettes_mean_their_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert rgb(save(image, tmp_path / "plain.png")) == [RED, BLUE]
    assert rgb(save(image, tmp_path / "see-through.png", transparency=0)) == [WHITE, BLUE]
    assert rgb(save(image, tmp_path / "half.png", transparency=bytes([127, 255]))) == [(255, 128, 128), BLUE]
    assert rgb(save(image, tmp_path / "see-through.gif", transparency=1)) == [RED, WHITE]


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    assert rgb(save(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), tmp_path / "a.png")) == [WHITE]
    assert rgb(save(Image.new("RGBA", (1, 1), (255, 0, 0, 255)), tmp_path / "b.png")) == [RED]
    assert rgb(save(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), tmp_path / "c.png")) == [(255, 204, 204)]
    assert grey(save(Image.new("LA", (1, 1), (0, 0)), tmp_path / "d.png")) == [255]
    assert rgb(save(Image.new("LA", (1, 1), (10, 255)), tmp_path / "e.png")) == [(10, 10, 10)]
    assert rgb(save(Image.new("RGB", (1, 1), GREEN), tmp_path / "f.png", transparency=GREEN)) == [WHITE]


def test_cmyk_and_lab(tmp_path: Path) -> None:
    assert rgb(save(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), tmp_path / "a.tiff")) == [RED]
    [pixel] = rgb(save(Image.new("CMYK", (1, 1), (255, 255, 0, 0)), tmp_path / "a.jpg", quality=100))
    assert isinstance(pixel, tuple)
    assert max(abs(a - b) for a, b in zip(pixel, BLUE, strict=True)) <= 3
    [pixel] = rgb(save(Image.new("LAB", (1, 1), (255, 128, 128)), tmp_path / "lab.tiff"))
    assert isinstance(pixel, tuple)
    assert min(pixel) >= 254


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / "deep.png")
    assert grey(path) == [0, 1, 128, 255]
    assert rgb(path)[2] == (128, 128, 128)
    assert grey(save(Image.fromarray(values), tmp_path / "deep.tiff")) == [0, 1, 128, 255]
    # A dim picture stays dim beside others of its set.
    assert grey(save(Image.fromarray(values // 2), tmp_path / "dim.png")) == [0, 0, 64, 127]


def test_a_transparent_value_of_sixteen_bits_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896]], dtype=np.uint16)
    assert grey(save(Image.fromarray(values), tmp_path / "a.png", transparency=257)) == [0, 255, 128]


def test_thirty_two_bits_and_floats(tmp_path: Path) -> None:
    def tiff(values: list[float], kind: type) -> list[object]:
        return grey(save(Image.fromarray(np.array([values], dtype=kind)), tmp_path / "a.tiff"))

    assert tiff([0, 65535], np.int32) == [0, 255]
    assert tiff([-100, 0, 100], np.int32) == [0, 128, 255]
    assert tiff([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert tiff([0.0, 128.0, 200.0], np.float32) == [0, 128, 200]
    assert tiff([-1.0, 0.0, 1.0, float("nan")], np.float32) == [0, 128, 255, 0]
    assert tiff([7.0, 7.0], np.float32) == [7, 7]
    assert tiff([-7.0, -7.0], np.float32) == [0, 0]


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN)]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert rgb(path) == [RED] * 4


def test_an_opened_image_outlives_its_file(tmp_path: Path) -> None:
    path = save(Image.new("RGB", (2, 2), RED), tmp_path / "a.gif")
    image = open_image(path)
    path.unlink()
    assert pickle.loads(pickle.dumps(image)).convert("RGB").getpixel((0, 0)) == RED


def big_png(path: Path, side: int) -> Path:
    """A PNG whose header claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def broken_files(folder: Path) -> dict[str, str]:
    """Files that can't be read, and what is said of each."""
    whole = save(Image.effect_noise((64, 64), 50), folder / "whole.jpg").read_bytes()
    png = save(Image.effect_noise((64, 64), 50), folder / "whole.png").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "header.png").write_bytes(png[:20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "line\nbreak.jpg").write_text("x")
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "header.png": "can't be read",
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image",
        "folder.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "gone.jpg": "No such file or directory",
        "line\nbreak.jpg": "not an image",
    }


def test_what_cannot_be_read_names_the_file_and_the_reason(tmp_path: Path) -> None:
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(UnreadableImage) as caught:
            open_image(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(f"{tmp_path}/{name.replace(chr(10), chr(92) + 'n')}: "), message
        assert reason in message
        assert "\n" not in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [13_400, 50_000])
def test_decompression_bombs_are_refused(tmp_path: Path, side: int) -> None:
    with pytest.raises(UnreadableImage, match=r"big\.png: .*pixels.* set FTKIT_MAX_IMAGE_PIXELS"):
        open_image(big_png(tmp_path / "big.png", side))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_where_warnings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"big\.png: .*pixels.* set FTKIT_MAX_IMAGE_PIXELS"):
        open_image(big_png(tmp_path / "big.png", 10_000))


def test_the_limit_on_pixels_stays_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("L", (300, 300)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(path).size == (300, 300)
    assert Image.MAX_IMAGE_PIXELS is None


def test_names_of_images() -> None:
    assert all(is_image(name) for name in ("a.jpg", "b.JPEG", "c.x.png", "d.tif", "é.webp", "e f.gif"))
    assert not any(is_image(name) for name in (".a.jpg", "._a.jpg", "a.txt", "jpg", ".jpg", "a.jpg.part", "a."))
    assert is_image(Path("/data/.hidden/a.jpg"))
    assert not is_image(Path("/data/a.jpg/notes"))


def test_files_open_by_position_also_after_pickling(tmp_path: Path) -> None:
    save(Image.new("RGB", (1, 1), RED), tmp_path / "a.png")
    elsewhere = save(Image.new("RGB", (1, 1), BLUE), tmp_path / "b.png")
    opener = pickle.loads(pickle.dumps(ImageFiles(tmp_path, ["a.png", str(elsewhere)])))
    assert [opener(0).getpixel((0, 0)), opener(1).getpixel((0, 0))] == [RED, BLUE]


def test_the_file_of_a_sample_is_found_below_subsets(tmp_path: Path) -> None:
    names = ["a.png", "b.png", str(tmp_path / "elsewhere" / "c.png")]
    split = Split(names, [0, 1, 0], ImageFiles(tmp_path, names)).subset([2, 0]).subset([1, 0])
    assert [sample_file(split, i) for i in (0, 1)] == [tmp_path / "a.png", tmp_path / "elsewhere" / "c.png"]
    assert sample_name(split, 0) == str(tmp_path / "a.png")


def test_a_sample_without_a_file_goes_by_its_name() -> None:
    split = Split(["0", "1"], [0, 1], lambda _: Image.new("L", (1, 1))).subset([1])
    assert sample_file(split, 0) is None
    assert sample_name(split, 0) == "1"
