"""`ftkit evaluate`: metrics of a model on labelled images, overall and by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.options import Json, RunsFolder, TtaChoice, complete_names, project_registry
from ftkit.cli.output import console
from ftkit.config.choices import Device, Precision
from ftkit.errors import RequestError, one_line, plural
from ftkit.parts.dataset import SplitName
from ftkit.transforms.view_choices import Tta

if TYPE_CHECKING:
    from rich.table import Table

    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.metrics.bootstrap import Interval
    from ftkit.metrics.report import Evaluation
    from ftkit.models.bundle import Loaded
    from ftkit.parts.metric import Metric

app = typer.Typer()

LARGEST_MATRIX = 20
"""Largest number of classes whose confusion matrix is shown; above, the most confused pairs are shown."""
PAIRS = 15
CLASSES = 100
"""Largest number of classes that are all listed; above, those with the lowest F1 are listed."""
WORST = 20
VALIDATION = "an ensemble's metrics are too good on images that one of its members was trained on"
NO_VIEWS_CACHED = "activations are cached of images as they are"
PADDING = 3
"""Characters of padding and rules around each column of a table."""

Model = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Run, or model with --data; by default the latest run.")
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="PATH|URL", help="Other images: folder, CSV file or archive.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of other images, such as dataset.label_column=breed."),
]
FurtherMetrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="Further metric; may be repeated.",
        autocompletion=complete_names("metrics"),
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=0, help="Data loading threads; by default one per core.")
]
Cached = Annotated[
    bool | None, typer.Option("--cache/--no-cache", help="Use cached activations of frozen layers.", show_default=False)
]


@app.command(
    epilog="Examples:\n"
    "  ftkit evaluate runs/ants                     on the run's test split, or else its validation split\n"
    "  ftkit evaluate runs/ants --data new-photos   on other images, with classes matched by name"
)
def evaluate(
    model: Model = None,
    split: Annotated[SplitName | None, typer.Option("--split", help="Split; by default test, else val.")] = None,
    data: Data = None,
    sets: Sets = None,
    metric: FurtherMetrics = None,
    json: Json = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images per batch.")] = 64,
    device: Annotated[Device, typer.Option("--device", help="Device to compute on.")] = "auto",
    precision: Annotated[Precision, typer.Option("--precision", help="Numeric precision.")] = "auto",
    workers: Workers = None,
    cache: Cached = None,
    tta: TtaChoice = "none",
    output: RunsFolder = None,
) -> None:
    """Evaluate a model on labelled images."""
    if cache and tta != "none":
        raise RequestError(f"--cache has no effect with --tta {tta}: {NO_VIEWS_CACHED}", "drop one of them")
    bundle = model_folder(model, output)
    resolved = _run_config(bundle)
    images = _evaluation_data(bundle, data, sets or [], split, resolved)
    from ftkit.activation_cache.cache_reader import store_of
    from ftkit.config.schema import Cache
    from ftkit.evaluation.evaluator import ComputeOptions, evaluate_bundle
    from ftkit.models.bundle import load_bundle

    loaded = load_bundle(bundle, device, precision, resolved.registry if resolved else None)
    metrics = _metrics(resolved, loaded, metric or [])
    _print_notes(bundle, images, loaded.notes)
    options = ComputeOptions(threads=None if workers is None else max(1, workers), batch_size=batch_size, tta=tta)
    store = store_of(resolved.config.cache if resolved else Cache()) if cache in (None, True) else None
    evaluation, intervals = evaluate_bundle(loaded, images, metrics, options, store, console.note)
    if json:
        source = {"data": images.source, "split": images.title, "data_changed": images.changed}
        source |= {"precision": loaded.precision, "tta": tta}
        bounds = {name: asdict(interval) for name, interval in intervals.items()}
        console.print_json({"model": str(bundle), **source, **evaluation.to_json(), "intervals": bounds})
    else:
        show(evaluation, images, intervals, metrics, tta)


def _metrics(resolved: Resolved | None, loaded: Loaded, names: Sequence[str]) -> dict[str, Metric]:
    """The metrics that the model's run records, and further ones, by name."""
    from ftkit.metrics.selection import check_task, default_metrics, named_metrics, run_metrics
    from ftkit.plugins import Registry

    registry = resolved.registry if resolved else Registry()
    task, classes = loaded.task, len(loaded.card.classes)
    found = run_metrics(resolved, task, classes) if resolved else default_metrics(registry, task, classes)
    named = named_metrics(registry, names, "--metric")
    check_task(named, task, "--metric")
    return found | named


def _evaluation_data(
    bundle: Path, data: str | None, sets: Sequence[str], split: SplitName | None, run: Resolved | None
) -> EvaluationData:
    """The images to evaluate on: those of `--data` and `--set`, or those of the model's run.

    Other data of the kind that the model was trained on is read with the same columns.
    """
    from ftkit.config.dataset_choice import choose_dataset
    from ftkit.evaluation.evaluation_data import split_of_dataset, split_of_run
    from ftkit.runs.model_card import read_card

    card = read_card(bundle)
    if data is not None or sets:
        registry = run.registry if run else project_registry(all_plugins=False)
        chosen = choose_dataset({} if data is None else dataset_at(data), sets, registry, card.dataset)
        if "value_range" in chosen.options:
            raise RequestError("--set dataset.value_range has no effect: a model has the range of its training images")
        found = split_of_dataset(chosen.dataset, data or f"dataset {chosen.name}", card, split)
        return replace(found, notes=(*found.notes, VALIDATION)) if card.members and found.name == "val" else found
    if card.members:
        raise RequestError(
            f"{bundle} is an ensemble, whose members may have been trained on each other's validation images",
            "give images that none was trained on with --data",
        )
    if run is None:
        raise RequestError(f"{bundle} is a model without a run, so its data is unknown", "give images with --data")
    return split_of_run(run, card, split, bundle.parent)


