"""`ftkit evaluate`: how good a model is on labelled images, by class name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.output import console
from ftkit.config.choices import Device, Precision
from ftkit.errors import RequestError, one_line, plural
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from rich.table import Table

    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.metrics.bootstrap import Interval
    from ftkit.metrics.report import Evaluation
    from ftkit.parts.metric import Metric
    from ftkit.runs.model_card import ModelCard

app = typer.Typer()

LARGEST_MATRIX = 20
"""Classes up to which the whole confusion matrix is shown; beyond, the pairs most often confused."""
PAIRS = 15
CLASSES = 100
"""Classes up to which the table has them all; beyond, those with the lowest F1."""
WORST = 20
PADDING = 3
"""Blanks and rules around a column of a table."""


@app.command(
    epilog="Examples:\n"
    "  ftkit evaluate runs/ants                     on the run's test split, or else its validation split\n"
    "  ftkit evaluate runs/ants --data new-photos   on other images, by class name"
)
def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run, or a model with --data; else the latest run.")
    ] = None,
    split: Annotated[SplitName | None, typer.Option("--split", help="Which split; else test, else val.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH|URL", help="Other images: a folder, a CSV file, an archive.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME", help="A further metric; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="All metrics as JSON on stdout.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images at a time.")] = 64,
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = "auto",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Arithmetic; auto goes by the hardware.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=0, help="Threads that read images; else by the cores.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take what runs have kept of frozen layers.", show_default=False)
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Folder that run folders are made in.")
    ] = None,
) -> None:
    """Evaluate a model on labelled images."""
    bundle = model_folder(model, output)
    from ftkit.runs.model_card import read_card

    card = read_card(bundle)
    resolved = _run_config(bundle)
    metrics = _metrics(resolved, card, metric or [])
    labelled = _evaluation_data(bundle, card, data, split, resolved)
    from ftkit.activation_cache.cache_reader import store_of
    from ftkit.config.schema import Cache
    from ftkit.evaluation.evaluator import evaluate_bundle
    from ftkit.models.bundle import load_bundle

    loaded = load_bundle(bundle, device, precision, resolved.registry if resolved else None)
    _remark(bundle, labelled)
    for line in loaded.notes:
        console.warn(line)
    threads = None if workers is None else max(1, workers)
    store = store_of(resolved.config.cache if resolved else Cache()) if cache else None
    evaluation, where = evaluate_bundle(loaded, labelled.split, metrics, batch_size, threads, store, console.note)
    if json:
        source = {"data": labelled.source, "split": labelled.name, "data_changed": labelled.changed}
        lie = {name: asdict(one) for name, one in where.items()}
        console.print_json({"model": str(bundle), **source, **evaluation.to_json(), "intervals": lie})
    else:
        show(evaluation, labelled, where, metrics)


def _metrics(resolved: Resolved | None, card: ModelCard, names: Sequence[str]) -> dict[str, Metric]:
    """The metrics that the model's run records, and further ones, by name."""
    from ftkit.metrics.selection import default_metrics, named_metrics, run_metrics
    from ftkit.plugins import Registry
    from ftkit.tasks.saved_task import saved_task

    registry, classes = resolved.registry if resolved else Registry(), len(card.classes)
    task = saved_task(card.task, registry)
    found = run_metrics(resolved, task, classes) if resolved else default_metrics(registry, task, classes)
    return found | named_metrics(registry, names, "--metric")


def _evaluation_data(
    bundle: Path, card: ModelCard, data: str | None, split: SplitName | None, run: Resolved | None
) -> EvaluationData:
    """The images to evaluate on: those of `--data`, or those of the model's run."""
    from ftkit.evaluation.evaluation_data import split_of_dataset, split_of_run
    from ftkit.plugins import Registry

    if data is not None:
        chosen = dataset_at(data)
        registry = run.registry if run else Registry()
        dataset = registry.datasets.get(chosen.pop("name"))
        options = {option: path if "://" in path else Path(path).expanduser() for option, path in chosen.items()}
        return split_of_dataset(dataset(**options), data, card, split)
    if run is None:
        raise RequestError(f"{bundle} is a model on its own, without the data of its run", "give images with --data")
    return split_of_run(run, card, split)


def _run_config(bundle: Path) -> Resolved | None:
    from ftkit.config.load import resolve
    from ftkit.runs.run_lookup import run_of

    run = run_of(bundle)
    return resolve(run / "config.yaml", {}, [], {}) if run and (run / "config.yaml").is_file() else None


def _remark(bundle: Path, labelled: EvaluationData) -> None:
    console.note(f"model {bundle} on {labelled.source}: {labelled.name} split, {plural(len(labelled.split), 'image')}")
    for line in labelled.notes:
        console.note(f"note: {line}")
    if labelled.changed:
        console.warn(f"{labelled.source} has changed since the model was trained: the metrics aren't of the same data")


def show(
    evaluation: Evaluation, labelled: EvaluationData, where: Mapping[str, Interval], metrics: Mapping[str, Metric]
) -> None:
    """Print the metrics with their intervals, a table of classes, and the confusion matrix."""
    out = console.out()
    digits = digits_of(evaluation.images)
    labels = {name: one_line(metric.label) for name, metric in metrics.items()}
    shown = [
        f"{labels[name]} {value:.{digits}f}{_within(where.get(name), digits)}"
        for name, value in evaluation.values.items()
        if value is not None
    ]
    out.print(f"{labelled.name}: {', '.join(shown)}, {plural(evaluation.images, 'image')}", soft_wrap=True)
    out.print("in brackets: the 95 % confidence interval", soft_wrap=True)
    for name, reason in evaluation.missing.items():
        out.print(f"no {labels[name]}: {one_line(reason)}", soft_wrap=True)
    out.print(_class_table(evaluation))
    if evaluation.has_confusion:
        out.print(_confusion_table(evaluation, out.width) or _pairs_table(evaluation))


def digits_of(images: int) -> int:
    """Decimals of a rate that so many images support: one image more or less changes the last of them."""
    return min(4, max(2, math.ceil(math.log10(images))))


def _within(where: Interval | None, digits: int) -> str:
    if where is None or where.low is None or where.high is None:
        return ""
    return f" [{where.low:.{digits}f}, {where.high:.{digits}f}]"


def _class_table(evaluation: Evaluation) -> Table:
    shown, title = evaluation.per_class, "By class"
    if len(shown) > CLASSES:
        # A class without an image has an F1 of 0 and says nothing of the model.
        shown = tuple(sorted((one for one in shown if one.support), key=lambda one: one.f1)[:WORST])
        title = f"The {len(shown)} of {len(evaluation.classes):,} classes with the lowest F1: all are in --json"
    table, digits = console.table(title, ("class", "images", "precision", "recall", "F1")), digits_of(evaluation.images)
    for one in shown:
        metrics = (f"{value:.{digits}f}" for value in (one.precision, one.recall, one.f1))
        table.add_row(one_line(one.name), str(one.support), *metrics)
    return table


def _confusion_table(evaluation: Evaluation, width: int) -> Table | None:
    """The whole matrix, with numbers over its columns where names don't fit; None where those don't either."""
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
    table = console.table("Most confused: the whole matrix is in --json", ("true class", "taken for", "images"))
    errors = [(n, i, j) for i, j, n in evaluation.pairs.tolist() if i != j]
    for n, i, j in sorted(errors, key=lambda error: (-error[0], error[1:]))[:PAIRS]:
        table.add_row(one_line(names[i]), one_line(names[j]), str(n))
    return table
