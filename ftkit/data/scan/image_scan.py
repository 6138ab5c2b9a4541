"""The scan of all image files before a run: unreadable files, files with warnings, duplicates and value ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from ftkit.data.images import (
    FORMATS,
    Extremes,
    Range,
    UnreadableImage,
    extremes,
    open_with_format,
    profile_problem,
    sample_file,
)
from ftkit.data.scan.duplicates import Duplicate, find_duplicates, perceptual_hash, summary
from ftkit.data.scan.scan_cache import TOGETHER, ScanCache, ScanResult, open_scan_cache
from ftkit.data.scan.value_ranges import choose_value_range
from ftkit.errors import FtkitError, RequestError, one_line, plural
from ftkit.files.file_identity import content_digest
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits
from ftkit.parts.label_sets import count_classes
from ftkit.plugin_errors import is_unreadable_image

FEW = 64
"""Fewer files than this are read without a thread pool."""

PROGRESS_SECONDS = 5.0
"""Time between progress notes."""

NAMED = 5
"""Maximum files named in a message."""

Notify = Callable[[str], None]
"""Called with a line for the user."""


@dataclass(frozen=True)
class BadImage:
    """An image file with a problem.

    Attributes:
        used: Whether the run still uses it, since it can be read.
        during_run: Whether it became unreadable during the run, after the scan.
    """

    split: SplitName
    file: str
    reason: str
    used: bool = False
    during_run: bool = False


@dataclass(frozen=True)
class Findings:
    """Bad and duplicate images of a run."""

    bad: tuple[BadImage, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()


@dataclass(frozen=True)
class ScannedSplits:
    """The splits without unreadable images, with the findings and notes for the plan.

    Attributes:
        value_range: See `ChosenRange`.
    """

    splits: Splits
    findings: Findings = Findings()
    notes: tuple[str, ...] = ()
    value_range: Range | None = None


def scan_images(
    splits: Splits, on_bad: Literal["error", "skip"], notify: Notify | None = None, value_range: Range | None = None
) -> ScannedSplits:
    """Read every image file of the splits once; results are cached.

    Samples that are not files are opened only with `on_bad="skip"`, and their results aren't cached. Remote data
    (`Split.blocks`) isn't fetched: its unreadable images are skipped during the run.

    Args:
        notify: Called with a progress note every few seconds.
        value_range: The range in the config, for images of more than 8 bits that don't declare one; None for auto.

    Raises:
        RequestError: Files can't be read and `on_bad` is `error`, or a class has no readable image.
    """
    files = {name: _files(split) for name, split in splits.present()}
    cache = open_scan_cache()
    unique = list(dict.fromkeys(file for some in files.values() for file in some if file is not None))
    results = scan_files(unique, cache, notify)
    found = [bad for name in files for bad in _bad_files(name, files[name], results)]
    if on_bad == "skip":
        found += [bad for name, split in splits.present() for bad in _bad_samples(name, split)]
    unreadable = [bad for bad in found if not bad.used]
    if unreadable and on_bad == "error":
        raise RequestError(
            f"{_images(len(unreadable))} can't be read: {_first(unreadable)}",
            "repair or remove them, or skip them with --on-bad-image skip",
        )
    chosen = choose_value_range([Extremes(*one.extremes) for one in results.values() if one.extremes], value_range)
    duplicates = find_duplicates(splits, files, results)
    notes = [
        *_notes(unreadable, "can't be read and {are} skipped"),
        *_notes([bad for bad in found if bad.used and bad.reason.startswith("named")], "with a wrong extension"),
        *_notes([bad for bad in found if bad.used and "profile" in bad.reason], "read without the colour profile"),
        *chosen.notes,
        *summary(duplicates, NAMED),
        *([cache.problem] if cache.problem else []),
    ]
    kept = skip_files(splits, {bad.file for bad in unreadable})
    return ScannedSplits(kept, Findings(tuple(found), duplicates), tuple(notes), chosen.value_range)


def skip_files(splits: Splits, unwanted: Collection[str]) -> Splits:
    """The splits without the samples of these files.

    Raises:
        RequestError: A class of a split loses all of its samples.
    """
    if not unwanted:
        return splits
    left: dict[SplitName, Split] = {}
    for name, split in splits.present():
        kept = [index for index, file in enumerate(_names(split)) if file not in unwanted]
        rest = split.subset(kept) if len(kept) < len(split) else split
        lost = set(count_classes(split.labels)) - set(count_classes(rest.labels))
        if lost:
            few = ", ".join(repr(splits.classes[label]) for label in sorted(lost)[:NAMED])
            raise RequestError(
                f"{name} split: no image of class {few} can be read",
                "repair the files, add others, or select the classes to use with the config key classes",
            )
        left[name] = rest
    train, val, test = (left.get(name) for name in SPLIT_NAMES)
    return replace(splits, train=train, val=val, test=test)


def scan_files(files: Sequence[str], cache: ScanCache, notify: Notify | None = None) -> dict[str, ScanResult]:
    """The scan result of each file by path; only files that aren't cached are read."""
    found = cache.load(files)
    unknown = [file for file in files if file not in found]
    fresh: dict[str, ScanResult] = {}
    for file, result in zip(unknown, _with_progress(_scan(unknown), len(unknown), notify), strict=True):
        found[file] = fresh[file] = result
        if len(fresh) == TOGETHER:
            cache.save(fresh)
            fresh = {}
    cache.save(fresh)
    if unknown:
        cache.trim()
    return found


