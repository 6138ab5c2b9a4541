"""A picture of a gallery."""

from __future__ import annotations

from ftkit.reports.markup import Html, tag
from ftkit.reports.thumbnails import Thumbnail

PIXELS = 64
"""The longer side up to which a picture is enlarged without smoothing."""


def picture(thumbnail: Thumbnail | None, alt: str) -> Html:
    """The thumbnail, or a box that says that there is none.

    Args:
        alt: What the picture is, for people who don't see it.
    """
    if thumbnail is None:
        return tag("div", "can't be read", class_="no-picture", role="img", aria_label=f"{alt} (it can't be read)")
    small = max(thumbnail.width, thumbnail.height) <= PIXELS
    return tag(
        "img",
        src=thumbnail.uri,
        width=thumbnail.width,
        height=thumbnail.height,
        alt=alt,
        decoding="async",
        class_="pixels" if small else None,
    )
