"""The confusion matrix, whose cells open their pictures; for many classes, the most confused pairs."""

from __future__ import annotations

import math

from ftkit.errors import plural
from ftkit.metrics.report import Evaluation
from ftkit.metrics.rounding import digits_of
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import hint, scrolling, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted

LARGEST = 30
"""Classes up to which the whole matrix is shown."""
PAIRS = 50
LEVELS = 8
"""Steps of colour."""


def confusion_matrix(data: ReportData) -> Html | Omitted:
    """Rows are the true classes, columns the predicted ones."""
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    evaluation = found.evaluation
    if not evaluation.has_confusion:
        return Omitted("an image may have several labels, so there is no confusion matrix")
    if len(evaluation.classes) > LARGEST:
        return _pairs(evaluation)
    explained = (
        "Rows are the labels, columns the predictions. A stronger colour is a larger share of the row's images; "
        "orange is relative to the most frequent confusion. Choose a number to see its pictures."
    )
    return tag("div", hint(explained), scrolling(_matrix(evaluation), "Confusion matrix"), _dialog())


def _matrix(evaluation: Evaluation) -> Html:
    names, support = evaluation.classes, evaluation.support.tolist()
    worst = max((n / support[i] for i, j, n in evaluation.pairs.tolist() if i != j), default=1.0)
    heads = [tag("th", tag("span", name), scope="col", title=f"predicted {name}") for name in names]
    rows = []
    for i, (name, row) in enumerate(zip(names, evaluation.confusion, strict=True)):
        shares = [n / support[i] / (1.0 if i == j else worst) for j, n in enumerate(row) if support[i]]
        cells = [_cell(names, i, j, n, share) for j, (n, share) in enumerate(zip(row, shares, strict=False))]
        rows.append(tag("tr", tag("th", name, scope="row", title=name), cells or [tag("td", "–")] * len(names)))
    corner = tag("td", tag("span", "label \\ predicted"), class_="corner")
    return tag("table", tag("thead", tag("tr", corner, heads)), tag("tbody", rows), class_="confusion")


def _cell(names: tuple[str, ...], i: int, j: int, images: int, strength: float) -> Html:
    """A number that opens its pictures.

    Args:
        strength: Of the colour, 0 to 1.
    """
    right = "right" if i == j else "wrong"
    if not images:
        return tag("td", tag("span", "0"), class_=f"none {right}")
    return tag("td", _opener(names, i, j, images), class_=f"{right} m{max(1, math.ceil(LEVELS * strength))}")


def _opener(names: tuple[str, ...], i: int, j: int, images: int) -> Html:
    """A link to the gallery, which a script turns into a dialog of the pair's pictures."""
    what = f"{plural(images, 'image')} of {names[i]} predicted as {names[j]}"
    target = "#least-confident" if i == j else "#mistakes"
    return tag("a", count(images), href=target, data_pair=f"{i},{j}", aria_label=f"{what}: show pictures", title=what)


def _pairs(evaluation: Evaluation) -> Html:
    names, digits = evaluation.classes, digits_of(evaluation.images)
    support = evaluation.support.tolist()
    errors = sorted((-n, i, j) for i, j, n in evaluation.pairs.tolist() if i != j)
    rows: list[list[Child]] = [
        [names[i], names[j], _opener(names, i, j, -n), number(-n / support[i], digits)] for n, i, j in errors[:PAIRS]
    ]
    shown = f"the {PAIRS} most confused of {len(errors):,} pairs" if len(errors) > PAIRS else "all confused pairs"
    explained = (
        f"With {len(names):,} classes, these are {shown}; ftkit evaluate --json has all. "
        "Choose a number of images to see its pictures."
    )
    heads = ("label", "predicted", "images", "share of the label's images")
    return tag("div", hint(explained), table(heads, rows, "Most confused pairs", "pairs"), _dialog())


def _dialog() -> Html:
    """The dialog of a cell's pictures, which the script fills."""
    return tag(
        "dialog",
        tag(
            "div",
            tag("h3", "", id="pair-title"),
            tag("button", "Close", type="button", class_="close"),
            class_="bar-of-dialog",
        ),
        tag("p", "", class_="hint"),
        tag("div", class_="gallery"),
        id="pair",
        aria_labelledby="pair-title",
    )
