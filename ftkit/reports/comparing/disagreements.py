"""Images that the baseline predicts rightly and another run doesn't, and the reverse."""

from __future__ import annotations

import numpy as np

from ftkit.data.images.image_files import sample_name
from ftkit.errors import plural
from ftkit.evaluation.mistakes import predicted_classes
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import label_text
from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.picture_figure import gallery, picture
from ftkit.reports.section import Omitted

EACH = 30
"""Images that are shown of each kind."""


def disagreements(data: ComparisonData) -> Html | Omitted:
    """Two galleries for each run but the first."""
    if data.images is None:
        return Omitted("the runs have other images")
    right = [result.outputs.outputs.right for result in data.results]
    parts = []
    for place in range(1, len(data.results)):
        for winner, loser in ((0, place), (place, 0)):
            found = np.flatnonzero(right[winner] & ~right[loser]).tolist()
            if found:
                parts.append(_gallery(data, data.images, found, winner, loser))
    return tag("div", parts) if parts else Omitted("each image is right for all runs, or for none")


def _gallery(data: ComparisonData, images: Split, found: list[int], winner: int, loser: int) -> Html:
    data.thumbnails.prepare(images, found[:EACH])
    figures = [_figure(data, images, place, loser) for place in found[:EACH]]
    shown = f", of which {len(figures)} are shown" if len(figures) < len(found) else ""
    text = f"{plural(len(found), 'image')}{shown}, with the prediction of {data.names[loser]}."
    title = f"Right for {data.names[winner]}, wrong for {data.names[loser]}"
    return tag("div", tag("h3", title), hint(text), gallery(figures), class_="part")


def _figure(data: ComparisonData, images: Split, place: int, loser: int) -> Html:
    outputs = data.results[loser].outputs.outputs
    label = label_text(images.labels[place], outputs.classes) or "none"
    predicted = label_text(predicted_classes(outputs, place), outputs.classes) or "none"
    path = sample_name(images, place)
    alt = f"{path}: label {label}, {data.names[loser]} predicted {predicted}"
    caption = tag(
        "figcaption",
        tag("span", label, class_="label"),
        tag("span", "predicted ", tag("b", predicted), class_="predicted"),
        tag("span", path.rpartition("/")[2], class_="path", title=path),
    )
    return tag("figure", picture(data.thumbnails.of(images, place), alt), caption)
