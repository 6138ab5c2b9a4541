"""Pictures of the images with a wrong prediction, and of those that are right with the least confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from ftkit.data.images.image_files import sample_name
from ftkit.errors import RequestError, plural
from ftkit.evaluation.mistakes import Ranked, find_least_confident, find_mistakes, predicted_classes
from ftkit.metrics.outputs import Outputs
from ftkit.parts.label_sets import label_set
from ftkit.reports.markup import Html, number, tag
from ftkit.reports.page_parts import hint
from ftkit.reports.picture_figure import gallery, picture
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted
from ftkit.reports.thumbnails import Thumbnail

MISTAKES, EACH_PAIR, ALL_MISTAKES = 120, 3, 280
"""Mistakes that are shown by confidence; then so many of each pair of classes; together at most."""
RIGHT, EACH_CLASS, ALL_RIGHT = 24, 2, 100
"""The same for right predictions, by class."""

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def mistakes(data: ReportData) -> Html | Omitted:
    """The mistakes, the most confident first."""
    ranking = _ranking(data, find_mistakes, lambda count: f"all {plural(count, 'prediction')} are right")
    if isinstance(ranking, Omitted):
        return ranking
    found, ranked = ranking
    figures = _figures(data, found, ranked, (MISTAKES, EACH_PAIR, ALL_MISTAKES))
    decision = "the prediction" if found.outputs.predicted.ndim == 1 else "the most confident wrong decision on a class"
    scored = f"Under each picture: its label, the prediction, and the probability of {decision}."
    rest = "" if len(figures) == len(ranked) else " ftkit evaluate --mistakes FILE writes all of them."
    counted = f"{len(figures):,} of {plural(len(ranked), 'mistake')}, the most confident first. "
    return tag("div", hint(f"{counted}{scored}{rest}"), gallery(figures))


def least_confident(data: ReportData) -> Html | Omitted:
    """Right predictions, the least confident first."""
    ranking = _ranking(data, find_least_confident, lambda count: "no prediction is right")
    if isinstance(ranking, Omitted):
        return ranking
    found, ranked = ranking
    figures = _figures(data, found, ranked, (RIGHT, EACH_CLASS, ALL_RIGHT))
    counted = f"{len(figures):,} of {plural(len(ranked), 'right prediction')}, the least confident first"
    return tag("div", hint(f"{counted}, with some of each class."), gallery(figures))


def _ranking(
    data: ReportData, find: Callable[[Outputs], Ranked], none: Callable[[int], str]
) -> tuple[Evaluated, Ranked] | Omitted:
    """The evaluated model with the images of a gallery, or why there are none.

    Args:
        none: Returns the reason where no image is found, from the number of images.
    """
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    try:
        ranked = find(found.outputs)
    except RequestError as error:
        return Omitted(error.message)
    return (found, ranked) if len(ranked) else Omitted(none(len(found.outputs)))


def _figures(data: ReportData, found: Evaluated, ranked: Ranked, limits: tuple[int, int, int]) -> list[Html]:
    """Figures of the first images, and of some of each pair of label and prediction, in the order of the ranking."""
    chosen = list(_chosen(found, ranked, limits))
    split, places = found.images.split, ranked.places.tolist()
    data.thumbnails.prepare(split, [places[rank] for rank, _ in chosen])
    figures = []
    for rank, pair in chosen:
        thumbnail = data.thumbnails.of(split, places[rank])
        if thumbnail is not None or data.thumbnails.left > 0:
            figures.append(_figure(found, places[rank], pair, float(ranked.scores[rank]), thumbnail))
    return figures


def _chosen(found: Evaluated, ranked: Ranked, limits: tuple[int, int, int]) -> Iterator[tuple[int, Pair]]:
    """Ranks of the images to show, with their pairs."""
    first, each, most = limits
    seen, shown, labels = Counter[Pair](), 0, found.images.split.labels
    for rank, place in enumerate(ranked.places.tolist()):
        pair = label_set(labels[place]), predicted_classes(found.outputs, place)
        if (rank < first or seen[pair] < each) and shown < most:
            shown, seen[pair] = shown + 1, seen[pair] + 1
            yield rank, pair
        elif shown == most:
            return


def _figure(found: Evaluated, place: int, pair: Pair, score: float, thumbnail: Thumbnail | None) -> Html:
    path, classes = sample_name(found.images.split, place), found.outputs.classes
    label, predicted = (", ".join(classes[index] for index in one) or "none" for one in pair)
    shown = picture(thumbnail, f"{path}: label {label}, predicted {predicted}")
    right = pair[0] == pair[1]
    names = (
        [tag("span", label, class_="label")]
        if right
        else [tag("span", label, class_="label"), tag("span", "predicted ", tag("b", predicted), class_="predicted")]
    )
    caption = tag(
        "figcaption",
        names,
        tag("span", number(score, 3), class_="score"),
        tag("span", path.rpartition("/")[2], class_="path", title=path),
    )
    key = ";".join(",".join(map(str, one)) for one in pair) if len(pair[0]) != 1 or len(pair[1]) != 1 else None
    return tag("figure", shown, caption, data_pair=key or f"{pair[0][0]},{pair[1][0]}")
