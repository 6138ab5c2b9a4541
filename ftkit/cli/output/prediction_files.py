"""Answers of `ftkit predict`: lines on stdout, or a file that grows as they come and that a later run goes on with."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from ftkit.cli.output import console, streams
from ftkit.cli.output.prediction_formats import file_errors, lines_of, require_pyarrow, write_parquet
from ftkit.errors import RequestError, one_line, plural
from ftkit.files.json_text import escape_undecodable
from ftkit.metrics.finite_outputs import NOT_FINITE

if TYPE_CHECKING:
    from ftkit.inference.predictor import Prediction

Format = Literal["table", "jsonl", "csv"]
SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
COMPARED = 8
"""Answers of a stopped run that the model must give again, of which two models are least likely to say the same."""
TOLERANCE = 0.02
"""Between two probabilities of one model, which depend a little on the hardware, the precision and the batch."""


@dataclass(frozen=True)
class Done:
    """What a stopped run has left.

    Attributes:
        count: Answers that are whole.
        unreadable: How many of them say that an image couldn't be read.
        unusable: How many say that the model's outputs weren't finite.
        last: The file that the last one is about.
        end: Where the last one ends, in bytes.
        doubtful: The least sure of them: image, class and probability.
    """

    count: int = 0
    unreadable: int = 0
    unusable: int = 0
    last: str = ""
    end: int = 0
    doubtful: tuple[tuple[Path, str, float], ...] = ()


@dataclass
class Target:
    """Where answers go.

    Attributes:
        path: A file; None is stdout.
        form: `table`, `jsonl`, `csv` or `parquet`.
        end: Length of what is kept of the file, in bytes; None starts a new one.
    """

    path: Path | None
    form: str
    end: int | None = None

    def write(self, predictions: Iterable[Prediction], classes: tuple[str, ...], top_k: int) -> Iterator[Prediction]:
        """Write answers one after the other; yields each once it is written.

        Raises:
            FtkitError: The file can't be written to.
        """
        if self.path is None:
            if self.form == "csv":
                console.expect_data()
            ascii_only = not console.is_utf8(streams.RESULTS)
            for line, prediction in lines_of(predictions, self.form, classes, top_k, ascii_only=ascii_only):
                console.print_text(line)
                if prediction is not None:
                    yield prediction
        elif self.form == "parquet":
            yield from write_parquet(self.path, predictions)
        else:
            yield from self._append(self.path, predictions, classes, top_k)

    def _append(
        self, path: Path, predictions: Iterable[Prediction], classes: tuple[str, ...], top_k: int
    ) -> Iterator[Prediction]:
        lines = lines_of(predictions, self.form, classes, top_k, heading=not self.end)
        with file_errors(path), path.open("xb" if self.end is None else "r+b") as file:
            file.truncate(self.end or 0)
            file.seek(0, io.SEEK_END)
            for line, prediction in lines:
                file.write(escape_undecodable(f"{line}\n").encode())
                if prediction is not None:
                    yield prediction


def prediction_target(path: Path | None, form: Format, resume: bool) -> Target:
    """Where answers go, by what was asked for.

    Raises:
        RequestError: The file is there, its ending says nothing, or it is none that can be gone on with.
    """
    if path is None:
        if resume:
            raise RequestError("--resume goes on with a file of answers", "name it with --to FILE")
        return Target(None, form)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or (form != "table" and form != kind):
        endings = ", ".join(SUFFIXES) if form == "table" else f".{form}, as --format says,"
        raise RequestError(f"--to {path}: its name doesn't end in {endings}".removesuffix(","), "give it another name")
    if resume and kind == "parquet":
        raise RequestError(
            f"--resume: {path} can't be gone on with, since a Parquet file is whole or nothing", "write .jsonl or .csv"
        )
    if path.exists() and not resume:
        raise RequestError(f"--to {path}: it is there already", "add --resume to go on with it, or name another")
    if kind == "parquet":
        require_pyarrow()
    return Target(path, kind)


def skip_predicted(target: Target, images: Iterator[Path], top_k: int) -> Done:
    """Leave out the images that have their answers in the file, which must be the first ones in the same order.

    Neither the answers nor the names are held in memory.

    Raises:
        RequestError: The file has answers of other images, or with another number of classes each.
    """
    done = Done()
    doubtful: list[tuple[float, int, Path, str]] = []
    if target.path is None or not target.path.exists():
        return done
    with file_errors(target.path), target.path.open("rb") as file:
        for count, (name, classes, end, label, probability) in enumerate(_kept(file, target), 1):
            if classes not in (0, top_k):
                raise RequestError(
                    f"--resume: {target.path} has {plural(classes, 'class')} an image, and --top-k is {top_k}",
                    f"give --top-k {classes}, or another file",
                )
            image = next(images, None)
            if str(image) != name and (target.form == "jsonl" or escape_undecodable(str(image)) != name):
                raise RequestError(
                    f"--resume: answer {count} in {target.path} is of {one_line(name)}, "
                    f"and image {count} is {'none' if image is None else one_line(str(image))}",
                    "give the same images in the same order, or another file",
                )
            if classes and image is not None:
                # The surest of those that are kept goes first.
                keep = heapq.heappush if len(doubtful) < COMPARED else heapq.heappushpop
                keep(doubtful, (-probability, count, image, label))
            unusable = classes == 0 and label == NOT_FINITE
            unreadable = classes == 0 and not unusable
            done = Done(count, done.unreadable + unreadable, done.unusable + unusable, one_line(name), end)
    target.end = done.end
    return replace(done, doubtful=tuple((image, label, -p) for p, _, image, label in doubtful))


def check_same_model(target: Target, done: Done, predictions: Iterable[Prediction]) -> None:
    """Compare a stopped run's least sure answers with those that the model gives now.

    Raises:
        RequestError: They aren't of this model.
    """
    for (image, label, before), prediction in zip(done.doubtful, predictions, strict=True):
        if prediction.error is not None:
            continue  # the image is gone, which says nothing of the model
        now = prediction.probability or 0.0
        # Where two classes are as likely, either may be the first.
        if abs(now - before) > TOLERANCE or (prediction.label != label and before > 0.5 + TOLERANCE):
            raise RequestError(
                f"--resume: {target.path} has answers of another model: {one_line(str(image))} is {label!r} there "
                f"({before:.3f}), and {prediction.label!r} now ({now:.3f})",
                "name that model with --model, or another file",
            )


def _kept(file: IO[bytes], target: Target) -> Iterator[tuple[str, int, int, str, float]]:
    """The answers that were written whole: image, number of classes, where the answer ends, class and probability.

    There are none of the classes where there is no prediction; in place of the class stands why.
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
            width = len(next(rows, []))
            for row in rows:
                if not whole or len(row) != width:
                    return
                seen = not row[-1]
                label, probability = (row[1], float(row[2])) if seen else (row[-1], 0.0)
                yield row[0], (width - 2) // 2 if seen else 0, end, label, probability
        else:
            for line in lines():
                if not whole:
                    return
                answer = json.loads(line)
                label, probability = str(answer["label"] or answer["error"]), float(answer["probability"] or 0.0)
                yield str(answer["file"]), len(answer["top"]), end, label, probability
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RequestError(f"--resume: {target.path} isn't a file of answers: {error}", "name another") from None
