"""The page of a label audit: pictures of the images with problems, and the classes that overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftkit.data_quality.label_audit.audit import COPY, LABEL, OUTLIER, AuditedImage, LabelAudit
from ftkit.errors import plural
from ftkit.reports.label_figure import label_figure
from ftkit.reports.markup import Html, tag
from ftkit.reports.page import page
from ftkit.reports.page_parts import facts, hint, table, warnings
from ftkit.reports.picture_figure import gallery
from ftkit.reports.section import Omitted, Section
from ftkit.reports.thumbnails import Thumbnails

BYTES = 20_000_000
"""Of all pictures, as base64; a person looks through more of them than in a report."""


@dataclass(frozen=True)
class AuditData:
    """An audit, as the sections of its page take it.

    Attributes:
        most: Most images of each section.
    """

    audit: LabelAudit
    most: int
    thumbnails: Thumbnails


def audit_page(audit: LabelAudit, most: int) -> Html:
    """The page.

    Args:
        most: Most images of each section.
    """
    data = AuditData(audit, most, Thumbnails(audit.value_range, BYTES))
    return page(f"Label audit of {audit.data.source}", _header(audit), data, SECTIONS)


def _header(audit: LabelAudit) -> Html:
    rows = [("images", f"{audit.data.count:,}"), ("scores", audit.scored)]
    if audit.agreement is not None:
        rows.append(("likeliest class is the label", f"{audit.agreement:.1%} of the images"))
    if audit.rate is not None:
        rows.append(("estimated wrong labels", f"{audit.rate:.1%}"))
    kicker = tag("p", "Label audit", class_="kicker")
    return tag("header", kicker, tag("h1", audit.data.source), facts(rows), warnings(audit.notes))


def _label_errors(data: AuditData) -> Html | Omitted:
    return _gallery(data, LABEL, "The least probable label first, with its probability and the suggested label.")


def _copies(data: AuditData) -> Html | Omitted:
    return _gallery(data, COPY, "At least one label of each group of copies is wrong.")


def _outliers(data: AuditData) -> Html | Omitted:
    return _gallery(data, OUTLIER, "Images that are far from all others in feature space, the farthest first.")


def _gallery(data: AuditData, problem: str, text: str) -> Html | Omitted:
    found = data.audit.having(problem)
    if not found:
        return Omitted("no image has this problem")
    figures = list(_figures(data, found[: data.most]))
    if not figures:
        return Omitted(f"{plural(len(found), 'image')}, none of them shown; label-errors.csv has them")
    shown = f"{len(figures):,} of {plural(len(found), 'image')}."
    rest = "" if len(figures) == len(found) else " label-errors.csv has all of them."
    return tag("div", hint(f"{shown} {text}{rest}"), gallery(figures))


def _figures(data: AuditData, images: list[AuditedImage]) -> Iterator[Html]:
    for image in images:
        _, split, place = data.audit.data.place(image.row)
        lines = [tag("span", f"distance {image.distance:.2f}, {image.split}", class_="path")]
        if image.detail:
            lines.append(tag("span", image.detail, class_="path"))
        labels = image.given, image.suggested
        figure = label_figure(data.thumbnails, split, place, labels, image.score, lines)
        if figure is not None:
            yield figure


def _overlaps(data: AuditData) -> Html | Omitted:
    pairs = data.audit.overlaps
    if not pairs:
        return Omitted("no two classes overlap")
    rows = [(one, other, tag("data", f"{share:.2%}", value=share)) for one, other, share in pairs]
    explained = "Pairs of classes by the estimated share of all images with the label of one that are of the other."
    return tag("div", hint(explained), table(("class", "class", "share of the images"), rows, "Pairs", "pairs"))


SECTIONS: tuple[Section[AuditData], ...] = (
    Section("label-errors", "Probable label errors", _label_errors),
    Section("copies", "Copies with different labels", _copies),
    Section("outliers", "Outliers", _outliers),
    Section("overlaps", "Overlapping classes", _overlaps),
)
