"""A look at the image files of a run before it starts: which can't be read, and why; which are in two splits."""

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
    profile_fault,
    sample_file,
)
from ftkit.data.scan.duplicates import Duplicate, find_duplicates, perceptual_hash, summary
from ftkit.data.scan.scan_cache import TOGETHER, ScanCache, ScanResult, open_scan_cache
from ftkit.data.scan.value_ranges import choose_value_range
from ftkit.errors import FtkitError, RequestError, one_line, plural
from ftkit.files.file_identity import content_digest
from ftkit.parts.dataset import SPLIT_NAMES, Split, SplitName, Splits
from ftkit.plugin_errors import is_unreadable_image

FEW = 64
"""Files that are sooner read than a pool of threads is started."""

PATIENCE_SECONDS = 5.0
"""After this long without a word, a person wants to know how far it is."""

NAMED = 5
"""Files that a message names."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class BadImage:
    """A file that something is wrong with.

    Attributes:
        used: Whether the run uses it all the same, since it can be read.
        during_run: Whether it could be read at the start, and broke while the run went on.
    """

    split: SplitName
    file: str
    reason: str
    used: bool = False
    during_run: bool = False


@dataclass(frozen=True)
class Findings:
    """All that there is to say of the images of a run."""

    bad: tuple[BadImage, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()


@dataclass(frozen=True)
class ScannedSplits:
    """The splits without the images that can't be read, what was found, and lines for the plan.

    Attributes:
        value_range: As in `Settled`.
    """

    splits: Splits
    findings: Findings = Findings()
    notes: tuple[str, ...] = ()
    value_range: Range | None = None


def scan_images(
    splits: Splits, on_bad: Literal["error", "skip"], tell: Tell | None = None, value_range: Range | None = None
) -> ScannedSplits:
    """Read every image file of the splits once.

    What comes out of something else is opened only where it may be left out, and is taken as it is otherwise: there is
    no memory of it. Data that lies far away (`Split.blocks`) isn't fetched for this; its images are left out when met.

    Args:
        tell: Called with a line now and then where it takes long.
        value_range: That of the config, for images of more than 8 bits that don't state one; None for auto.

    Raises:
        RequestError: Files can't be read and `on_bad` is `error`, or a class has none that can.
    """
    files = {name: _files(split) for name, split in splits.present()}
    memory = open_scan_cache()
    looks = scan_files(list(dict.fromkeys(f for some in files.values() for f in some if f is not None)), memory, tell)
    odd = [bad for name in files for bad in _odd(name, files[name], looks)]
    if on_bad == "skip":
        odd += [bad for name, split in splits.present() for bad in _unopened(name, split)]
    unreadable = [bad for bad in odd if not bad.used]
    if unreadable and on_bad == "error":
        raise RequestError(
            f"{_images(len(unreadable))} can't be used: {_first(unreadable)}",
            "mend or remove what is named, or leave it out with --on-bad-image skip",
        )
    settled = choose_value_range([Extremes(*seen.extremes) for seen in looks.values() if seen.extremes], value_range)
    duplicates = find_duplicates(splits, files, looks)
    notes = [
        *_notes(unreadable, "can't be read, and left out"),
        *_notes([bad for bad in odd if bad.used and bad.reason.startswith("named")], "named wrongly, though readable"),
        *_notes([bad for bad in odd if bad.used and "profile" in bad.reason], "read without the colour profile"),
        *settled.notes,
        *summary(duplicates, NAMED),
        *([memory.trouble] if memory.trouble else []),
    ]
    left = leave_out(splits, {bad.file for bad in unreadable})
    return ScannedSplits(left, Findings(tuple(odd), duplicates), tuple(notes), settled.value_range)


def leave_out(splits: Splits, unwanted: Collection[str]) -> Splits:
    """The splits without the samples that come from these files.

    Raises:
        RequestError: A class of a split loses all of its samples.
    """
    if not unwanted:
        return splits
    left: dict[SplitName, Split] = {}
    for name, split in splits.present():
        kept = [index for index, file in enumerate(_names(split)) if file not in unwanted]
        lost = set(split.labels) - {split.labels[index] for index in kept}
        if lost:
            few = ", ".join(repr(splits.classes[label]) for label in sorted(lost)[:NAMED])
            raise RequestError(
                f"{name} split: no image of class {few} can be read",
                "mend the files, add others, or choose the classes to use with the config key classes",
            )
        left[name] = split.subset(kept) if len(kept) < len(split) else split
    train, val, test = (left.get(name) for name in SPLIT_NAMES)
    return replace(splits, train=train, val=val, test=test)


def scan_files(files: Sequence[str], memory: ScanCache, tell: Tell | None = None) -> dict[str, ScanResult]:
    """What each file is like, by its path; only what isn't remembered is read."""
    found = memory.load(files)
    unknown = [file for file in files if file not in found]
    fresh: dict[str, ScanResult] = {}
    for file, seen in zip(unknown, _told(_looks(unknown), len(unknown), tell), strict=True):
        found[file] = fresh[file] = seen
        if len(fresh) == TOGETHER:
            memory.save(fresh)
            fresh = {}
    memory.save(fresh)
    if unknown:
        memory.trim()
    return found


