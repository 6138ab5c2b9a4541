"""Images of more than 8 bits: range by the file's own tags, then by the setting, else one rule for all of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ftkit.api import open_image
from ftkit.data.images import Extremes, Range, extremes
from ftkit.data.loading.pixels import file_pixels, pixels_of
from ftkit.data.scan.value_ranges import choose_value_range
from ftkit.errors import RequestError
from tests import headers
from tests.headers import LONG, SHORT

RAMP = np.array([[0, 1024, 2048, 4095]], dtype=np.uint16)
"""Of 12 bits."""
GREY = [0, 64, 128, 255]
DARK = [0, 4, 8, 16]
"""The same taken for 16 bits."""
TWELVE = (0.0, 4095.0)


def grey(path: Path, content: bytes, value_range: Range | None = None) -> list[int]:
    """The first channel, by three ways in that agree."""
    path.write_bytes(content)
    found = [
        file_pixels(path, 1, value_range),
        pixels_of(open_image(path), 1, value_range),
        pixels_of(Image.open(path), 1, value_range),
    ]
    assert len({tuple(each.ravel().tolist()) for each in found}) == 1
    values: list[int] = found[0].ravel().tolist()
    return values


def test_twelve_bits_in_sixteen(tmp_path: Path) -> None:
    for name, content in {"a.png": headers.png_of_16_bits(RAMP), "a.tiff": headers.tiff(RAMP)}.items():
        assert grey(tmp_path / name, content) == DARK
        assert grey(tmp_path / name, content, TWELVE) == GREY
        assert extremes(open_image(tmp_path / name)) == Extremes(0.0, 4095.0, True)


@pytest.mark.parametrize(
    "tags",
    [
        {341: (SHORT, [4095])},
        {340: (SHORT, [0]), 341: (LONG, [4095])},
        {281: (SHORT, [4095])},
        {280: (SHORT, [0]), 281: (SHORT, [4095])},
    ],
)
def test_the_tags_of_a_tiff_say_its_range(tmp_path: Path, tags: dict[int, Any]) -> None:
    content = headers.tiff(RAMP, tags)
    assert grey(tmp_path / "a.tiff", content) == GREY
    assert grey(tmp_path / "a.tiff", content, (0.0, 9999.0)) == GREY, "the file knows better than the setting"
    assert extremes(open_image(tmp_path / "a.tiff")) is None


def test_the_greatest_value_of_one_image_is_no_range(tmp_path: Path) -> None:
    """As programs write it for each image by itself: dim ones would come out bright."""
    assert grey(tmp_path / "a.tiff", headers.tiff(RAMP // 2, {281: (SHORT, [2047 - 10])}), TWELVE) == [0, 32, 64, 127]


def test_white_is_zero(tmp_path: Path) -> None:
    white = {262: (SHORT, [0])}
    assert grey(tmp_path / "a.tiff", headers.tiff(RAMP * 16, white)) == [255, 191, 127, 0]
    assert grey(tmp_path / "a.tiff", headers.tiff(RAMP, white), TWELVE) == [255, 191, 127, 0]
    assert grey(tmp_path / "a.tiff", headers.tiff(RAMP, {**white, 341: (SHORT, [4095])})) == [255, 191, 127, 0]
    assert grey(tmp_path / "a.tiff", headers.tiff((RAMP // 16).astype(np.uint8), white)) == [255, 191, 127, 0]
    turned = headers.tiff(RAMP * 16, {**white, 274: (SHORT, [2])})
    assert grey(tmp_path / "a.tiff", turned) == [0, 127, 191, 255]
    floats = (RAMP / 4095).astype(np.float32)
    assert grey(tmp_path / "a.tiff", headers.tiff(floats, white)) == [255, 191, 127, 0]


def test_significant_bits_of_a_png(tmp_path: Path) -> None:
    bits = [(b"sBIT", bytes([12]))]
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(RAMP, bits)) == GREY, "as many programs write them"
    spread = (RAMP << 4) | (RAMP >> 8)
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(spread, bits)) == GREY, "as the standard has it"
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(RAMP << 4, bits)) == [0, 64, 128, 255]
    dim = np.array([[0, 16, 32, 48]], dtype=np.uint16)
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(dim << 4, bits)) == [0, 1, 2, 3]
    loaded = Image.open(tmp_path / "a.png")
    loaded.load()
    assert pixels_of(loaded, 1).ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_sixteen_bits(tmp_path: Path, bands: int) -> None:
    values: NDArray[np.uint16] = np.repeat(RAMP[:, :, None], bands, axis=2)
    if bands == 4:
        values[..., 3] = 65535
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values)) == [0, 4, 8, 15]
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values), TWELVE) == GREY
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values, [(b"sBIT", bytes([12] * bands))])) == GREY
    alpha = {338: (SHORT, [2])} if bands == 4 else {}
    assert grey(tmp_path / "a.tiff", headers.tiff(values, alpha), TWELVE) == GREY
    tags = {**alpha, 341: (SHORT, [4095] * bands)}
    assert grey(tmp_path / "a.tiff", headers.tiff(values, tags)) == GREY
    turned = headers.tiff(values, {**alpha, 274: (SHORT, [2])})
    assert grey(tmp_path / "a.tiff", turned, TWELVE) == GREY[::-1]
    found = extremes(open_image(tmp_path / "a.tiff"))
    assert found is not None
    assert found.high == pytest.approx(4095)


def test_grey_with_alpha_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.stack([RAMP, np.full_like(RAMP, 65535)], axis=2)
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values)) == [0, 4, 8, 15]
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values), TWELVE) == GREY
    assert grey(tmp_path / "a.png", headers.png_of_16_bits(values, [(b"sBIT", bytes([12, 16]))])) == GREY


def test_what_pil_spreads_over_sixteen_bits_is_not_spread_again(tmp_path: Path) -> None:
    pgm = b"P5 4 1 %d\n" + RAMP.astype(">u2").tobytes()
    assert grey(tmp_path / "a.pgm", pgm % 4095, TWELVE) == GREY
    assert grey(tmp_path / "a.pgm", pgm % 65535, TWELVE) == GREY
    assert grey(tmp_path / "a.pgm", pgm % 65535) == DARK
    pfm = b"Pf\n4 1\n-1.0\n" + (RAMP / 4095).astype("<f4").tobytes()
    assert grey(tmp_path / "a.pfm", pfm) == GREY, "floats aren't"
    coded = io.BytesIO()
    # The encoder knows 8 and 16 bits alone; what it takes away as the middle of 16 becomes that of 12.
    Image.fromarray(np.tile(RAMP + (1 << 15) - (1 << 11), (4, 1)).astype(np.uint16)).save(coded, "JPEG2000")
    content = bytearray(coded.getvalue())
    for place in (content.find(b"\xff\x4f\xff\x51") + 42, content.find(b"ihdr") + 14):
        assert content[place] == 15
        content[place] = 11
    assert grey(tmp_path / "a.jp2", bytes(content), TWELVE)[:4] == GREY


def test_a_fourth_band_of_sixteen_bits_that_nothing_calls_alpha(tmp_path: Path) -> None:
    values = np.full((1, 4, 4), 32768, dtype=np.uint16)
    values[..., 3] = 0
    assert grey(tmp_path / "a.tiff", headers.tiff(values)) == [128] * 4
    assert grey(tmp_path / "a.tiff", headers.tiff(values, {338: (SHORT, [0])})) == [128] * 4
    assert grey(tmp_path / "a.tiff", headers.tiff(values, {338: (SHORT, [2])})) == [255] * 4


def test_one_rule_for_all_images() -> None:
    def whole(low: float, high: float) -> Extremes:
        return Extremes(low, high, True)

    def fractions(low: float, high: float) -> Extremes:
        return Extremes(low, high, False)

    assert choose_value_range([], None).notes == ()
    twelve = choose_value_range([whole(0, 4079), whole(3, 900)], None)
    assert twelve.value_range is None, "0 to 65535, by the reader's own rule"
    [note] = twelve.notes
    assert note == (
        "2 images of more than 8 bits don't declare the values of black and white: 0 to 65535 used, but the maximum "
        "is 4,079, so they appear almost black; set dataset.value_range=[0, 4095] if they have 12 bits"
    )
    assert (
        "set dataset.value_range=[0, 16383] if they have 14 bits"
        in choose_value_range([whole(0, 16000)], None).notes[0]
    )
    [note] = choose_value_range([whole(0, 65000)], None).notes
    assert note.endswith("0 to 65535 used; set dataset.value_range to use others")
    assert choose_value_range([whole(-5, 100), whole(0, 300)], None).value_range == (-5, 300)
    # A dim image among floats is dim.
    assert choose_value_range([fractions(0, 0.7), fractions(0, 200)], None).value_range == (0, 255)
    assert choose_value_range([fractions(0, 0.7)], None).value_range == (0, 1)
    assert choose_value_range([fractions(-1, 1)], None).value_range == (-1, 1)
    with pytest.raises(RequestError, match="no single range fits both"):
        choose_value_range([whole(0, 4000), fractions(0, 1)], None)
    assert choose_value_range([whole(0, 4000)], (0, 4095)).notes == ()
    [note] = choose_value_range([whole(0, 5000), whole(0, 4000)], (0, 4095)).notes
    assert note.startswith("1 image with values outside dataset.value_range, 0 to 4095")
