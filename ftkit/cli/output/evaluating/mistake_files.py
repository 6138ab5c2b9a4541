"""Output of `ftkit evaluate --mistakes`: a CSV file, JSON lines, or a folder of links to the images."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ftkit.errors import RequestError, one_line, plural
from ftkit.files.json_text import dump_json, escape_undecodable
from ftkit.parts.label_sets import SEPARATOR

if TYPE_CHECKING:
    from ftkit.evaluation.mistakes import Mistake
    from ftkit.metrics.outputs import Outputs
    from ftkit.parts.dataset import Split

COLUMNS = ("image", "label", "predicted", "score", "margin")
SUFFIXES = (".csv", ".jsonl")
LONGEST_NAME = 120
"""Most characters of a folder's or a file's name; most systems allow 255 bytes."""


@dataclass(frozen=True)
class MistakesTarget:
    """Where the mistakes are written: a new `.csv` or `.jsonl` file, or a new folder."""

    path: Path

    @property
    def is_folder(self) -> bool:
        return self.path.suffix.lower() not in SUFFIXES

    def write(self, outputs: Outputs, split: Split) -> str:
        """Write the mistakes among the outputs for a split; the file or folder is complete or not there.

        Returns:
            What was written, in one line.

        Raises:
            FtkitError: It can't be written.
            RequestError: The outputs are of a task whose mistakes can't be ranked.
        """
        from ftkit.evaluation.mistakes import find_mistakes, mistakes_of
        from ftkit.files.durable import replace_file, replace_folder

        ranked = find_mistakes(outputs)
        found, count = mistakes_of(ranked, outputs, split), f"{len(ranked):,} of {plural(len(outputs), 'image')}"
        if not self.is_folder:
            lines = _csv_lines(found) if self.path.suffix.lower() == ".csv" else _json_lines(found, outputs.task)
            replace_file(self.path, escape_undecodable("".join(lines)).encode())
            return f"{self.path}: {count} with a wrong prediction"
        rows, written = list(zip(ranked.places.tolist(), found, strict=True)), _Written()
        replace_folder(self.path, lambda place: _write_folder(place, rows, split, written))
        copied = f", {written.copied:,} of them copied" if written.copied else ""
        missing = f"; {plural(written.missing, 'file is', 'files are')} missing" if written.missing else ""
        folders = plural(written.folders, "folder")
        return f"{self.path}: {count} with a wrong prediction, in {folders}{copied}{missing}"


def mistakes_target(path: Path) -> MistakesTarget:
    """The target that `--mistakes` requests.

    Raises:
        RequestError: It exists, its parent doesn't, or it has the suffix of another kind of file.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        raise RequestError(
            f"--mistakes {path}: its name doesn't end in {' or '.join(SUFFIXES)}",
            "give it one of these, or a name without a dot for a folder",
        )
    if path.exists() or path.is_symlink():
        raise RequestError(f"--mistakes {path}: it exists already", "remove it, or name another one")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"--mistakes {path}: there is no folder {path.parent}", "make it first")
    return MistakesTarget(path)


def _csv_lines(mistakes: Iterable[Mistake]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in mistakes:
        names = (SEPARATOR.join(one.label), SEPARATOR.join(one.predicted))
        writer.writerow((one.image, *names, *("" if math.isnan(v) else f"{v:.6f}" for v in (one.score, one.margin))))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _json_lines(mistakes: Iterable[Mistake], task: str) -> Iterator[str]:
    """Where each image has one class, `label` and `predicted` are its name, else lists of names."""
    single = task == "multiclass"
    for one in mistakes:
        row = asdict(one) | {"score": round(one.score, 6), "margin": round(one.margin, 6)}
        if single:
            row |= {"label": one.label[0], "predicted": one.predicted[0] if one.predicted else None}
        yield dump_json(row, ascii_only=False) + "\n"


@dataclass
class _Written:
    """What was put into a folder: folders of pairs of classes, images that were copied rather than linked, and images
    that are not there any more."""

    copied: int = 0
    missing: int = 0
    folders: int = 0


def _write_folder(folder: Path, rows: list[tuple[int, Mistake]], split: Split, written: _Written) -> None:
    """A link to each image, in a folder for each pair of label and prediction; names begin with the rank."""
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], Path] = {}
    digits = len(str(len(rows)))
    for rank, (place, one) in enumerate(rows, 1):
        pair = one.label, one.predicted
        if pair not in pairs:
            pairs[pair] = _new_folder(folder, f"{_joined(one.label)}--{_joined(one.predicted)}")
        base = _file_name(one.image.rpartition("/")[2])
        _put(pairs[pair] / f"{rank:0{digits}}-{one.score:.3f}-{base}", split, place, written)
    written.folders = len(pairs)


def _put(target: Path, split: Split, place: int, written: _Written) -> None:
    """Link to an image's file; copy it where links aren't possible, and write other images as PNG."""
    from ftkit.data.images.colors import with_channels
    from ftkit.data.images.image_files import sample_file
    from ftkit.data.images.reading import UnreadableImage

    file = sample_file(split, place)
    if file is not None:
        if not file.exists():
            written.missing += 1
            return
        with suppress(OSError):
            target.symlink_to(file.absolute())
            return
        shutil.copyfile(file, target)
    else:
        try:
            with_channels(split.open(place), 3).save(target.with_name(f"{target.name}.png"), "PNG")
        except UnreadableImage:
            written.missing += 1
            return
    written.copied += 1


def _new_folder(parent: Path, name: str) -> Path:
    """A folder of this name; with a number where another pair of classes has the same name on the disk."""
    candidate, number = parent / name, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:
            number += 1
            candidate = parent / f"{name}-{number}"
        else:
            return candidate


def _joined(names: tuple[str, ...]) -> str:
    """Names of classes as a part of a folder's name."""
    return _file_name("+".join(names))[: LONGEST_NAME // 2] or "none"


def _file_name(text: str) -> str:
    """A name of a file without slashes, control characters and a leading dot, of limited length."""
    clean = "".join(quote(c, safe="") if c in '/\\:*?"<>|' else c for c in one_line(text))
    clean = f"_{clean[1:]}" if clean.startswith(".") else clean
    stem, dot, suffix = clean.rpartition(".")
    if len(os.fsencode(clean)) <= LONGEST_NAME:
        return clean
    short = os.fsencode(stem or suffix)[: LONGEST_NAME - 10].decode("utf-8", "ignore")
    return f"{short}{dot}{suffix}" if stem and len(suffix) < 10 else short
