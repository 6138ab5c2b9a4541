"""`ftkit predict`: classes of images, a line each; results on stdout, remarks on stderr."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ftkit.cli import console
from ftkit.config.choices import Device
from ftkit.errors import RequestError, one_line
from ftkit.images import is_image

if TYPE_CHECKING:
    from ftkit.engine.predict import Prediction

app = typer.Typer()

Format = Literal["table", "jsonl", "csv"]
UNREADABLE = "(unreadable)"


@app.command(
    epilog="Examples:\n"
    "  ftkit predict photo.jpg                              ask the latest model\n"
    "  ftkit predict new-photos --model runs/ants --top-k 3\n"
    "  find . -name '*.jpg' | ftkit predict - --format csv"
)
def predict(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Images, folders of them, quoted globs; - reads paths from stdin."),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="RUN|FOLDER", help="A run or a model; else the latest run.")
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", metavar="N", help="How many classes to give for each image.")] = 1,
    form: Annotated[Format, typer.Option("--format", help="How to write them.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at a time.")] = 32,
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Folder that run folders are made in.")
    ] = None,
) -> None:
    """Say what is in images."""
    bundle = model_folder(model, output)
    images = find_images(paths, sys.stdin)
    from ftkit.engine.bundle import load_bundle
    from ftkit.engine.devices import choose_device
    from ftkit.engine.predict import Predictor

    predictor = Predictor(load_bundle(bundle, choose_device(device)))
    predictions = predictor.iter_predict(images, top_k, batch_size)
    console.note(f"model: {bundle} ({predictor.card.backbone.name}, {len(predictor.classes)} classes)")
    unreadable = total = 0
    for line, prediction in _lines(predictions, "jsonl" if as_json else form, predictor.classes, top_k):
        console.print_text(line)
        total += prediction is not None
        unreadable += prediction is not None and prediction.error is not None
    if unreadable:
        console.note(f"{unreadable} of {total} files can't be read")
        raise typer.Exit(1)


def model_folder(spec: str | None, output: Path | None) -> Path:
    """The model that a person means; `--output`, else the config's, says where runs are looked for."""
    from ftkit.runs import find_model

    if output is None and (spec is None or not Path(spec).exists()):
        from ftkit.config.load import resolve

        output = Path(os.path.relpath(resolve(None, {}, [], os.environ).config.output))
    return find_model(spec, output or Path("runs"))


def find_images(arguments: Iterable[str], listed: Iterable[str]) -> Iterator[Path]:
    """Image files in the order of the arguments; folders and globs are sorted, and read as they are needed.

    A file that was named is taken whatever it is called, and even if it isn't there, so that it gets its
    line among the answers.

    Args:
        listed: Lines with paths, for the argument `-`.

    Raises:
        RequestError: There is nothing at all.
    """
    arguments = list(arguments)
    missing = [a for a in arguments if not (a == "-" or os.path.lexists(a) or _matches(a))]
    if len(missing) == len(arguments):
        raise RequestError(f"{missing[0]}: no such file or folder", f"relative paths start from {Path.cwd()}")
    found = chain.from_iterable(_expand(argument, listed) for argument in arguments)
    first = next(found, None)
    if first is None:
        raise RequestError(f"no images in {', '.join(arguments)}", "give image files, or folders that hold some")
    return chain([first], found)


def _expand(argument: str, listed: Iterable[str]) -> Iterator[Path]:
    if argument == "-":
        lines = (line.rstrip("\r\n") for line in listed)
        yield from (Path(line) for line in lines if line)
    elif os.path.isdir(argument):  # noqa: PTH112 - an empty argument would be the working folder
        yield from _below(Path(argument))
    elif matches := [] if os.path.lexists(argument) else _matches(argument):
        for match in matches:
            yield from _below(match) if match.is_dir() else [match]
    else:
        yield Path(argument)


def _matches(pattern: str) -> list[Path]:
    if not glob.has_magic(pattern):
        return []
    return [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute ones too


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if is_image(name))


def _lines(
    predictions: Iterable[Prediction], form: Format, classes: tuple[str, ...], top_k: int
) -> Iterator[tuple[str, Prediction | None]]:
    """Lines to print, each with the prediction that it tells of; a heading has none."""
    if form == "jsonl":
        write: Callable[[Prediction], str] = _json_line
    elif form == "csv":
        columns = [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "probability")]
        yield _csv_line(["file", "label", "probability", *columns, "error"]), None
        write = _csv_writer(top_k)
    else:
        width = max(map(len, (UNREADABLE, *map(one_line, classes))))
        yield "  ".join([*[f"{'class':<{width}}  probability"] * top_k, "file"]), None
        write = _table_writer(width, top_k)
    for prediction in predictions:
        yield write(prediction), prediction


def _json_line(prediction: Prediction) -> str:
    return json.dumps(
        {
            "file": prediction.name,
            "label": prediction.label,
            "probability": _rounded(prediction.probability),
            "top": [{"label": label, "probability": _rounded(p)} for label, p in prediction.top],
            "error": prediction.error,
        },
        ensure_ascii=False,
    )


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
