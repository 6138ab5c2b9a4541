"""Conversion of images of any mode to 8-bit grey or sRGB, with the embedded ICC profile applied."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftkit.data.images.depth import Range, deep, eight_bits, in_range, sixteen_bits

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16"})
ALMOST = 1
"""A profile that changes colours by at most this many levels of 255 is treated as sRGB."""

TINT = 3
"""Largest difference of two channels, of 255, in an image that is treated as grey."""

KEPT = 64
"""Maximum profiles whose transforms are cached."""


def with_channels(image: Image, channels: int, value_range: Range | None = None) -> Image:
    """The image as 8-bit grey (`channels=1`) or RGB (`channels=3`), in sRGB.

    An embedded ICC profile is applied; a damaged one, or one for another kind of image, is ignored. Transparent pixels
    are composited on white. Values of more than 8 bits are scaled by `depth.eight_bits`.

    Args:
        value_range: Values of black and white for images of more than 8 bits that don't declare them.
    """
    import PIL.Image

    mode = "L" if channels == 1 else "RGB"
    image = in_range(image, value_range)
    profile = image.info.get("icc_profile")
    if deep(image):
        converted = in_srgb(sixteen_bits(image, value_range), profile) if profile else None
        image = eight_bits(image, value_range) if converted is None or converted.mode == "I;16" else converted
    elif image.has_transparency_data:
        rgba = _opaque_colours(image, profile)
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), rgba)
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif profile:
        image = in_srgb(image, profile)
    return image if image.mode == mode else image.convert(mode)


def is_grey(image: Image) -> bool:
    """Whether all pixels are grey, whatever the mode is. Transparent pixels count as white; profiles are ignored."""
    import PIL.Image
    from PIL import ImageChops

    if deep(image) or image.mode in GREY_MODES:
        return True
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), rgba)
    first, *others = image.convert("RGB").split()
    return not any(any(ImageChops.difference(first, other).histogram()[TINT + 1 :]) for other in others)


def is_srgb(image: Image) -> bool:
    """Whether the image needs no colour conversion: its profile is that of sRGB, missing or unusable."""
    profile = image.info.get("icc_profile")
    return not profile or _plan(profile, image.mode)[1] is None


def profile_problem(image: Image) -> str | None:
    """Why the embedded colour profile can't be used; None if it can, or if there is none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    return "its colour profile is damaged, and ignored" if _space(profile) is None else None


def in_srgb(image: Image, profile: bytes) -> Image:
    """Convert an image without alpha to sRGB; returns the image itself if the profile has no effect or is unusable."""
    from PIL import ImageCms

    mode, transform = _plan(profile, image.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert converted is not None, "only an in-place transform returns None"
    return converted


def _opaque_colours(image: Image, profile: bytes | None) -> Image:
    """Convert to RGBA in sRGB; alpha is unchanged."""
    rgba = image.convert("RGBA")
    if not profile:
        return rgba
    plain = rgba.getchannel("R") if image.mode in GREY_MODES else rgba.convert("RGB")
    colours = in_srgb(plain, profile).convert("RGBA")
    colours.putalpha(rgba.getchannel("A"))
    return colours


@lru_cache(KEPT)
def _plan(profile: bytes, mode: str) -> tuple[str, Any]:
    """The mode to convert an image to first, and the transform from that mode to sRGB; None if none is needed.

    Many programs write grey images with a profile for RGB: these are treated as RGB with equal channels.
    """
    from PIL import ImageCms

    space = _space(profile)
    wanted = {"RGB": "RGB", "GRAY": mode if mode == "I;16" else "L", "CMYK": "CMYK"}.get(space or "")
    fits = {"GRAY": mode in GREY_MODES, "CMYK": mode == "CMYK", "RGB": mode not in {"CMYK", "LAB", "I;16"}}
    if space is None or wanted is None or not fits[space]:
        return mode, None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), wanted, "RGB")
        return wanted, None if wanted != "CMYK" and _changes_nothing(transform, wanted) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        # The profile has no table for this direction, or a damaged one.
        return mode, None


@lru_cache(KEPT)
def _space(profile: bytes) -> str | None:
    """The colour space of a profile, such as `RGB`, `GRAY`, `CMYK`; None if it is damaged."""
    from PIL import ImageCms

    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a transform to sRGB leaves a grid of sample colours unchanged."""
    import numpy as np
    import PIL.Image
    from PIL import ImageCms

    if mode == "RGB":
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        values = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    else:
        values = np.arange(256, dtype=np.uint8)[None]
    before = values if mode != "I;16" else values.astype(np.uint16) * 257
    after = np.asarray(ImageCms.applyTransform(PIL.Image.fromarray(before), transform)).astype(int)
    return bool(np.abs(after - values.reshape(*after.shape[:2], -1)).max() <= ALMOST)


def _from_lab(image: Image) -> Image:
    """Convert CIELAB to sRGB, which PIL supports only through colour profiles."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None, "only an in-place transform returns None"
    return converted
