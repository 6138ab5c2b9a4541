"""Output formats of `ftkit predict`: table, JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.files.json_text import dump_json, escape_undecodable
from ftkit.metrics.finite_outputs import NOT_FINITE
from ftkit.parts.label_sets import SEPARATOR

if TYPE_CHECKING:
    from ftkit.inference.predictions import Prediction

UNREADABLE, UNUSABLE, UNKNOWN = "(unreadable)", "(not finite)", "(unknown)"
UNLIKE = "unlike the validation images"
ROWS = 10_000
"""Rows in a row group of a Parquet file."""


@dataclass(frozen=True)
class Layout:
    """What the rows of predictions have beside the classes.

    Attributes:
        exclusive: Whether each image has one class; otherwise predictions have `labels`.
        tta: The test-time augmentation, which each row has; None without one.
        sets: Whether each row has a prediction set.
        abstains: Whether the model may abstain, so that each row says whether it did.
        novelty: Whether each row has a novelty, and whether the image is unlike the validation images.
    """

    exclusive: bool = True
    tta: str | None = None
    sets: bool = False
    abstains: bool = False
    novelty: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of CSV between the file and the label."""
        wanted = {"tta": self.tta is not None, "labels": not self.exclusive, "set": self.sets}
        wanted |= {"abstained": self.abstains, "novelty": self.novelty, "unlike": self.novelty}
        return [name for name, has in wanted.items() if has]


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Report errors of the system on a file of predictions.

    Raises:
        FtkitError: The file can't be read or written.
    """
    try:
        yield
    except OSError as error:
        hint = None if path.suffix.lower() == ".parquet" else "its predictions are kept: resume with --resume"
        raise FtkitError(f"--to {path}: {error.strerror or error}", hint) from None


def require_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        RequestError: It isn't installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise RequestError("a Parquet file needs pyarrow", "pip install 'ftkit[parquet]', or write .jsonl") from None
    return pyarrow


def write_parquet(path: Path, predictions: Iterable[Prediction], layout: Layout = Layout()) -> Iterator[Prediction]:
    """Write a temporary file and rename it to `path` once it is complete."""
    pa = require_pyarrow()
    label_and_probability = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("top", pa.list_(label_and_probability)),
            ("error", pa.string()),
            *([] if layout.exclusive else [("labels", pa.list_(label_and_probability))]),
            *([] if layout.tta is None else [("tta", pa.string())]),
            *([("set", pa.list_(label_and_probability))] if layout.sets else []),
            *([("abstained", pa.bool_())] if layout.abstains else []),
            *([("novelty", pa.float32()), ("unlike", pa.bool_())] if layout.novelty else []),
        ]
    )
    part = path.with_name(f".{path.name}.part")
    waiting: list[dict[str, Any]] = []
    with file_errors(path):
        try:
            with pa.parquet.ParquetWriter(part, schema) as writer:
                for prediction in predictions:
                    waiting.append({**_facts(prediction, layout), "file": escape_undecodable(prediction.name)})
                    if len(waiting) == ROWS:
                        writer.write_table(pa.Table.from_pylist(waiting, schema))
                        waiting.clear()
                    yield prediction
                writer.write_table(pa.Table.from_pylist(waiting, schema))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def lines_of(
    predictions: Iterable[Prediction],
    form: str,
    classes: tuple[str, ...],
    top_k: int,
    heading: bool = True,
    ascii_only: bool = False,
    layout: Layout = Layout(),
) -> Iterator[tuple[str, Prediction | None]]:
    """Lines to print, each with its prediction; None for a heading.

    Args:
        ascii_only: Escape non-ASCII characters in JSON lines, for a stream that isn't UTF-8.
    """
    if form == "jsonl":
        write: Callable[[Prediction], str] = partial(_json_line, ascii_only, layout)
    elif form == "csv":
        columns = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
        if heading:
            yield _csv_line(["file", *layout.columns, "label", "probability", *columns, "error"]), None
        write = _csv_writer(top_k, layout)
    elif not layout.exclusive:
        yield "file  labels" + ("" if top_k == 1 else "  most probable classes"), None
        write = partial(_labels_row, top_k)
    else:
        width = max(map(len, (UNREADABLE, UNUSABLE, UNKNOWN, *map(one_line, classes))))
        heads = [*[f"{'class':<{width}}  probability"] * top_k, "file", *(["set"] if layout.sets else [])]
        yield "  ".join(heads), None
        write = _table_writer(width, top_k)
    for prediction in predictions:
        yield write(prediction), prediction


def _json_line(ascii_only: bool, layout: Layout, prediction: Prediction) -> str:
    return dump_json(_facts(prediction, layout), ascii_only=ascii_only)


def _facts(prediction: Prediction, layout: Layout) -> dict[str, Any]:
    """A prediction as a JSON object; values are null for an image without one."""
    return {
        "file": prediction.name,
        "label": prediction.label,
        "probability": _rounded(prediction.probability),
        "top": _pairs(prediction.top),
        "error": prediction.error,
        **({} if prediction.labels is None else {"labels": _pairs(prediction.labels)}),
        **({} if layout.tta is None else {"tta": layout.tta}),
        **({"set": None if prediction.error else _pairs(prediction.prediction_set or ())} if layout.sets else {}),
        **({"abstained": prediction.abstained} if layout.abstains else {}),
        **({"novelty": _rounded(prediction.novelty), "unlike": prediction.unlike} if layout.novelty else {}),
    }


def _pairs(ranked: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": _rounded(p)} for label, p in ranked]


def _labels_row(top_k: int, prediction: Prediction) -> str:
    """A row with the predicted classes, and the most probable ones if `--top-k` is above 1."""
    name = one_line(prediction.name)
    if prediction.error:
        mark = UNUSABLE if prediction.error == NOT_FINITE else UNREADABLE
        return f"{name}  {mark}  ({one_line(prediction.error)})"
    lists = [prediction.labels or (), *([] if top_k == 1 else [prediction.top])]
    texts = [", ".join(f"{one_line(c)} {p:.4f}" for c, p in each) or "(none)" for each in lists]
    return "  ".join([name, *texts, *([UNLIKE] if prediction.unlike else [])])


def _csv_writer(top_k: int, layout: Layout) -> Callable[[Prediction], str]:
    def write(prediction: Prediction) -> str:
        cells = [cell for label, p in prediction.top for cell in (label, f"{p:.6f}")]
        cells = cells or [""] * (2 * top_k)
        if prediction.abstained:
            cells[0] = ""
        further = {
            "tta": layout.tta or "",
            "labels": SEPARATOR.join(label for label, _ in prediction.labels or ()),
            "set": SEPARATOR.join(label for label, _ in prediction.prediction_set or ()),
            "abstained": prediction.top[0][0] if prediction.abstained else "",
            "novelty": "" if prediction.novelty is None else f"{prediction.novelty:.6f}",
            "unlike": str(prediction.unlike).lower(),
        }
        return _csv_line([prediction.name, *(further[name] for name in layout.columns), *cells, prediction.error or ""])

    return write


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    # Python quotes cells that contain a character of the terminator: names with \r or \n must be quoted.
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def _table_writer(width: int, top_k: int) -> Callable[[Prediction], str]:
    """Rows with columns as wide as the longest class name, so that no row waits for another."""

    def write(prediction: Prediction) -> str:
        top = [f"{one_line(label):<{width}}  {p:11.4f}" for label, p in prediction.top]
        if prediction.abstained:
            top[0] = f"{UNKNOWN:<{width}}  {prediction.top[0][1]:11.4f}"
        mark = UNUSABLE if prediction.error == NOT_FINITE else UNREADABLE
        cells = top or [f"{mark:<{width}}  {'':11}", *[" " * (width + 13)] * (top_k - 1)]
        why = f"  ({one_line(prediction.error)})" if prediction.error else ""
        members = ", ".join(one_line(label) for label, _ in prediction.prediction_set or ())
        marks = [*([f"{{{members}}}"] if members else []), *([UNLIKE] if prediction.unlike else [])]
        return "  ".join([*cells, one_line(prediction.name), *marks]) + why

    return write


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 6)
