"""All ways in which an image becomes pixels agree: files, bytes, PIL images, kept decoded, whatever the headers are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin
from torch import Tensor

import ftkit
from ftkit.api import ImageFiles, Split, UnreadableImage, decode_image, open_image
from ftkit.data.images import FORMATS, profile_problem, with_channels
from ftkit.data.images.formats import add_reader
from ftkit.data.loading import pixels
from ftkit.data.loading.decoded_images import decoded_sizes, open_decoded_cache
from ftkit.data.loading.pixels import content_pixels, file_pixels, pixels_of, sample_pixels
from ftkit.testing import draw_image
from tests import headers
from tests.headers import app1, app1_xmp, exif, jpeg, shown, stored, xmp

UPRIGHT = headers.STORED[1]
PHOTO = draw_image(3, (61, 47), "x").convert("RGB")


IN_MEMORY = ftkit.plan(cache={"decoded": "ram"}).config.cache


def ways(path: Path, channels: int = 3) -> dict[str, Tensor]:
    """The pixels of a file, by every way in."""
    content = path.read_bytes()
    split = Split([path.name], [0], ImageFiles(path.parent, [path.name]))
    kept = open_decoded_cache(split, decoded_sizes(split, channels), IN_MEMORY, "")
    loaded = Image.open(io.BytesIO(content))
    loaded.load()
    return {
        "file": file_pixels(path, channels),
        "open_image": pixels_of(open_image(path), channels),
        "bytes": content_pixels(content, "x", channels),
        "decode_image": pixels_of(decode_image(content, "x"), channels),
        "decoded cache, first": kept.pixels(0, channels).clone(),
        "decoded cache, again": kept.pixels(0, channels).clone(),
        "PIL": pixels_of(Image.open(path), channels),
        "PIL, loaded": pixels_of(loaded, channels),
        "PIL, copied": pixels_of(loaded.copy(), channels),
    }


def agreed(path: Path, channels: int = 3, but: str = "") -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    found = ways(path, channels)
    found.pop(but, None)
    for name, each in found.items():
        assert torch.equal(each, found["open_image"]), name
    assert torch.equal(pixels_of(open_image(path), channels), pixels_of(Image.open(path), channels))
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = found["file"].numpy()
    return array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp", ".avif", ".heic", ".jxl"])
def test_every_format_is_turned_by_every_way_in(tmp_path: Path, suffix: str, orientation: int) -> None:
    if FORMATS[suffix].module is not None and not add_reader(suffix):
        pytest.skip(f"{FORMATS[suffix].package} isn't installed")
    path = tmp_path / f"a{suffix}"
    tags = Image.Exif()
    tags[0x0112] = orientation
    settings = {} if suffix in (".png", ".tiff") else {"quality": 95}
    # The packages take it as bytes; then HEIC has it as HEIF does, beside EXIF.
    written = tags.tobytes() if FORMATS[suffix].module is not None else tags
    stored(orientation).save(path, exif=written, **settings)  # type: ignore[arg-type]
    assert shown(agreed(path)) == UPRIGHT


ODD: Mapping[str, tuple[list[bytes], int]] = {
    "EXIF behind XMP": ([app1_xmp(1), app1(exif(6))], 6),
    "EXIF before XMP that says otherwise": ([app1(exif(6)), app1_xmp(3)], 6),
    "EXIF behind a vendor's segment": ([app1(b"VENDOR\0\1\2"), app1(exif(6))], 6),
    "EXIF behind APP0, APP2 and a comment": (
        [headers.segment(0xE2, b"MPF\0"), headers.segment(0xFE, b"x"), app1(exif(6))],
        6,
    ),
    "XMP alone, as an attribute": ([app1_xmp(6)], 6),
    "XMP alone, as an element": ([app1_xmp(6, "element")], 6),
    "EXIF twice": ([app1(exif(6)), app1(exif(3))], 6),
    "a header twice": ([app1(b"Exif\0\0" + exif(6))], 6),
    "a thumbnail turned otherwise": ([app1(exif(6, thumbnail=3))], 6),
    "a thumbnail alone turned": ([app1(exif(1, thumbnail=6))], 1),
    "orientation 0": ([app1(exif(0))], 1),
    "orientation 9": ([app1(exif(9))], 1),
    "as text": ([app1(exif(6, headers.ASCII))], 1),
    "cut short": ([app1(exif(6)[:-10])], 1),
    "nothing but the header": ([app1(b"Exif\0\0")], 1),
    "no EXIF": ([app1(b"Exif\0\0what is this?")], 1),
    **{
        f"type {kind}, {endian}": ([app1(exif(6, kind, endian))], 6)
        for kind in (headers.BYTE, headers.SHORT, headers.LONG, headers.SBYTE, headers.SSHORT, headers.SLONG)
        for endian in "<>"
    },
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", ODD)
def test_odd_headers_of_jpegs_mean_one_thing(tmp_path: Path, name: str) -> None:
    segments, orientation = ODD[name]
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(stored(orientation), segments))
    assert pixels._jpeg(path, 3) is not None, "the quick decoder takes it"
    assert shown(agreed(path)) == UPRIGHT


def test_exif_between_the_scans_of_a_jpeg(tmp_path: Path) -> None:
    """PIL stops reading headers at the first scan, the quick decoder reads on."""
    content = jpeg(stored(1), progressive=True)
    second = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    (tmp_path / "a.jpg").write_bytes(content[:second] + app1(exif(6)) + content[second:])
    assert shown(agreed(tmp_path / "a.jpg")) == UPRIGHT


def test_a_copy_of_a_tiff_is_not_turned_by_its_xmp(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112], tags[700], tags.tagtype[700] = 1, xmp(6), 1
    stored(1).save(tmp_path / "a.tiff", tiffinfo=tags)
    image = open_image(tmp_path / "a.tiff")
    assert shown(pixels_of(image.copy(), 3).numpy()) == UPRIGHT
    assert shown(agreed(tmp_path / "a.tiff", but="PIL, copied")) == UPRIGHT


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_quick_decoder_turns_as_pil_does(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(PHOTO, [app1_xmp(1), app1(exif(orientation))]))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path))).transpose(2, 0, 1)
    assert pixels._jpeg(path, 3) is not None
    assert np.array_equal(agreed(path), expected)


def test_orientation_in_the_xmp_of_other_formats(tmp_path: Path) -> None:
    for form in ("attribute", "element"):
        stored(6).save(tmp_path / "a.webp", xmp=xmp(6, form), lossless=True)
        assert shown(agreed(tmp_path / "a.webp")) == UPRIGHT
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6, form)
        (tmp_path / "a.png").write_bytes(headers.png(stored(6), [(b"iTXt", text)]))
        assert shown(agreed(tmp_path / "a.png")) == UPRIGHT
        stored(6).save(tmp_path / "a.tiff", tiffinfo={700: xmp(6, form)})
        assert shown(agreed(tmp_path / "a.tiff")) == UPRIGHT


@pytest.mark.parametrize("orientation", range(1, 9))
def test_uncompressed_files_that_pil_maps_into_memory(tmp_path: Path, orientation: int) -> None:
    """From a path PIL reads those that lie on their side in another way than from a file object."""
    values = np.asarray(stored(orientation))[..., 0]
    deep = values.astype(np.uint16) * 257
    for name, array in {"grey": values, "deep": deep}.items():
        path = tmp_path / f"{name}.tiff"
        path.write_bytes(headers.tiff(array, {274: (headers.SHORT, [orientation])}))
        assert shown(file_pixels(path, 1).numpy()) == UPRIGHT
        assert shown(pixels_of(Image.open(path), 1).numpy()) == UPRIGHT
        assert shown(content_pixels(path.read_bytes(), "x", 1).numpy()) == UPRIGHT


def test_an_image_that_was_turned_is_not_turned_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(stored(6), [app1(exif(6)), app1_xmp(6)]))
    again = pixels_of(open_image(path).copy(), 3)
    assert shown(again.numpy()) == UPRIGHT


GREEN = (0, 200, 0)


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    """By PIL's own function."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert found is not None
    return found


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("profile", [headers.DISPLAY_P3, headers.ADOBE_RGB])
def test_colour_profiles_are_converted_to_srgb(tmp_path: Path, suffix: str, profile: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    settings = {"lossless": True} if suffix == ".webp" else {}
    Image.new("RGB", (16, 16), (60, 180, 60)).save(path, icc_profile=profile, **settings)  # type: ignore[arg-type]
    plain = Image.open(path).convert("RGB")
    expected = converted(plain, profile)
    found = agreed(path)
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))
    assert abs(found.astype(int) - np.asarray(plain).transpose(2, 0, 1)).max() > 20, "it makes a difference"