def scan_file(file: str) -> ScanResult:
    """Decode one file, as training does."""
    try:
        image, kind = open_with_format(file)
        hashed = perceptual_hash(image)
        content = content_digest(file)
    except UnreadableImage as error:
        return ScanResult(error=error.message.removeprefix(one_line(f"{file}: ")))
    except (OSError, ValueError) as error:
        return ScanResult(error=f"can't be read: {error}")
    suffix = Path(file).suffix.lower()
    known = FORMATS.get(suffix)
    misnamed = None if known is None or kind in known.kinds else f"named {suffix}, but its content is {kind}"
    warnings = [warning for warning in (misnamed, profile_problem(image)) if warning is not None]
    found = extremes(image)
    values = None if found is None else (found.low, found.high, found.whole)
    return ScanResult(None, "; ".join(warnings) or None, content, hashed, values)


def _scan(files: Sequence[str]) -> Iterator[ScanResult]:
    """In threads, since decoders release the GIL."""
    if len(files) < FEW:
        yield from map(scan_file, files)
        return
    pool = ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)))
    try:
        yield from pool.map(scan_file, files)
    finally:
        pool.shutdown(cancel_futures=True)


def _with_progress(results: Iterator[ScanResult], count: int, notify: Notify | None) -> Iterator[ScanResult]:
    """The same results, with a progress note every few seconds."""
    noted = monotonic()
    for done, each in enumerate(results, 1):
        yield each
        if notify is not None and monotonic() - noted > PROGRESS_SECONDS:
            noted = monotonic()
            notify(f"scanned {done:,} of {plural(count, 'image')}")


def _files(split: Split) -> list[str | None]:
    """The file of each sample; None for a sample that is not a file."""
    files = (sample_file(split, index) for index in range(len(split)))
    return [str(file.absolute()) if file is not None else None for file in files]


def _names(split: Split) -> list[str]:
    """The name of each sample in `BadImage.file`: the path of its file, or else its name."""
    return [file or name for file, name in zip(_files(split), split.names, strict=True)]


def _bad_samples(name: SplitName, split: Split) -> Iterator[BadImage]:
    """The samples that are not files and can't be opened; opened in order, without threads."""
    if split.blocks is not None:
        return
    for index, file in enumerate(_files(split)):
        if file is None:
            reason = _reason(split, index)
            if reason is not None:
                yield BadImage(name, split.names[index], reason)


def _reason(split: Split, index: int) -> str | None:
    """Why a sample can't be opened; None if it can."""
    try:
        split.open(index)
    except UnreadableImage as error:
        return error.message
    except FtkitError as error:
        if not is_unreadable_image(error):
            raise
        return error.message
    return None


def _bad_files(name: SplitName, files: Sequence[str | None], results: Mapping[str, ScanResult]) -> Iterator[BadImage]:
    for file in files:
        result = results[file] if file is not None else ScanResult()
        reason = result.error or result.warning
        if file is not None and reason is not None:
            yield BadImage(name, file, reason, used=result.error is None)


def _notes(bad: Sequence[BadImage], problem: str) -> Iterator[str]:
    if bad:
        yield f"{_images(len(bad))} {problem.format(are='is' if len(bad) == 1 else 'are')}: {_first(bad)}"


def _first(bad: Sequence[BadImage]) -> str:
    """The first few with their reasons."""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return "; ".join(f"{each.file}: {each.reason}" for each in bad[:NAMED]) + more


def _images(count: int) -> str:
    return plural(count, "image")
