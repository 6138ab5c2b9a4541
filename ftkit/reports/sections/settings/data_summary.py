"""The images of the run: splits, classes, images left out, and what may be wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftkit.errors import plural
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import count_classes
from ftkit.reports.charts.bars import bar
from ftkit.reports.markup import Child, Html, count, tag
from ftkit.reports.page_parts import facts, folded, hint, table, warnings
from ftkit.reports.report_data import ReportData
from ftkit.runs.run_summary import RunSummary

TINY = 10
"""Training images below which a class is pointed out."""
IMBALANCE = 10
"""Ratio of the largest to the smallest class above which it is pointed out."""
MOST_CLASSES = 500
"""Classes in the table, the smallest first."""
LISTED = 100
"""Image files that are listed by name."""
NAMED = 8
"""Classes that a warning names."""


def data_summary(data: ReportData) -> Html:
    """Facts, warnings, and a table of the classes."""
    summary, splits = data.summary, data.splits
    counts = summary.plan.get("data", {})
    rows: list[tuple[str, Child]] = [
        ("dataset", summary.data),
        ("classes", count(len(summary.plan.get("classes", ())))),
        *((f"{name} images", count(number)) for name, number in counts.items()),
    ]
    bad, duplicates = _lines(summary.run.bad_images), _lines(summary.run.duplicates)
    return tag(
        "div",
        facts(rows),
        warnings(_warnings(data, bad, duplicates)),
        _classes(splits) if splits is not None else hint("The images can't be read now, so classes are not counted."),
        _bad_images(bad) if bad else None,
        _duplicates(duplicates) if duplicates else None,
    )


def _warnings(
    data: ReportData, bad: Sequence[Mapping[str, Any]], duplicates: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    left_out = sum(not one["used"] for one in bad)
    if left_out:
        yield f"{plural(left_out, 'image file was', 'image files were')} left out: they can't be read."
    if len(bad) > left_out:
        yield f"{plural(len(bad) - left_out, 'image file has', 'image files have')} a wrong name or content."
    if duplicates:
        yield f"{plural(len(duplicates), 'image is', 'images are')} in two splits, or in two classes."
    unchecked = data.summary.plan.get("scan", {}).get("unchecked", 0)
    if unchecked:
        yield f"{plural(unchecked, 'file was', 'files were')} not checked before the training."
    if data.splits is not None:
        yield from _class_warnings(data.splits)
    yield from dict.fromkeys((*data.notes, *_plan_notes(data.summary)))


def _class_warnings(splits: Splits) -> Iterator[str]:
    counts = {name: count_classes(split.labels) for name, split in splits.present()}
    train = counts.get("train", Counter[int]())
    tiny = [name for label, name in enumerate(splits.classes) if train[label] < TINY]
    if tiny:
        yield f"{plural(len(tiny), 'class has', 'classes have')} fewer than {TINY} training images: {_few(tiny)}."
    smallest, largest = min(train.values(), default=0), max(train.values(), default=0)
    if smallest and largest / smallest > IMBALANCE:
        yield f"The largest class has {largest / smallest:.0f} times as many training images as the smallest."
    for split in ("val", "test"):
        absent = [name for label, name in enumerate(splits.classes) if split in counts and not counts[split][label]]
        if absent:
            yield f"{plural(len(absent), 'class has', 'classes have')} no {split} image: {_few(absent)}."


def _classes(splits: Splits) -> Html:
    counts = {name: count_classes(split.labels) for name, split in splits.present()}
    first = next(iter(counts.values()), Counter[int]())
    order: Sequence[int] = range(len(splits.classes))
    shown = "Images of each class."
    if len(order) > MOST_CLASSES:
        order = sorted(order, key=first.__getitem__)[:MOST_CLASSES]
        shown = f"The {MOST_CLASSES} classes with the fewest images, of {len(splits.classes):,}."
    largest = max(first.values(), default=1)
    rows: list[list[Child]] = [
        [splits.classes[label], *(count(one[label]) for one in counts.values()), bar(first[label] / largest, "s3")]
        for label in order
    ]
    name = next(iter(counts), "")
    heads = ("class", *counts, tag("span", f"{name} images as a bar", class_="unseen"))
    return tag("div", hint(shown), table(heads, rows, "Images by class", "sortable barred"))


def _bad_images(bad: Sequence[Mapping[str, Any]]) -> Html:
    rows: list[list[Child]] = [
        [one["file"], one["split"], "used" if one["used"] else "left out", one["reason"]] for one in bad[:LISTED]
    ]
    title = plural(len(bad), "image file with a problem", "image files with a problem")
    more = f", the first {LISTED}" if len(bad) > LISTED else ""
    return folded(title + more, table(("file", "split", "", "reason"), rows, "Image files with a problem", "words"))


def _duplicates(found: Sequence[Mapping[str, Any]]) -> Html:
    rows: list[list[Child]] = [
        [
            one["file"],
            f"{one['split']}, {one['label']}",
            one["other_file"],
            f"{one['other_split']}, {one['other_label']}",
            "identical" if one["hash_distance"] is None else "similar",
        ]
        for one in found[:LISTED]
    ]
    more = f", the first {LISTED}" if len(found) > LISTED else ""
    heads = ("image", "split and class", "other image", "its split and class", "")
    return folded(plural(len(found), "duplicate") + more, table(heads, rows, "Duplicates", "words"))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _plan_notes(summary: RunSummary) -> tuple[str, ...]:
    return tuple(summary.plan.get("notes", ()))
