"""`ftkit evaluate`: metrics of a model on labelled images, overall and by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.options import Json, RunsFolder, TtaChoice, complete_names, project_registry
from ftkit.cli.output import console
from ftkit.cli.output.evaluation_tables import print_evaluation
from ftkit.cli.output.mistake_files import mistakes_target
from ftkit.cli.slicing.slice_options import MinSlice, SliceBy, Slicing, outputs_and_slices, slice_flags
from ftkit.cli.slicing.slice_table import print_slices, slices_json
from ftkit.config.choices import AUTO, Device, Precision
from ftkit.errors import RequestError, plural
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.models.bundle import Loaded
    from ftkit.parts.metric import Metric

app = typer.Typer()

VALIDATION = "an ensemble's metrics are too good on images that one of its members was trained on"
NO_VIEWS_CACHED = "activations are cached of images as they are"

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
Mistakes = Annotated[
    Path | None,
    typer.Option(
        "--mistakes", metavar="FILE|FOLDER", help="Write the wrong predictions: .csv, .jsonl or a folder of links."
    ),
]


@app.command(
    epilog="Examples:\n"
    "  ftkit evaluate runs/ants                     on the run's test split, or else its validation split\n"
    "  ftkit evaluate runs/ants --data new-photos   on other images, with classes matched by name\n"
    "  ftkit evaluate runs/ants --mistakes wrong    links to the images with a wrong prediction, by pair of classes\n"
    "  ftkit evaluate runs/ants --slices            parts of the images with a lower accuracy"
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
    mistakes: Mistakes = None,
    slices: Slicing = False,
    slice_by: SliceBy = None,
    min_slice: MinSlice = None,
    output: RunsFolder = None,
) -> None:
    """Evaluate a model on labelled images."""
    if cache and tta != "none":
        raise RequestError(f"--cache has no effect with --tta {tta}: {NO_VIEWS_CACHED}", "drop one of them")
    wanted = slice_flags(slices, slice_by or [], min_slice, cache)
    target = None if mistakes is None else mistakes_target(mistakes)
    bundle = model_folder(model, output)
    resolved = _run_config(bundle)
    images = _evaluation_data(bundle, data, sets or [], split, resolved)
    from ftkit.activation_cache.cache_reader import store_of
    from ftkit.config.schema import Cache
    from ftkit.evaluation.evaluator import ComputeOptions, evaluate_with_intervals
    from ftkit.models.bundle import load_bundle

    loaded = load_bundle(bundle, device, precision, resolved.registry if resolved else None)
    metrics = _metrics(resolved, loaded, metric or [])
    _print_notes(bundle, images, loaded.notes)
    options = ComputeOptions(threads=None if workers is None else max(1, workers), batch_size=batch_size, tta=tta)
    store = store_of(resolved.config.cache if resolved else Cache()) if cache in (None, True) else None
    outputs, found = outputs_and_slices(loaded, images, options, store, _monitored(resolved, loaded, metrics), wanted)
    evaluation, intervals = evaluate_with_intervals(outputs, metrics)
    if target is not None:
        console.note(target.write(outputs, images.split))
    if json:
        source = {"data": images.source, "split": images.title, "data_changed": images.changed}
        source |= {"precision": loaded.precision, "tta": tta}
        bounds = {name: asdict(interval) for name, interval in intervals.items()}
        further = {} if found is None else {"slices": slices_json(found, images.split.names)}
        console.print_json({"model": str(bundle), **source, **evaluation.to_json(), "intervals": bounds, **further})
    else:
        print_evaluation(evaluation, images, intervals, metrics, tta)
        if found is not None:
            print_slices(found, metrics[found.metric].label, images.split.names)


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


def _monitored(resolved: Resolved | None, loaded: Loaded, metrics: Mapping[str, Metric]) -> tuple[str, Metric]:
    """The metric that selects the best epoch of the model's run."""
    chosen = loaded.task.monitor if resolved is None or resolved.config.monitor == AUTO else resolved.config.monitor
    return chosen, metrics[chosen]


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