def _run_config(bundle: Path) -> Resolved | None:
    from ftkit.config.load import resolve
    from ftkit.runs.model_card import read_card
    from ftkit.runs.run_lookup import run_of

    run = None if read_card(bundle).members else run_of(bundle)
    return resolve(run / "config.yaml", {}, [], {}) if run and (run / "config.yaml").is_file() else None


def _print_notes(bundle: Path, images: EvaluationData, warnings: Iterable[str]) -> None:
    console.note(f"model {bundle} on {images.source}: {images.title} split, {plural(len(images.split), 'image')}")
    for line in images.notes:
        console.note(f"note: {line}")
    if images.changed:
        console.warn(f"{images.source} has changed since the model was trained: metrics are not comparable")
    for line in warnings:
        console.warn(line)


def show(
    evaluation: Evaluation,
    images: EvaluationData,
    intervals: Mapping[str, Interval],
    metrics: Mapping[str, Metric],
    tta: Tta = "none",
) -> None:
    """Print the metrics with confidence intervals, the metrics by class, and the confusion matrix."""
    out = console.out()
    digits = digits_of(evaluation.images)
    labels = {name: one_line(metric.label) for name, metric in metrics.items()}
    shown = [
        f"{labels[name]} {value:.{digits}f}{_interval_text(intervals.get(name), digits)}"
        for name, value in evaluation.values.items()
        if value is not None
    ]
    count = plural(evaluation.images, "image") + ("" if tta == "none" else f", test-time augmentation {tta}")
    out.print(f"{images.title}: {', '.join(shown)}, {count}", soft_wrap=True)
    out.print("in brackets: 95 % confidence intervals", soft_wrap=True)
    for name, reason in evaluation.missing.items():
        out.print(f"no {labels[name]}: {one_line(reason)}", soft_wrap=True)
    out.print(_class_table(evaluation))
    if evaluation.has_confusion:
        out.print(_confusion_table(evaluation, out.width) or _pairs_table(evaluation))


def digits_of(images: int) -> int:
    """The number of decimals at which one image changes the last digit of a rate."""
    return min(4, max(2, math.ceil(math.log10(images))))


def _interval_text(interval: Interval | None, digits: int) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _class_table(evaluation: Evaluation) -> Table:
    scores, title = evaluation.per_class, "By class"
    shown: Sequence[int] = range(len(scores))
    if len(shown) > CLASSES:
        # A class without images has an F1 of 0, whatever the model.
        shown = sorted((place for place in shown if scores[place].support), key=lambda place: scores[place].f1)[:WORST]
        title = f"The {len(shown)} of {len(scores):,} classes with the lowest F1: all are in --json"
    further: dict[str, Sequence[float]] = {}
    if evaluation.average_precision is not None and evaluation.thresholds is not None:
        further = {"AP": evaluation.average_precision.tolist(), "threshold": evaluation.thresholds}
    table = console.table(title, ("class", "images", "precision", "recall", "F1", *further))
    digits = digits_of(evaluation.images)
    for place in shown:
        one = scores[place]
        values = (one.precision, one.recall, one.f1, *(column[place] for column in further.values()))
        cells = ("-" if math.isnan(value) else f"{value:.{digits}f}" for value in values)
        table.add_row(one_line(one.name), str(one.support), *cells)
    return table


def _confusion_table(evaluation: Evaluation, width: int) -> Table | None:
    """The confusion matrix, with numbers as column heads if names don't fit; None if it doesn't fit at all."""
    if len(evaluation.classes) > LARGEST_MATRIX:
        return None
    names = [one_line(name) for name in evaluation.classes]
    numbered = [f"{i} {name}" for i, name in enumerate(names)]
    digits = len(str(evaluation.pairs[:, 2].max(initial=0)))
    for rows, columns in ((names, names), (numbered, [str(i) for i in range(len(names))])):
        needed = max(map(len, rows)) + sum(max(len(column), digits) + PADDING for column in columns) + PADDING
        if needed <= width:
            table = console.table("Confusion: rows are the true classes, columns the predicted ones", ("", *columns))
            for name, row in zip(rows, evaluation.confusion, strict=True):
                table.add_row(name, *(str(n) if n else "." for n in row))
            return table
    return None


def _pairs_table(evaluation: Evaluation) -> Table:
    names = evaluation.classes
    table = console.table("Most confused: the whole matrix is in --json", ("true class", "predicted", "images"))
    errors = [(n, i, j) for i, j, n in evaluation.pairs.tolist() if i != j]
    for n, i, j in sorted(errors, key=lambda error: (-error[0], error[1:]))[:PAIRS]:
        table.add_row(one_line(names[i]), one_line(names[j]), str(n))
    return table
