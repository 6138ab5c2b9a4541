"""Predictions of files with heat maps: an overlay for each image in a folder, and a table of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from ftkit.errors import FtkitError, RequestError
from ftkit.explanation.overlay import overlay_jpeg
from ftkit.files.durable import replace_file
from ftkit.files.json_text import escape_undecodable
from ftkit.inference.heat_maps import HeatMap
from ftkit.inference.predictions import Prediction
from ftkit.inference.predictor import Predictor

INDEX = "index.csv"
COLUMNS = ("file", "overlay", "explained", "label", "probability", "error")
MAX_SIDE = 1024
"""Longer side of an overlay, in pixels; larger images are reduced to it."""
LONGEST_NAME = 100
"""Characters of an image's name that the name of its overlay has."""


@dataclass(frozen=True)
class ExplainRequest:
    """What to write.

    Attributes:
        folder: A new folder, or an empty one.
        class_name: See `Predictor.explain`.
    """

    folder: Path
    class_name: str | None = None


@dataclass
class ExplainedCounts:
    """How many overlays were written, and how many of their maps are 0 everywhere."""

    written: int = 0
    empty: int = 0


def predict_and_explain(
    predictor: Predictor,
    paths: Iterable[Path],
    request: ExplainRequest,
    counts: ExplainedCounts,
    top_k: int,
    batch_size: int,
) -> Iterator[Prediction]:
    """Predictions of files, in order; the overlay of an image is written before its prediction is given.

    Raises:
        RequestError: The folder has files, the class is unknown, or the network has no heat maps. It is raised by the
            call, not by the iteration.
        FtkitError: The folder can't be written; later also a file.
    """
    maps = predictor.iter_explain(paths, request.class_name, top_k, batch_size, MAX_SIDE)
    make_folder(request.folder)
    return _written(maps, request.folder, counts)


def make_folder(folder: Path) -> None:
    """Create a folder for overlays.

    Raises:
        RequestError: There is one with files, or something else.
    """
    with _folder_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "the folder has files" if folder.is_dir() else "it is not a folder"
            raise RequestError(f"--explain {folder}: {what}", "give a new folder")
        folder.mkdir(parents=True, exist_ok=True)


def _written(maps: Iterable[HeatMap], folder: Path, counts: ExplainedCounts) -> Iterator[Prediction]:
    name_of = _Names()
    with _folder_errors(folder), (folder / INDEX).open("xb") as index:
        index.write(_row(COLUMNS))
        for one in maps:
            name, prediction = "", one.prediction
            if one.image is not None and one.values is not None:
                name = name_of(prediction.name)
                replace_file(folder / name, overlay_jpeg(one.image, one.values))
                counts.written += 1
                counts.empty += not one.values.any()
            found = prediction.label or "", prediction.probability if prediction.error is None else ""
            index.write(_row((prediction.name, name, one.explained or "", *found, prediction.error or "")))
            index.flush()
            yield prediction


class _Names:
    """Names of overlays: that of the image with `.jpg`, and a number where another image has it already."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def __call__(self, image: str) -> str:
        stem = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in PurePath(image).stem)
        stem = stem.encode("utf-8", "replace").decode()[:LONGEST_NAME].strip(" .") or "image"
        # Some file systems don't distinguish upper and lower case.
        number = self._used.get(stem.casefold(), 0) + 1
        while number > 1 and f"{stem}-{number}".casefold() in self._used:
            number += 1
        self._used[stem.casefold()] = number
        name = stem if number == 1 else f"{stem}-{number}"
        self._used.setdefault(name.casefold(), 1)
        return f"{name}.jpg"


def _row(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return escape_undecodable(text.getvalue()).encode()


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FtkitError(f"--explain {folder}: {error.strerror or error}", "give another folder") from None
