"""Heat maps of mistakes and of right predictions: where in the image the predicted class comes from."""

from __future__ import annotations

from collections.abc import Iterator

import PIL.Image

from ftkit.data.images.image_files import sample_name
from ftkit.errors import FtkitError, RequestError, plural
from ftkit.evaluation.mistakes import find_least_confident, find_mistakes
from ftkit.explanation.overlay import overlay
from ftkit.inference.heat_maps import HeatMap
from ftkit.inference.predictor import Predictor
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import label_text
from ftkit.reports.markup import Html, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.picture_figure import gallery, picture
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted
from ftkit.reports.thumbnails import SIDE

WRONG, RIGHT = 12, 6
"""Mistakes, the most confident first, and right predictions, the least confident first."""


def heat_maps(data: ReportData) -> Html | Omitted:
    """Images with a heat map of the predicted class over each, by Grad-CAM."""
    evaluated = data.evaluated
    if isinstance(evaluated, Omitted):
        return evaluated
    empty = list[int]()
    try:
        places = _places(evaluated)
        figures = list(_figures(data, evaluated, places, empty))
    except FtkitError as error:
        return Omitted(error.message)
    explained = (
        "Bright where the image raises the score of the class (Grad-CAM): the most confident mistakes, then the least "
        "confident right predictions. ftkit predict --explain FOLDER draws them for other images."
    )
    if empty:
        explained += f" {plural(len(empty), 'map is', 'maps are')} empty: no part of the image raises the score."
    return tag("div", hint(explained), gallery(figures)) if figures else Omitted("no image can be read")


def _places(evaluated: Evaluated) -> list[int]:
    try:
        wrong, right = find_mistakes(evaluated.outputs), find_least_confident(evaluated.outputs)
    except RequestError:
        return list(range(min(WRONG + RIGHT, len(evaluated.outputs))))
    found: list[int] = [*wrong.places.tolist()[:WRONG], *right.places.tolist()[:RIGHT]]
    return found


def _figures(data: ReportData, evaluated: Evaluated, places: list[int], empty: list[int]) -> Iterator[Html]:
    """The figures; the places of those whose map is zero everywhere are added to `empty`."""
    split, classes = evaluated.images.split, evaluated.outputs.classes
    images = (split.open(place) for place in places)
    maps = Predictor(evaluated.model).iter_explain(images, max_side=SIDE)
    for place, one in zip(places, maps, strict=True):
        if one.values is None or one.image is None or one.explained is None or data.thumbnails.left <= 0:
            continue
        if not one.values.any():
            empty.append(place)
        label = label_text(split.labels[place], classes) or "none"
        yield _figure(data, split, place, one, label)


def _figure(data: ReportData, split: Split, place: int, one: HeatMap, label: str) -> Html:
    assert one.image is not None, "of an image that was read"
    assert one.values is not None, "of an image that was read"
    drawn = PIL.Image.fromarray(overlay(one.image, one.values))
    path = sample_name(split, place)
    alt = f"{path}: heat map of {one.explained}, label {label}"
    caption = tag(
        "figcaption",
        tag("span", label, class_="label"),
        tag("span", "map of ", tag("b", one.explained), class_="predicted"),
        tag("span", path.rpartition("/")[2], class_="path", title=path),
    )
    return tag("figure", picture(data.thumbnails.add(drawn), alt), caption)
