"""Whatever the headers of an image are, all ways in give the same pixels; whatever predict is given is answered."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ftkit
from ftkit import Predictor
from ftkit.api import UnreadableImage
from ftkit.testing import draw_image as drawn
from tests import headers
from tests.models import save_model
from tests.soak import times
from tests.soak.readers import Range, pixel_readers, pixels, size_by_header

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("ignore")]

PICTURE = drawn(3, (48, 32), "x").convert("RGB")
KINDS = (headers.BYTE, headers.ASCII, headers.SHORT, headers.LONG, headers.SBYTE, headers.SSHORT, headers.SLONG)
MODES = ("1", "L", "LA", "P", "RGBA", "I;16", "F", "LAB", "CMYK")
NUMBERS = (("u1", 255), ("u2", 65535), ("i2", 32767), ("i4", 65535), ("f4", 65535))
PROFILES = (None, headers.SRGB, headers.DISPLAY_P3, headers.ADOBE_RGB, headers.LINEAR_GREY, b"x", headers.SRGB[:200])


def examples(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=times(count), deadline=None, suppress_health_check=checks, database=None)


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    orientation = draw(st.integers(0, 10))
    block = headers.exif(
        orientation, draw(st.sampled_from(KINDS)), draw(st.sampled_from("<>")), draw(st.none() | st.integers(0, 9))
    )
    broken = draw(st.sampled_from((len(block), len(block), len(block) - 3, 20, 8)))
    return draw(
        st.sampled_from(
            (
                headers.app1(block),
                headers.app1(block[:broken]),
                headers.app1(b"Exif\0\0" + block),
                headers.app1(b"Exif\0\xff" + block[6:]),
                headers.app1_xmp(min(orientation, 9), draw(st.sampled_from(("attribute", "element")))),
                headers.segment(
                    draw(st.sampled_from((0xE0, 0xE2, 0xED, 0xEE, 0xEF, 0xFE))), draw(st.binary(max_size=40))
                ),
                headers.app1(draw(st.binary(max_size=40))),
            )
        )
    )


@st.composite
def jpegs(draw: st.DrawFn) -> bytes:
    mode, profile = draw(st.sampled_from(("RGB", "L", "CMYK"))), draw(st.sampled_from(PROFILES))
    more = {"icc_profile": profile} if profile is not None else {}
    content = headers.jpeg(PICTURE.convert(mode), draw(st.lists(segments(), max_size=4)), **more)
    return damaged(draw, content)


@st.composite
def tiffs(draw: st.DrawFn) -> bytes:
    kind, top = draw(st.sampled_from(NUMBERS))
    bands = draw(st.sampled_from((1, 1, 3, 4)))
    values = np.random.default_rng(draw(st.integers(0, 9))).uniform(
        0, draw(st.sampled_from((1, 200, 4095, 65535))), (6, 5, bands)
    )
    optional = {
        262: st.sampled_from((0, 1, 2)), 274: st.integers(0, 9), 280: st.integers(0, 5000), 281: st.integers(0, 70000),
        338: st.integers(0, 3), 340: st.integers(0, 5000), 341: st.integers(0, 70000),
    }  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=4))
    tags = {tag: (headers.LONG if tag > 275 and tag != 338 else headers.SHORT, [draw(optional[tag])]) for tag in chosen}
    array = values[..., 0] if bands == 1 else values
    return damaged(draw, headers.tiff(array.clip(0, top).astype(kind), tags))


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    top = draw(st.sampled_from((4095, 65535)))
    bands = draw(st.sampled_from((1, 3, 4)))
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, top + 1, (6, 5, bands)).astype(np.uint16)
    chunks = [(b"sBIT", bytes([draw(st.integers(0, 17))] * bands))] if draw(st.booleans()) else []
    chunks += [(b"eXIf", headers.exif(draw(st.integers(0, 9)))[6:])] if draw(st.booleans()) else []
    return damaged(draw, headers.png_of_16_bits(values[..., 0] if bands == 1 else values, chunks))


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        changed[draw(st.integers(0, min(400, len(changed) - 1)))] = draw(st.integers(0, 255))
    return bytes(changed)


@examples(3000)
@given(jpegs() | tiffs() | pngs(), st.sampled_from((1, 3)), st.sampled_from((None, (0.0, 4095.0))))
def test_all_ways_in_agree(tmp_path: Path, content: bytes, channels: int, value_range: Range | None) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(content)
    try:
        expected = pixels(path, channels, value_range)
    except UnreadableImage as error:
        reason = re.escape(str(error))
        for read in pixel_readers(path, content, channels, None):
            with pytest.raises(UnreadableImage, match=f"^{reason}$"):
                read()
        return
    for read in pixel_readers(path, content, channels, value_range):
        assert torch.equal(read(), expected)
    assert torch.equal(pixels(Image.open(path), channels, value_range), expected)
    assert torch.equal(pixels(Image.open(io.BytesIO(content)), channels, value_range), expected)
    assert size_by_header(path) == (expected.shape[2], expected.shape[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return ftkit.load(save_model(tmp_path_factory.mktemp("model") / "model", "ab", "lenet"), device="cpu")


@st.composite
def things(draw: st.DrawFn) -> Any:
    """Images in memory, and what might be taken for one."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    dtype = draw(st.sampled_from(("uint8", "uint8", "uint16", "float32", "bool", "int64", "object", "complex64")))
    array, (width, height, *_) = np.ones(shape, dtype=dtype), (*shape, 1, 1)
    content = draw(jpegs() | tiffs() | pngs())
    kinds: dict[str, Callable[[], Any]] = {
        "array": lambda: array,
        "reversed": lambda: array[::-1] if array.ndim else array,
        "tensor": lambda: torch.ones(shape, dtype=getattr(torch, dtype, torch.uint8)),
        "bytes": lambda: content,
        "bytearray": lambda: bytearray(content),
        "memoryview": lambda: memoryview(content),
        "file": lambda: io.BytesIO(content),
        "image": lambda: Image.new(draw(st.sampled_from(MODES)), (width, height)),
        "opened": lambda: opened(content),
        "other": lambda: draw(st.none() | st.integers() | st.binary() | st.text(max_size=5) | st.lists(st.integers())),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


def opened(content: bytes) -> Any:
    try:
        return Image.open(io.BytesIO(content))
    except Exception:
        return None


@examples(1000)
@given(st.lists(things(), max_size=6))
def test_every_item_gets_a_prediction_or_an_error(model: Predictor, some: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(model.iter_predict([*some, PICTURE]))
    assert len(found) == len(some) + 1
    assert found[-1].error is None
    assert all((each.label is None) == (each.error is not None) for each in found)
    assert all("\n" not in str(each.error) for each in found)
