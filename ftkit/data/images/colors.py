"""From an image of any mode to 8 bits of grey or sRGB, in the colours that its embedded ICC profile means."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftkit.data.images.depth import Range, deep, eight_bits, in_range, sixteen_bits

if TYPE_CHECKING:
    from PIL.Image import Image

GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16"})
ALMOST = 1
"""Levels of 255 by which a profile like that of sRGB changes colours at most; it is passed over then."""

KEPT = 64
"""Profiles whose transforms are kept, by their bytes; a data set has few."""


def with_channels(image: Image, channels: int, value_range: Range | None = None) -> Image:
    """The image as 8-bit grey (`channels=1`) or RGB (`channels=3`), in sRGB.

    An embedded ICC profile is honoured; a damaged one, or one for another kind of image, is ignored. What is
    transparent becomes white, as on a page. Values of more than 8 bits are scaled, as `depth.eight_bits` says.

    Args:
        value_range: The values that mean black and white in images of more than 8 bits that don't say so themselves.
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


def is_srgb(image: Image) -> bool:
    """Whether the image's colours are those of sRGB already, by its profile or for want of one that could be used."""
    profile = image.info.get("icc_profile")
    return not profile or _plan(profile, image.mode)[1] is None


def profile_fault(image: Image) -> str | None:
    """Why an image's embedded colour profile can't be used; None where it can, or there is none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    return "its colour profile is damaged, and ignored" if _space(profile) is None else None


def in_srgb(image: Image, profile: bytes) -> Image:
    """An image without alpha as RGB in sRGB; the same image where the profile changes nothing or can't be used."""
    from PIL import ImageCms

    mode, transform = _plan(profile, image.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(image if image.mode == mode else image.convert(mode), transform)
    assert converted is not None, "only a transform in place returns nothing"
    return converted


def _opaque_colours(image: Image, profile: bytes | None) -> Image:
    """As RGBA in sRGB; the alpha is the image's own."""
    rgba = image.convert("RGBA")
    if not profile:
        return rgba
    plain = rgba.getchannel("R") if image.mode in GREY_MODES else rgba.convert("RGB")
    colours = in_srgb(plain, profile).convert("RGBA")
    colours.putalpha(rgba.getchannel("A"))
    return colours


@lru_cache(KEPT)
def _plan(profile: bytes, mode: str) -> tuple[str, Any]:
    """The mode to convert an image of a mode to, and the transform from there to sRGB; None where none is needed.

    Grey images may have a profile for RGB, as many programs write them: they are taken as RGB of equal channels.
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
        # It has no table for this way round, or one that is damaged.
        return mode, None


@lru_cache(KEPT)
def _space(profile: bytes) -> str | None:
    """The colour space that a profile is for, as `RGB`, `GRAY`, `CMYK`; None where it is damaged."""
    from PIL import ImageCms

    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether a transform to sRGB leaves colours from all over the cube as they are."""
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
    """CIELAB as sRGB, which PIL converts by colour profiles alone."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert converted is not None, "only a transform in place returns nothing"
    return converted