def scan_file(file: str) -> ScanResult:
    """Read one file whole, as training will."""
    try:
        image, kind = open_with_format(file)
        picture = perceptual_hash(image)
        content = content_digest(file)
    except UnreadableImage as error:
        return ScanResult(fault=error.message.removeprefix(one_line(f"{file}: ")))
    except (OSError, ValueError) as error:
        return ScanResult(fault=f"can't be read: {error}")
    suffix = Path(file).suffix.lower()
    known = FORMATS.get(suffix)
    misnamed = None if known is None or kind in known.kinds else f"named {suffix}, but its content is {kind}"
    remarks = [remark for remark in (misnamed, profile_fault(image)) if remark is not None]
    found = extremes(image)
    values = None if found is None else (found.low, found.high, found.whole)
    return ScanResult(None, "; ".join(remarks) or None, content, picture, values)


def _looks(files: Sequence[str]) -> Iterator[ScanResult]:
    """In threads, since decoders let go of Python's lock."""
    if len(files) < FEW:
        yield from map(scan_file, files)
        return
    pool = ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1)))
    try:
        yield from pool.map(scan_file, files)
    finally:
        pool.shutdown(cancel_futures=True)


def _told(looks: Iterator[ScanResult], count: int, tell: Tell | None) -> Iterator[ScanResult]:
    """The same, with a word on how far it is whenever it takes long."""
    spoke = monotonic()
    for done, each in enumerate(looks, 1):
        yield each
        if tell is not None and monotonic() - spoke > PATIENCE_SECONDS:
            spoke = monotonic()
            tell(f"looked at {done:,} of {plural(count, 'image')}")


def _files(split: Split) -> list[str | None]:
    """The file of each sample; None where there is none."""
    files = (sample_file(split, index) for index in range(len(split)))
    return [str(file.absolute()) if file is not None else None for file in files]


def _names(split: Split) -> list[str]:
    """What lists call each sample: the path of its file, or else its name."""
    return [file or name for file, name in zip(_files(split), split.names, strict=True)]


def _unopened(name: SplitName, split: Split) -> Iterator[BadImage]:
    """The samples that aren't files and can't be opened; one after the other, as whoever made them may expect."""
    if split.blocks is not None:
        return
    for index, file in enumerate(_files(split)):
        if file is None:
            reason = _reason(split, index)
            if reason is not None:
                yield BadImage(name, split.names[index], reason)


def _reason(split: Split, index: int) -> str | None:
    """Why a sample can't be opened; None where it can."""
    try:
        split.open(index)
    except UnreadableImage as error:
        return error.message
    except FtkitError as error:
        if not is_unreadable_image(error):
            raise
        return error.message
    return None


def _odd(name: SplitName, files: Sequence[str | None], looks: Mapping[str, ScanResult]) -> Iterator[BadImage]:
    for file in files:
        seen = looks[file] if file is not None else ScanResult()
        reason = seen.fault or seen.remark
        if file is not None and reason is not None:
            yield BadImage(name, file, reason, used=seen.fault is None)


def _notes(bad: Sequence[BadImage], what: str) -> Iterator[str]:
    if bad:
        yield f"{_images(len(bad))} {what}: {_first(bad)}"


def _first(bad: Sequence[BadImage]) -> str:
    """The first few with their reasons."""
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return "; ".join(f"{each.file}: {each.reason}" for each in bad[:NAMED]) + more


def _images(count: int) -> str:
    return plural(count, "image")