def test_the_colours_of_display_p3_and_adobe_rgb(tmp_path: Path) -> None:
    """By hand: through the profile's primaries and curve to XYZ, and back by those of sRGB."""

    def encoded(linear: float) -> float:
        return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)

    def decoded(value: int) -> float:
        part = value / 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    def adobe(value: int) -> float:
        return float((value / 255) ** (563 / 256))

    cases = [(headers.DISPLAY_P3, headers.P3_PRIMARIES, decoded), (headers.ADOBE_RGB, headers.ADOBE_PRIMARIES, adobe)]
    for profile, primaries, linear in cases:
        colour = (120, 160, 110)
        xyz = np.array(primaries).T @ [linear(value) for value in colour]
        expected = [encoded(value) for value in np.linalg.inv(np.array(headers.SRGB_PRIMARIES).T) @ xyz]
        Image.new("RGB", (4, 4), colour).save(tmp_path / "a.png", icc_profile=profile)
        assert agreed(tmp_path / "a.png")[:, 0, 0].tolist() == pytest.approx(expected, abs=1.5)


def test_a_profile_for_srgb_costs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (headers.SRGB, own):
        path = tmp_path / "a.jpg"
        PHOTO.save(path, icc_profile=profile, quality=95)
        assert pixels._jpeg(path, 3) is not None, "the quick decoder takes it"
        assert np.array_equal(agreed(path), np.asarray(Image.open(path)).transpose(2, 0, 1))


