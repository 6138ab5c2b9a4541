"""Output of `ftkit predict`: lines on stdout, or a file that is written as predictions arrive and can be resumed."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from ftkit.cli.output import console, streams
from ftkit.cli.output.prediction_formats import Layout, file_errors, lines_of, require_pyarrow, write_parquet
from ftkit.errors import RequestError, one_line, plural
from ftkit.files.json_text import escape_undecodable
from ftkit.metrics.finite_outputs import NOT_FINITE
from ftkit.transforms.view_choices import Tta

if TYPE_CHECKING:
    from ftkit.inference.predictions import Prediction

Format = Literal["table", "jsonl", "csv"]
SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
COMPARED = 8
"""Predictions of an interrupted run that are repeated to check that the model is the same."""
TOLERANCE = 0.02
"""Largest difference between two probabilities of one model on other hardware, precision or batch size."""


@dataclass(frozen=True)
class Existing:
    """The predictions in the file of an interrupted run.

    Attributes:
        count: Number of complete predictions.
        unreadable: How many of them are of unreadable images.
        not_finite: How many have outputs that were not finite.
        last: The last image with a prediction.
        end: Offset in bytes of the end of the last one.
        least_certain: Image, class and probability of the least certain ones, in which models differ most.
    """

    count: int = 0
    unreadable: int = 0
    not_finite: int = 0
    last: str = ""
    end: int = 0
    least_certain: tuple[tuple[Path, str, float], ...] = ()


@dataclass
class Target:
    """Where predictions are written.

    Attributes:
        path: A file; None for stdout.
        form: `table`, `jsonl`, `csv` or `parquet`.
        tta: The test-time augmentation of the predictions; with one, each row of a file or of JSON lines or CSV has it.
        sets, abstains, novelty: See `Layout`.
        end: Bytes of the existing file to keep; None creates a new file.
    """

    path: Path | None
    form: str
    tta: Tta = "none"
    end: int | None = None
    sets: bool = False
    abstains: bool = False
    novelty: bool = False

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run leaves a file that `--resume` continues."""
        return self.path is not None and self.form != "parquet"

    def write(
        self, predictions: Iterable[Prediction], classes: tuple[str, ...], top_k: int, exclusive: bool = True
    ) -> Generator[Prediction, None, None]:
        """Write predictions one by one; yields each after it is written.

        Args:
            exclusive: See `lines_of`.

        Raises:
            FtkitError: The file can't be written.
        """
        if self.path is None:
            if self.form == "csv":
                console.expect_data()
            ascii_only = not console.is_utf8(streams.RESULTS)
            for line, prediction in lines_of(
                predictions, self.form, classes, top_k, ascii_only=ascii_only, layout=self._layout(exclusive)
            ):
                console.print_text(line)
                if prediction is not None:
                    yield prediction
        elif self.form == "parquet":
            yield from write_parquet(self.path, predictions, self._layout(exclusive))
        else:
            yield from self._append(self.path, predictions, classes, top_k, exclusive)

    def _layout(self, exclusive: bool) -> Layout:
        return Layout(exclusive, None if self.tta == "none" else self.tta, self.sets, self.abstains, self.novelty)

    def _append(
        self, path: Path, predictions: Iterable[Prediction], classes: tuple[str, ...], top_k: int, exclusive: bool
    ) -> Iterator[Prediction]:
        layout = self._layout(exclusive)
        lines = lines_of(predictions, self.form, classes, top_k, heading=not self.end, layout=layout)
        with file_errors(path), path.open("xb" if self.end is None else "r+b") as file:
            file.truncate(self.end or 0)
            file.seek(0, io.SEEK_END)
            for line, prediction in lines:
                file.write(escape_undecodable(f"{line}\n").encode())
                if prediction is not None:
                    yield prediction


def prediction_target(path: Path | None, form: Format, resume: bool, tta: Tta = "none") -> Target:
    """The target that `--to`, `--format`, `--resume` and `--tta` request.

    Raises:
        RequestError: The file exists, has an unknown suffix, or can't be resumed.
    """
    if path is None:
        if resume:
            raise RequestError("--resume needs a file of predictions", "name it with --to FILE")
        return Target(None, form, tta)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or (form != "table" and form != kind):
        suffixes = ", ".join(SUFFIXES) if form == "table" else f".{form}, the format of --format"
        raise RequestError(f"--to {path}: its name doesn't end in {suffixes}", "give it another name")
    if resume and kind == "parquet":
        raise RequestError(f"--resume: {path}: a Parquet file can't be resumed", "write .jsonl or .csv")
    if path.exists() and not resume:
        hint = "name another file" if kind == "parquet" else "add --resume to resume it, or name another file"
        raise RequestError(f"--to {path}: it exists already", hint)
    if kind == "parquet":
        require_pyarrow()
    return Target(path, kind, tta)


