"""The metric on parts of the images: those where it is worse than on the rest."""

from __future__ import annotations

from ftkit.errors import plural
from ftkit.evaluation.slicing.slices import Slice, Slices
from ftkit.metrics.rounding import digits_of
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import folded, hint, table
from ftkit.reports.picture_figure import gallery, picture
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted

SHOWN = 20
"""Slices in the table that aren't worse by more than chance."""
PICTURED = 4
"""Number of clusters with pictures, the worst first."""


def worst_slices(data: ReportData) -> Html | Omitted:
    """The slices with the worst values, and pictures of the clusters among them."""
    evaluated = data.evaluated
    if isinstance(evaluated, Omitted):
        return evaluated
    slices = evaluated.slices
    if isinstance(slices, Omitted):
        return slices
    if not slices.found:
        return Omitted(f"no part of {plural(len(evaluated.outputs), 'image')} has {slices.minimum} images or more")
    worse = sum(one.is_worse for one in slices.found)
    shown = slices.found[: worse + SHOWN]
    label = evaluated.metrics[slices.metric].label
    heads = ("part of the images", "images", label, "95 % interval", "on the rest", "p")
    rows = [_row(one) for one in shown]
    content = [hint(_verdict(slices, label, worse, len(shown))), table(heads, rows, "Slices", "sortable slices")]
    return tag("div", content, _clusters(data, evaluated, shown))


def _verdict(slices: Slices, label: str, worse: int, shown: int) -> str:
    tested = sum(one.p is not None for one in slices.found)
    verb = "is" if worse == 1 else "are"
    found = f"{worse or 'None'} of {plural(tested, 'slice')} {verb} worse in {label} than the rest by more than chance"
    left = len(slices.found) - shown
    rest = f" {left:,} more aren't listed; ftkit evaluate --slices --json has all." if left else ""
    return f"{found} (marked *). p is adjusted for all of them by Benjamini and Hochberg's method.{rest}"


def _row(one: Slice) -> list[Child]:
    digits = digits_of(one.images)
    bounds: Child = "–"
    if one.interval.low is not None and one.interval.high is not None:
        bounds = [number(one.interval.low, digits), " to ", number(one.interval.high, digits)]
    p = "–" if one.adjusted is None else [tag("data", f"{one.adjusted:.2g}", value=one.adjusted), " *" * one.is_worse]
    return [_name(one), count(one.images), number(one.value, digits), bounds, number(one.rest, digits), p]


def _name(one: Slice) -> str:
    return f"{one.by} {one.group}"


def _clusters(data: ReportData, evaluated: Evaluated, shown: tuple[Slice, ...]) -> Html | None:
    """Pictures of typical images of the worst clusters, which have no other name."""
    split, found = evaluated.images.split, []
    for one in [one for one in shown if one.examples][:PICTURED]:
        figures = []
        for place in one.examples:
            thumbnail = data.thumbnails.of(split, place)
            if thumbnail is not None or data.thumbnails.left > 0:
                figures.append(tag("figure", picture(thumbnail, f"{split.names[place]}, typical of {_name(one)}")))
        found.append(tag("div", tag("h3", f"Typical of {_name(one)}", class_="spaced"), gallery(figures)))
    return folded("Pictures of the worst clusters", found) if found else None
