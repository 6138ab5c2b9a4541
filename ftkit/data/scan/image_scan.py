"""The scan of image files before a run: unreadable files, files with warnings, duplicates and value ranges."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftkit.data.images import (
    FORMATS,
    Extremes,
    Range,
    SampleFiles,
    UnreadableImage,
    extremes,
    open_with_format,
    profile_problem,
)
from ftkit.data.scan.duplicates import Duplicate, find_duplicates, perceptual_hash, summary
from ftkit.data.scan.parallel import scan_in_parallel
from ftkit.data.scan.scan_cache import TOGETHER, CachedResult, ScanCache, file_key, open_scan_cache
from ftkit.data.scan.scan_progress import Notify, Progress
from ftkit.data.scan.scan_rows import Scan, ScanRows, choose_rows
from ftkit.data.scan.scan_table import ScanResult, ScanTable
from ftkit.data.scan.value_ranges import choose_value_range
from ftkit.errors import FtkitError, RequestError, one_line, plural
from ftkit.files.file_identity import content_digest
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits
from ftkit.parts.label_sets import count_classes
from ftkit.plugin_errors import is_unreadable_image

if TYPE_CHECKING:
    from PIL.Image import Image

NAMED = 5
"""Maximum files named in a message."""


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
    """Bad and duplicate images of a run.

    Attributes:
        scanned: Number of image files that were scanned.
        unchecked: Number of image files that weren't.
    """

    bad: tuple[BadImage, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    scanned: int = 0
    unchecked: int = 0


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
    splits: Splits,
    on_bad: Literal["error", "skip"],
    notify: Notify | None = None,
    value_range: Range | None = None,
    scan: Scan = "full",
    seed: int = 0,
) -> ScannedSplits:
    """Read the image files of the splits; results are cached.

    Samples that are not files are opened only with `on_bad="skip"`, and their results aren't cached. Remote data
    (`Split.blocks`) isn't fetched: its unreadable images are skipped during the run.

    Args:
        notify: Called with a progress note every few seconds.
        value_range: The range in the config, for images of more than 8 bits that don't declare one; None for auto.
        scan: Which files: `full` for all, `sample` for some of each split, `off` for none.
        seed: Chooses the sample.

    Raises:
        RequestError: Files can't be read and `on_bad` is `error`, or a class has no readable image.
    """
    rows, cache = choose_rows(splits, scan, seed), open_scan_cache()
    table = scan_rows(rows, cache, notify)
    found = list(_bad_files(rows, table))
    if on_bad == "skip" and scan == "full":
        found += [bad for name, split in splits.present() for bad in _bad_samples(name, split)]
    unreadable = [bad for bad in found if not bad.used]
    if unreadable and on_bad == "error":
        raise RequestError(
            f"{_images(len(unreadable))} can't be read: {_first(unreadable)}",
            "repair or remove them, or skip them with --on-bad-image skip",
        )
    chosen = choose_value_range([Extremes(*one) for _, one in sorted(table.extremes.items())], value_range)
    duplicates = find_duplicates(splits, rows, table)
    notes = [
        *rows.notes(),
        *_notes(unreadable, "can't be read and {are} skipped"),
        *_notes([bad for bad in found if bad.used and bad.reason.startswith("named")], "with a wrong extension"),
        *_notes([bad for bad in found if bad.used and "profile" in bad.reason], "read without the colour profile"),
        *(chosen.notes if scan != "off" else ()),
        *summary(duplicates, NAMED),
        *([cache.problem] if cache.problem else []),
    ]
    kept = skip_files(splits, {bad.file for bad in unreadable})
    findings = Findings(tuple(found), duplicates, rows.scanned, rows.unchecked)
    return ScannedSplits(kept, findings, tuple(notes), chosen.value_range)


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


def scan_rows(rows: ScanRows, cache: ScanCache, notify: Notify | None = None) -> ScanTable:
    """The scan result of each file; only files that aren't cached are read."""
    table, unknown = ScanTable(len(rows)), array("q")
    compared = Progress("compared {} with the last scan", rows.scanned, notify)
    keys = (file_key(file) for _, file in rows.files(rows.chosen()))
    for row, cached in zip(rows.chosen(), cache.load(keys), strict=True):
        if cached is not None and cached.decoded:
            table.put(row, cached.result)
        else:
            unknown.append(row)
        compared.step()
    fresh: list[tuple[bytes | None, CachedResult]] = []
    scanned = Progress("scanned {}", len(unknown), notify)
    for row, (key, result) in scan_in_parallel(_keyed, rows.files(unknown), len(unknown)):
        table.put(row, result)
        fresh.append((key, CachedResult(True, result)))
        if len(fresh) == TOGETHER:
            cache.save(fresh)
            fresh.clear()
        scanned.step()
    cache.save(fresh)
    if unknown:
        cache.trim()
    return table


def _keyed(file: str) -> tuple[bytes | None, ScanResult]:
    # The key first, so that a file that is replaced meanwhile isn't cached under its new key.
    return file_key(file), scan_file(file)


def scan_file(file: str) -> ScanResult:
    """Decode one file, as training does."""
    return scan_and_decode(file)[0]


def scan_and_decode(file: str) -> tuple[ScanResult, Image | None]:
    """The scan result of a file, with its image for other measurements; None for an unreadable file."""
    try:
        image, kind = open_with_format(file)
        hashed = perceptual_hash(image)
        content = content_digest(file)
    except UnreadableImage as error:
        return ScanResult(error=error.message.removeprefix(one_line(f"{file}: "))), None
    except (OSError, ValueError) as error:
        return ScanResult(error=f"can't be read: {error}"), None
    suffix = Path(file).suffix.lower()
    known = FORMATS.get(suffix)
    misnamed = None if known is None or kind in known.kinds else f"named {suffix}, but its content is {kind}"
    warnings = [warning for warning in (misnamed, profile_problem(image)) if warning is not None]
    found = extremes(image)
    values = None if found is None else (found.low, found.high, found.whole)
    return ScanResult(None, "; ".join(warnings) or None, content, hashed, values), image


def _names(split: Split) -> list[str]:
    """The name of each sample in `BadImage.file`: the path of its file, or else its name."""
    return [file or name for file, name in zip(SampleFiles(split), split.names, strict=True)]


def _bad_samples(name: SplitName, split: Split) -> Iterator[BadImage]:
    """The samples that are not files and can't be opened; opened in order, without threads."""
    files = SampleFiles(split)
    if split.blocks is not None or files.all_files:
        return
    for index, file in enumerate(files):
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


def _bad_files(rows: ScanRows, table: ScanTable) -> Iterator[BadImage]:
    for row, reason in sorted((table.warnings | table.errors).items()):
        name, file = rows.place(row)
        yield BadImage(name, file, reason, used=row not in table.errors)


def _notes(bad: Sequence[BadImage], problem: str) -> Iterator[str]:
    if bad:
        yield f"{_images(len(bad))} {problem.format(are='is' if len(bad) == 1 else 'are')}: {_first(bad)}"


def _first(bad: Sequence[BadImage]) -> str:
    """The first few with their reasons."""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return "; ".join(f"{each.file}: {each.reason}" for each in bad[:NAMED]) + more


def _images(count: int) -> str:
    return plural(count, "image")
