"""Pictures, and galleries of them."""

from __future__ import annotations

from collections.abc import Sequence

from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import folded
from ftkit.reports.thumbnails import Thumbnail

PIXELS = 64
"""The longer side up to which a picture is enlarged without smoothing."""

FIRST = 30
"""Pictures of a gallery that are shown at once; the others are folded."""


def gallery(figures: Sequence[Html]) -> Html:
    """Figures side by side."""
    shown = tag("div", figures[:FIRST], class_="gallery")
    if len(figures) <= FIRST:
        return shown
    rest = tag("div", figures[FIRST:], class_="gallery")
    return tag("div", shown, folded(f"{len(figures) - FIRST:,} more", rest))


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
