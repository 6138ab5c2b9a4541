"""Answers of `ftkit predict`: lines on stdout, or a file that grows as they come and that a later run goes on with."""

from __future__ import annotations

import csv
import heapq
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ftkit.cli import console
from ftkit.errors import FtkitError, RequestError, one_line

if TYPE_CHECKING:
    from ftkit.engine.predict import Prediction

Format = Literal["table", "jsonl", "csv"]
UNREADABLE = "(unreadable)"
SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
ROWS = 10_000
"""Answers in a row group of a Parquet file."""
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
        last: The file that the last one is about.
        end: Where the last one ends, in bytes.
        doubtful: The least sure of them: image, class and probability.
    """

    count: int = 0
    unreadable: int = 0
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
            for line, prediction in _lines(predictions, self.form, classes, top_k):
                console.print_text(line)
                if prediction is not None:
                    yield prediction
        elif self.form == "parquet":
            yield from _write_parquet(self.path, predictions)
        else:
            yield from self._append(self.path, predictions, classes, top_k)

    def _append(
        self, path: Path, predictions: Iterable[Prediction], classes: tuple[str, ...], top_k: int
    ) -> Iterator[Prediction]:
        lines = _lines(predictions, self.form, classes, top_k, heading=not self.end)
        with _told(path), path.open("xb" if self.end is None else "r+b") as file:
            file.truncate(self.end or 0)
            file.seek(0, io.SEEK_END)
            # A name that is no text comes back as it was: JSON has an escape for each of its bytes.
            escape = "backslashreplace" if self.form == "jsonl" else "surrogateescape"
            for line, prediction in lines:
                file.write(f"{line}\n".encode("utf-8", escape))
                if prediction is not None:
                    yield prediction


def target_of(path: Path | None, form: Format, resume: bool) -> Target:
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
        _pyarrow()
    return Target(path, kind)


def passed_over(target: Target, images: Iterator[Path], top_k: int) -> Done:
    """Leave out the images that have their answers in the file, which must be the first ones in the same order.

    Neither the answers nor the names are held in memory.

    Raises:
        RequestError: The file has answers of other images, or with another number of classes each.
    """
    done = Done()
    doubtful: list[tuple[float, int, Path, str]] = []
    if target.path is None or not target.path.exists():
        return done
    with _told(target.path), target.path.open("rb") as file:
        for count, (name, classes, end, label, probability) in enumerate(_kept(file, target), 1):
            if classes not in (0, top_k):
                raise RequestError(
                    f"--resume: {target.path} has {classes} classes an image, and --top-k is {top_k}",
                    f"give --top-k {classes}, or another file",
                )
            image = next(images, None)
            if str(image) != name:
                raise RequestError(
                    f"--resume: answer {count} in {target.path} is of {one_line(name)}, "
                    f"and image {count} is {'none' if image is None else one_line(str(image))}",
                    "give the same images in the same order, or another file",
                )
            if classes and image is not None:
                # The surest of those that are kept goes first.
                keep = heapq.heappush if len(doubtful) < COMPARED else heapq.heappushpop
                keep(doubtful, (-probability, count, image, label))
            done = Done(count, done.unreadable + (classes == 0), one_line(name), end)
    target.end = done.end
    return replace(done, doubtful=tuple((image, label, -p) for p, _, image, label in doubtful))


def require_same_model(target: Target, done: Done, predictions: Iterable[Prediction]) -> None:
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

    There are none of the classes where the image couldn't be read.
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
                yield row[0], (width - 2) // 2 if seen else 0, end, row[1], float(row[2]) if seen else 0.0
        else:
            for line in lines():
                if not whole:
                    return
                answer = json.loads(line)
                label, probability = str(answer["label"]), float(answer["probability"] or 0.0)
                yield str(answer["file"]), len(answer["top"]), end, label, probability
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RequestError(f"--resume: {target.path} isn't a file of answers: {error}", "name another") from None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FtkitError(f"--to {path}: {error.strerror or error}", "what is in it is kept; --resume goes on") from None


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise RequestError("a Parquet file needs pyarrow", "pip install 'ftkit[parquet]', or write .jsonl") from None
    return pyarrow


def _write_parquet(path: Path, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Write beside the target, which gets its name once it is whole."""
    pa = _pyarrow()
    answer = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("top", pa.list_(answer)),
            ("error", pa.string()),
        ]
    )
    part = path.with_name(f".{path.name}.part")
    waiting: list[dict[str, Any]] = []
    with _told(path):
        try:
            with pa.parquet.ParquetWriter(part, schema) as writer:
                for prediction in predictions:
                    waiting.append(_facts(prediction))
                    if len(waiting) == ROWS:
                        writer.write_table(pa.Table.from_pylist(waiting, schema))
                        waiting.clear()
                    yield prediction
                writer.write_table(pa.Table.from_pylist(waiting, schema))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _lines(
    predictions: Iterable[Prediction], form: str, classes: tuple[str, ...], top_k: int, heading: bool = True
) -> Iterator[tuple[str, Prediction | None]]:
    """Lines to print, each with the prediction that it tells of; a heading has none."""
    if form == "jsonl":
        write: Callable[[Prediction], str] = _json_line
    elif form == "csv":
        columns = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
        if heading:
            yield _csv_line(["file", "label", "probability", *columns, "error"]), None
        write = _csv_writer(top_k)
    else:
        width = max(map(len, (UNREADABLE, *map(one_line, classes))))
        yield "  ".join([*[f"{'class':<{width}}  probability"] * top_k, "file"]), None
        write = _table_writer(width, top_k)
    for prediction in predictions:
        yield write(prediction), prediction


def _json_line(prediction: Prediction) -> str:
    return json.dumps(_facts(prediction), ensure_ascii=False)


def _facts(prediction: Prediction) -> dict[str, Any]:
    return {
        "file": prediction.name,
        "label": prediction.label,
        "probability": _rounded(prediction.probability),
        "top": [{"label": label, "probability": _rounded(p)} for label, p in prediction.top],
        "error": prediction.error,
    }


def _csv_writer(top_k: int) -> Callable[[Prediction], str]:
    def write(prediction: Prediction) -> str:
        cells = [cell for label, p in prediction.top for cell in (label, f"{p:.6f}")]
        cells = cells or [""] * (2 * top_k)
        return _csv_line([prediction.name, *cells, prediction.error or ""])

    return write


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    # Only what is in the terminator makes Python quote a cell: a name with either sign has to be.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def _table_writer(width: int, top_k: int) -> Callable[[Prediction], str]:
    """Columns that are as wide as the class names, known beforehand, so that no line waits for another."""

    def write(prediction: Prediction) -> str:
        top = [f"{one_line(label):<{width}}  {p:11.4f}" for label, p in prediction.top]
        cells = top or [f"{UNREADABLE:<{width}}  {'':11}", *[" " * (width + 13)] * (top_k - 1)]
        why = f"  ({one_line(prediction.error)})" if prediction.error else ""
        return "  ".join([*cells, one_line(prediction.name)]) + why

    return write


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 6)