def skip_predicted(target: Target, images: Iterator[Path], top_k: int) -> Existing:
    """Advance `images` past those with a prediction in the target's file, in constant memory.

    Raises:
        RequestError: The predictions are not of the first images in the same order, or of another `top_k` or `tta`.
    """
    existing = Existing()
    least_certain: list[tuple[float, int, Path, str]] = []
    if target.path is None or not target.path.exists():
        return existing
    with file_errors(target.path), target.path.open("rb") as file:
        for count, (name, tta, classes, end, label, probability) in enumerate(_kept(file, target), 1):
            if tta != target.tta:
                raise RequestError(
                    f"--resume: {target.path} has predictions with --tta {tta}, not --tta {target.tta}",
                    f"give --tta {tta}, or another file",
                )
            if classes not in (0, top_k):
                raise RequestError(
                    f"--resume: {target.path} has {plural(classes, 'class')} per image, but --top-k is {top_k}",
                    f"give --top-k {classes}, or another file",
                )
            image = next(images, None)
            if str(image) != name and (target.form == "jsonl" or escape_undecodable(str(image)) != name):
                raise RequestError(
                    f"--resume: prediction {count} in {target.path} is of {one_line(name)}, "
                    f"but image {count} is {'missing' if image is None else one_line(str(image))}",
                    "give the same images in the same order, or another file",
                )
            if classes and image is not None:
                # A full heap drops its most certain prediction.
                keep = heapq.heappush if len(least_certain) < COMPARED else heapq.heappushpop
                keep(least_certain, (-probability, count, image, label))
            not_finite = existing.not_finite + (classes == 0 and label == NOT_FINITE)
            unreadable = existing.unreadable + (classes == 0 and label != NOT_FINITE)
            existing = Existing(count, unreadable, not_finite, one_line(name), end)
    target.end = existing.end
    return replace(existing, least_certain=tuple((image, label, -p) for p, _, image, label in least_certain))


def check_same_model(target: Target, existing: Existing, predictions: Iterable[Prediction]) -> None:
    """Compare the least certain existing predictions with those of the model.

    Raises:
        RequestError: The existing predictions are of another model.
    """
    for (image, label, before), prediction in zip(existing.least_certain, predictions, strict=True):
        if prediction.error is not None:
            continue  # the image is missing now
        now = prediction.probability or 0.0
        # The order of two equally probable classes may change.
        if abs(now - before) > TOLERANCE or (prediction.label != label and before > 0.5 + TOLERANCE):
            raise RequestError(
                f"--resume: {target.path} has predictions of another model: {one_line(str(image))} is {label!r} there "
                f"({before:.3f}), but {prediction.label!r} now ({now:.3f})",
                "give that model with --model, or name another file",
            )


def _refuse_uncertainty(columns: Iterable[str]) -> None:
    found = [name for name in ("set", "abstained", "novelty") if name in columns]
    if found:
        raise ValueError(f"its rows have {found[0]!r}, which can't be resumed")


def _kept(file: IO[bytes], target: Target) -> Iterator[tuple[str, str, int, int, str, float]]:
    """The complete predictions in a file: image, `tta`, number of classes, end offset, class, and probability.

    Without a prediction the number of classes is 0, and the class is the reason.
    """
    end, whole = 0, True

    def lines() -> Iterator[str]:
        nonlocal end, whole
        for line in file:
            end, whole = end + len(line), line.endswith(b"\n")
            yield line.decode("utf-8", "surrogateescape")

    try:
        if target.form == "csv":
            rows = csv.reader(lines())
            heading = next(rows, [])
            _refuse_uncertainty(heading)
            width, further = len(heading), [name for name in heading if name in ("tta", "labels")]
            first = 1 + len(further)
            for row in rows:
                if not whole or len(row) != width:
                    return
                predicted = not row[-1]
                label, probability = (row[first], float(row[first + 1])) if predicted else (row[-1], 0.0)
                tta = row[1] if "tta" in further else "none"
                yield row[0], tta, (width - 1 - first) // 2 if predicted else 0, end, label, probability
        else:
            for line in lines():
                if not whole:
                    return
                row = json.loads(line)
                _refuse_uncertainty(row)
                label, probability = str(row["label"] or row["error"]), float(row["probability"] or 0.0)
                yield str(row["file"]), str(row.get("tta", "none")), len(row["top"]), end, label, probability
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        message = f"--resume: {target.path} isn't a file of predictions: {error}"
        raise RequestError(message, "name another file") from None