def test_profiles_of_grey_palettes_alpha_and_deep_images(tmp_path: Path) -> None:
    expected = np.asarray(converted(Image.new("L", (1, 1), 64), headers.LINEAR_GREY))[0, 0, 0]
    assert expected == pytest.approx(137, abs=1)
    Image.new("L", (4, 4), 64).save(tmp_path / "grey.png", icc_profile=headers.LINEAR_GREY)
    Image.new("L", (4, 4), 64).save(tmp_path / "grey.jpg", icc_profile=headers.LINEAR_GREY)
    Image.new("LA", (4, 4), (64, 255)).save(tmp_path / "alpha.png", icc_profile=headers.LINEAR_GREY)
    deep = Image.fromarray(np.full((4, 4), 64 * 257, dtype=np.uint16))
    deep.save(tmp_path / "deep.png", icc_profile=headers.LINEAR_GREY)
    for name in ("grey.png", "grey.jpg", "alpha.png", "deep.png"):
        for channels in (1, 3):
            assert abs(agreed(tmp_path / name, channels).astype(int) - expected).max() <= 1, name
    # 16 bits are converted before they are cut to 8: the darkest have levels of their own.
    dark = Image.fromarray(np.array([[16, 64, 128]], dtype=np.uint16))
    dark.save(tmp_path / "dark.png", icc_profile=headers.LINEAR_GREY)
    assert len(set(agreed(tmp_path / "dark.png", 1).ravel().tolist())) == 3

    colour = np.asarray(converted(Image.new("RGB", (1, 1), GREEN), headers.ADOBE_RGB))[0, 0]
    palette = Image.new("P", (4, 4))
    palette.putpalette(GREEN)
    palette.save(tmp_path / "palette.png", icc_profile=headers.ADOBE_RGB)
    Image.new("RGBA", (4, 4), (*GREEN, 255)).save(tmp_path / "alpha.png", icc_profile=headers.ADOBE_RGB)
    for name in ("palette.png", "alpha.png"):
        assert agreed(tmp_path / name)[:, 0, 0].tolist() == colour.tolist()
    Image.new("RGBA", (4, 4), (*GREEN, 0)).save(tmp_path / "glass.png", icc_profile=headers.ADOBE_RGB)
    assert set(agreed(tmp_path / "glass.png").ravel().tolist()) == {255}


def test_profiles_that_cannot_be_used_are_ignored(tmp_path: Path) -> None:
    damaged = headers.DISPLAY_P3[:200]
    for name, profile in {"damaged": damaged, "nonsense": b"what is this?", "grey": headers.LINEAR_GREY}.items():
        path = tmp_path / f"{name}.png"
        PHOTO.save(path, icc_profile=profile)
        assert np.array_equal(agreed(path), np.asarray(PHOTO).transpose(2, 0, 1)), name
        assert (profile_problem(Image.open(path)) is None) == (name == "grey")


def test_a_profile_is_applied_once(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.png", icc_profile=headers.ADOBE_RGB)
    once = pixels_of(open_image(tmp_path / "a.png"), 3)
    assert torch.equal(pixels_of(with_channels(open_image(tmp_path / "a.png"), 3), 3), once)


def test_an_image_that_a_dataset_opened_and_did_not_read() -> None:
    """Turned upright and converted as files are; one that is cut short is named as they are."""
    whole, cut = jpeg(stored(6), [app1(exif(6))]), jpeg(PHOTO)[:-200]

    def opens(index: int) -> Image.Image:
        return Image.open(io.BytesIO(whole if index == 0 else cut))

    split = Split(["whole", "cut"], [0, 0], opens)
    assert shown(sample_pixels(split, 0, 3).numpy()) == UPRIGHT
    with pytest.raises(UnreadableImage, match=r"^cut: can't be read: .*truncated"):
        sample_pixels(split, 1, 3)


def test_a_fourth_band_that_nothing_calls_alpha_is_none(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    for compression in (None, "tiff_lzw"):
        image.save(tmp_path / "alpha.tiff", compression=compression)
        assert agreed(tmp_path / "alpha.tiff")[:, 0, 0].tolist() == [255, 255, 255]
        content = (tmp_path / "alpha.tiff").read_bytes()
        tag = content.index(b"\x52\x01\x03\x00\x01\x00\x00\x00")
        # Another tag in its place, of those that mean nothing here.
        (tmp_path / "bare.tiff").write_bytes(content[:tag] + b"\x53\xff" + content[tag + 2 :])
        # PIL's copy of an image has lost the file's tags.
        assert agreed(tmp_path / "bare.tiff", but="PIL, copied")[:, 0, 0].tolist() == [10, 20, 30]


def test_all_readers_agree_on_real_photographs(shared: Path) -> None:
    files = sorted((shared / "data" / "hymenoptera").rglob("*.jpg"))[::8]
    assert files
    for path in files:
        assert torch.equal(file_pixels(path, 3), pixels_of(open_image(path), 3)), path
