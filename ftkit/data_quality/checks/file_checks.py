"""Checks of single images: unreadable files, modes, sizes, orientation, profiles, and images of one colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ftkit.data_quality.checks.findings import Finding, Item, image_items
from ftkit.data_quality.image_measures import OTHER_PROFILE
from ftkit.data_quality.measured_splits import MeasuredSplits
from ftkit.errors import plural

RARE = 0.1
"""Share of images below which a mode is unusual."""
LONG = 4.0
"""Ratio of the longer side to the shorter one above which a centre crop loses most of the image."""
SMALLER = 4.0
"""How many times smaller than the median shorter side an image is reported."""
TINY = 16
"""Shorter side in pixels below which an image has hardly any content."""
PLAIN = 2.5 / 255
"""Contrast up to which an image counts as one colour, which allows for noise of JPEG."""


def check_files(measured: MeasuredSplits) -> Iterator[Finding]:
    """The findings on single images."""
    yield from _unreadable(measured)
    yield from _warned(measured)
    yield from _plain(measured)
    yield from _modes(measured)
    yield from _sizes(measured)
    yield from _metadata(measured)


def check_skipped(measured: MeasuredSplits) -> Iterator[Finding]:
    """What the dataset's reader left out or interpreted."""
    notes = measured.data.splits.notes
    if notes:
        items = tuple(Item((), note) for note in notes)
        yield Finding("reader-notes", "info", "; ".join(notes), items, "note")


def _unreadable(measured: MeasuredSplits) -> Iterator[Finding]:
    errors = sorted(measured.scan.errors.items())
    if errors:
        count = f"{plural(len(errors), 'image')} of {len(measured):,} can't be read"
        items = image_items(measured, [row for row, _ in errors], [reason for _, reason in errors])
        yield Finding("unreadable", "error", count, items)


def _warned(measured: MeasuredSplits) -> Iterator[Finding]:
    """The warnings of the image scan."""
    for check, word, what in (
        ("wrong-extension", "named ", "whose extension isn't that of the content"),
        ("damaged-profile", "profile", "with a damaged colour profile, which is ignored"),
    ):
        found = sorted((row, text) for row, text in measured.scan.warnings.items() if word in text)
        if found:
            items = image_items(measured, [row for row, _ in found], [text for _, text in found])
            yield Finding(check, "warning", f"{plural(len(found), 'image')} {what}", items)


def _plain(measured: MeasuredSplits) -> Iterator[Finding]:
    rows = np.flatnonzero(measured.readable & (measured.contrast <= PLAIN))
    if len(rows):
        details = [f"brightness {value:.2f}" for value in measured.brightness[rows]]
        message = f"{plural(len(rows), 'image')} of one colour"
        yield Finding("one-color", "warning", message, _items(measured, rows, details))


def _modes(measured: MeasuredSplits) -> Iterator[Finding]:
    counts = np.bincount(measured.mode[measured.readable], minlength=len(measured.modes))
    total = int(counts.sum())
    rare = [code for code, count in enumerate(counts) if 0 < count < RARE * total]
    if rare:
        rows = np.flatnonzero(measured.readable & np.isin(measured.mode, rare))
        rows = rows[np.argsort(counts[measured.mode[rows]], kind="stable")]
        usual = measured.modes[int(counts.argmax())]
        kinds = ", ".join(f"{measured.modes[code]} {counts[code]:,}" for code in rare)
        message = f"{plural(len(rows), 'image')} of an unusual mode ({kinds}); most are {usual}"
        details = [f"mode {measured.modes[measured.mode[row]]}" for row in rows]
        yield Finding("unusual-mode", "info", message, _items(measured, rows, details))


def _sizes(measured: MeasuredSplits) -> Iterator[Finding]:
    width, height = measured.sizes[:, 0], measured.sizes[:, 1]
    short, long = np.minimum(width, height), np.maximum(width, height)
    there = measured.readable
    if not there.any():
        return
    median = float(np.median(short[there]))
    small = np.flatnonzero(there & ((short < TINY) & (short < median) | (short * SMALLER < median)))
    small = small[np.argsort(short[small], kind="stable")]
    if len(small):
        count = plural(len(small), "image is", "images are")
        message = f"{count} much smaller than the others (median {median:g} pixels)"
        yield Finding("small-image", "warning", message, _items(measured, small, _size_texts(measured, small)))
    narrow = np.flatnonzero(there & (long > LONG * short))
    narrow = narrow[np.argsort(-long[narrow] / short[narrow], kind="stable")]
    if len(narrow):
        message = f"{plural(len(narrow), 'image is', 'images are')} more than {LONG:g} times as long as wide"
        yield Finding("aspect-ratio", "warning", message, _items(measured, narrow, _size_texts(measured, narrow)))


def _metadata(measured: MeasuredSplits) -> Iterator[Finding]:
    turned = np.flatnonzero(measured.orientation > 1)
    if len(turned):
        message = f"{plural(len(turned), 'image')} with an EXIF orientation, which ftkit applies; other tools may not"
        details = [f"orientation {value}" for value in measured.orientation[turned]]
        yield Finding("orientation", "info", message, _items(measured, turned, details))
    profiled = np.flatnonzero(measured.profile == OTHER_PROFILE)
    if len(profiled):
        message = f"{plural(len(profiled), 'image')} with a colour profile other than sRGB, which ftkit converts"
        yield Finding("color-profile", "info", message, _items(measured, profiled, [""] * len(profiled)))


def _size_texts(measured: MeasuredSplits, rows: NDArray[np.int64]) -> list[str]:
    return [f"{width} x {height} pixels" for width, height in measured.sizes[rows, :2]]


def _items(measured: MeasuredSplits, rows: NDArray[np.int64], details: list[str]) -> tuple[Item, ...]:
    return image_items(measured, rows.tolist(), details)
