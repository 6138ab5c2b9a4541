"""`ftkit.load(...).predict` of images in memory: every accepted type, and errors for all others."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import ftkit
from ftkit import Predictor
from ftkit.api import UnreadableImage
from ftkit.testing import draw_image
from tests import headers
from tests.models import save_model
from tests.predictions import alike

PICTURE = draw_image(3, (48, 32), "x").convert("RGB")
ARRAY = np.asarray(PICTURE)
TENSOR = torch.from_numpy(ARRAY.copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return ftkit.load(save_model(tmp_path_factory.mktemp("model") / "model", "abc"), device="cpu")


def content(image: Image.Image = PICTURE, kind: str = "PNG", **settings: Any) -> bytes:
    written = io.BytesIO()
    image.save(written, kind, **settings)
    return written.getvalue()


def strided() -> np.ndarray[Any, np.dtype[np.uint8]]:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, ::2] = ARRAY
    return wide[:, ::2]


def read_only() -> np.ndarray[Any, np.dtype[np.uint8]]:
    array = ARRAY.copy()
    array.flags.writeable = False
    return array


TAKEN: dict[str, Callable[[], Any]] = {
    "bytes": content,
    "bytearray": lambda: bytearray(content()),
    "memoryview": lambda: memoryview(content()),
    "file object": lambda: io.BytesIO(content()),
    "read already": lambda: (lambda file: (file.read(), file)[1])(io.BytesIO(content())),
    "PIL, lazily": lambda: Image.open(io.BytesIO(content())),
    "array": lambda: ARRAY,
    "array, strided": strided,
    "array, Fortran order": lambda: np.asfortranarray(ARRAY),
    "array, read-only": read_only,
    "array, with alpha": lambda: np.dstack([ARRAY, np.full((32, 48), 255, dtype=np.uint8)]),
    "tensor": lambda: TENSOR,
    "tensor, not contiguous": lambda: torch.from_numpy(ARRAY.copy()).permute(2, 0, 1),
    "tensor, a parameter": lambda: torch.nn.Parameter(TENSOR, requires_grad=False),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_every_kind_of_image_gives_the_same(model: Predictor, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content())
    [expected] = model.predict(path, top_k=3)
    for found in (model.predict(TAKEN[kind](), top_k=3), list(model.iter_predict([TAKEN[kind]()], top_k=3))):
        assert alike(expected, *found)
        assert [p.name for p in found] == ["0"]


def test_files_keep_their_names_and_positions(model: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content())
    with path.open("rb") as file:
        found = model.predict([path, str(path), file, Image.open(path), PICTURE, ARRAY])
    assert [p.name for p in found] == [str(path)] * 4 + ["4", "5"]
    assert alike(*found)


def test_grey_arrays_and_several_in_one(model: Predictor) -> None:
    grey = np.asarray(PICTURE.convert("L"))
    [expected] = model.predict(PICTURE.convert("L"), top_k=3)
    assert alike(expected, *model.predict(grey, top_k=3))
    assert len(model.predict(np.stack([ARRAY] * 3))) == len(model.predict(TENSOR.repeat(3, 1, 1, 1))) == 3
    assert model.predict([]) == []


REFUSED: dict[str, tuple[Any, str]] = {
    "an int": (5, "it is of type int, not an image; give a path"),
    "None": (None, "it is None, not an image; give a path"),
    "a list": ([1, 2], "of type list"),
    "floats": (ARRAY / 255, "a numpy array of float64 with shape (32, 48, 3)"),
    "float tensor": (TENSOR / 255, "a tensor of float32 with shape (3, 32, 48)"),
    "bool": (ARRAY > 9, "a numpy array of bool"),
    "objects": (np.array([[None]]), "a numpy array of object with shape (1, 1)"),
    "16 bits": (ARRAY.astype(np.uint16), "a numpy array of uint16"),
    "two bands": (ARRAY[..., :2], "with shape (32, 48, 2)"),
    "channels first": (TENSOR.numpy(), "a numpy array of uint8 with shape (3, 32, 48)"),
    "channels last": (torch.from_numpy(ARRAY.copy()), "a tensor of uint8 with shape (32, 48, 3)"),
    "one channel": (TENSOR[:1], "a tensor of uint8 with shape (1, 32, 48)"),
    "a number": (np.uint8(3), "of type uint8"),
    "no dimensions": (np.array(3, dtype=np.uint8), "with shape ()"),
    "no pixels": (ARRAY[:0], "with shape (0, 48, 3), which has no pixels"),
    "no pixels, tensor": (TENSOR[:, :, :0], "which has no pixels"),
    "no pixels, PIL": (Image.new("RGB", (0, 5)), "the image has no pixels"),
    "no bytes": (b"", "the file is empty"),
    "text": (b"what is this?", "not an image"),
    "cut short": (content()[:200], "can't be read"),
    "text file": (io.StringIO("x"), "open it in binary mode"),
    "meta tensor": (TENSOR.to("meta"), "can't be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_one_error_and_does_not_end_a_stream(model: Predictor, kind: str) -> None:
    item, reason = REFUSED[kind]
    found = list(model.iter_predict([PICTURE, item, PICTURE]))
    assert [p.error is None for p in found] == [True, False, True]
    assert found[1].name == "1"
    assert reason in str(found[1].error)
    assert "\n" not in str(found[1].error)
    with pytest.raises(UnreadableImage, match=r"^image 1: ") as caught:
        model.predict([PICTURE, item, PICTURE])
    assert reason in str(caught.value)


def test_objects_with_only_a_read_method(model: Predictor, tmp_path: Path) -> None:
    class Body:
        """A stream of a network library: not seekable, without a `seekable` method."""

        def read(self) -> bytes:
            return content()

    (found,) = model.predict(Body())  # type: ignore[arg-type]
    assert found.probability == model.predict(content())[0].probability
    (tmp_path / "a.png").write_bytes(content())
    with (tmp_path / "a.png").open() as text, pytest.raises(UnreadableImage, match="open it in binary mode"):
        model.predict(text)


def test_a_single_object_that_is_not_an_image(model: Predictor) -> None:
    for item in (5, None, 2.5, ARRAY / 255):
        with pytest.raises(UnreadableImage, match=r"^image 0: it is"):
            model.predict(item)  # type: ignore[arg-type]


def test_images_that_are_closed_cut_short_or_change(model: Predictor, tmp_path: Path) -> None:
    closed_file, closed_image = io.BytesIO(content()), PICTURE.copy()
    closed_file.close()
    closed_image.close()
    cut = Image.open(io.BytesIO(content(kind="JPEG")[:-300]))
    results = list(model.iter_predict([closed_file, closed_image, cut, PICTURE]))
    assert [p.error is None for p in results] == [False, False, False, True]

    shades = [np.full((32, 48, 3), number * 20, dtype=np.uint8) for number in range(12)]

    def frames() -> Iterator[Any]:
        """Frames of a video, read into the same memory."""
        buffer = np.zeros((32, 48, 3), dtype=np.uint8)
        for shade in shades:
            buffer[:] = shade
            yield buffer
        buffer[:] = 0

    found = [p.top for p in model.iter_predict(frames(), top_k=3, batch_size=4)]
    assert found == [p.top for p in model.iter_predict(shades, top_k=3, batch_size=4)]
    assert len(set(found)) == len(shades)

    def opened() -> Iterator[Image.Image]:
        for _ in range(5):
            with Image.open(io.BytesIO(content())) as image:
                yield image

    assert [p.error for p in model.iter_predict(opened(), batch_size=2)] == [None] * 5


def signed_resolution() -> bytes:
    """EXIF that PIL can read and can't write: XResolution of -1/1 beside an orientation."""
    tags = struct.pack("<HHHIHHHHII", 2, 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 8 + 2 + 24 + 4)
    return b"Exif\0\0II" + struct.pack("<HI", 42, 8) + tags + bytes(4) + struct.pack("<ii", -1, 1)


def test_a_pil_image_with_unusual_metadata_is_predicted_like_its_file(model: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(headers.jpeg(PICTURE, [headers.app1(signed_resolution())]))
    with pytest.raises(Exception, match="argument"):
        ImageOps.exif_transpose(Image.open(path))
    by_path, by_image = model.predict([path, Image.open(path)], top_k=3)
    assert alike(by_path, by_image)
    upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    upright.info.clear()
    assert alike(by_path, *model.predict(upright, top_k=3))


def test_a_pil_image_with_a_colour_profile_is_predicted_like_its_file(model: Predictor, tmp_path: Path) -> None:
    for name, profile in {"p3.jpg": headers.DISPLAY_P3, "adobe.png": headers.ADOBE_RGB}.items():
        PICTURE.save(tmp_path / name, icc_profile=profile)
        found = model.predict([tmp_path / name, Image.open(tmp_path / name), (tmp_path / name).read_bytes()], top_k=3)
        assert alike(*found)
        bare = Image.open(tmp_path / name)
        bare.info.pop("icc_profile")
        assert not alike(found[0], *model.predict(bare, top_k=3))
