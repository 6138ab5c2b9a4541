"""A picture with its given label and a suggested one."""

from __future__ import annotations

from ftkit.data.images.image_files import sample_name
from ftkit.parts.dataset import Split
from ftkit.reports.markup import Child, Html, number, tag
from ftkit.reports.picture_figure import picture
from ftkit.reports.thumbnails import Thumbnails

NO_LABEL = "no label"


def label_figure(
    thumbnails: Thumbnails,
    split: Split,
    place: int,
    labels: tuple[str, str],
    score: float | None,
    further: Child = None,
) -> Html | None:
    """The figure; None where no bytes are left for its picture.

    Args:
        labels: The given label and the suggested one, which may be the same.
        score: The probability of the given label, if it is known.
        further: More lines of the caption.
    """
    thumbnail = thumbnails.of(split, place)
    if thumbnail is None and thumbnails.left <= 0:
        return None
    path, (given, suggested) = sample_name(split, place), (label or NO_LABEL for label in labels)
    differs = suggested != given
    caption = tag(
        "figcaption",
        tag("span", given, class_="label"),
        tag("span", "suggested ", tag("b", suggested), class_="predicted") if differs else None,
        None if score is None else tag("span", number(score, 3), class_="score"),
        further,
        tag("span", path.rpartition("/")[2], class_="path", title=path),
    )
    alt = f"{path}: label {given}" + (f", suggested {suggested}" if differs else "")
    return tag("figure", picture(thumbnail, alt), caption)
