"""`ftkit evaluate`: metrics of a model on labelled images, overall and by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import ByClass, Coverage, SetsMethod, model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.options import Json, RunsFolder, TtaChoice, complete_names, project_registry
from ftkit.cli.output import console
from ftkit.cli.output.evaluating.calibration_lines import calibration_json, measured_lines
from ftkit.cli.output.evaluating.evaluation_tables import print_evaluation
from ftkit.cli.output.evaluating.mistake_files import mistakes_target
from ftkit.cli.output.evaluating.uncertainty_tables import coverage_lines, risk_table, uncertainty_json
from ftkit.config.choices import Device, Precision
from ftkit.errors import RequestError, plural
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.evaluation.set_coverage import SetCoverage
    from ftkit.inference.uncertain_predictions import UncertaintyRule
    from ftkit.metrics.outputs import Outputs
    from ftkit.models.bundle import Loaded
    from ftkit.parts.metric import Metric
    from ftkit.uncertainty.rejection import RiskCoverage

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
    "  ftkit evaluate runs/ants --mistakes wrong    links to the images with a wrong prediction, by pair of classes"
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
    coverage: Coverage = None,
    set_method: SetsMethod = None,
    by_class: ByClass = False,
    output: RunsFolder = None,
) -> None:
    """Evaluate a model on labelled images."""
    if cache and tta != "none":
        raise RequestError(f"--cache has no effect with --tta {tta}: {NO_VIEWS_CACHED}", "drop one of them")
    target = None if mistakes is None else mistakes_target(mistakes)
    bundle = model_folder(model, output)
    resolved = run_config(bundle)
    images = evaluation_images(bundle, data, sets or [], split, resolved)
    from ftkit.activation_cache.cache_reader import store_of
    from ftkit.config.schema import Cache
    from ftkit.evaluation.calibration_on_images import calibration_on_images
    from ftkit.evaluation.evaluator import ComputeOptions, bundle_outputs, evaluate_with_intervals
    from ftkit.inference.uncertain_predictions import Uncertainty, uncertainty_rule
    from ftkit.models.bundle import load_bundle

    loaded = load_bundle(bundle, device, precision, resolved.registry if resolved else None)
    metrics = _metrics(resolved, loaded, metric or [])
    rule = uncertainty_rule(Uncertainty(coverage, set_method, by_class), bundle, loaded.card, loaded.task.exclusive)
    _print_notes(bundle, images, loaded.notes, rule.notes)
    options = ComputeOptions(threads=None if workers is None else max(1, workers), batch_size=batch_size, tta=tta)
    store = store_of(resolved.config.cache if resolved else Cache()) if cache in (None, True) else None
    outputs = bundle_outputs(loaded, images, options, store, console.note)
    evaluation, intervals = evaluate_with_intervals(outputs, metrics)
    if target is not None:
        console.note(target.write(outputs, images.split))
    errors = calibration_on_images(loaded, outputs)
    curve, held = _confidence_results(outputs, rule, coverage)
    if json:
        source = {"data": images.source, "split": images.title, "data_changed": images.changed}
        source |= {"precision": loaded.precision, "tta": tta}
        bounds = {name: asdict(interval) for name, interval in intervals.items()}
        calibration = calibration_json(loaded.card.calibration, errors)
        found = {"model": str(bundle), **source, **evaluation.to_json(), "intervals": bounds}
        console.print_json({**found, "calibration": calibration, **uncertainty_json(curve, held)})
    else:
        print_evaluation(evaluation, images, intervals, metrics, tta)
        for line in (*measured_lines(loaded.card.calibration, errors), *coverage_lines(held)):
            console.print_text(line)
        risk_table(curve)


def _confidence_results(
    outputs: Outputs, rule: UncertaintyRule, coverage: float | None
) -> tuple[RiskCoverage | None, SetCoverage | None]:
    """The risk-coverage curve, and the coverage of prediction sets, where each image has one class."""
    from ftkit.evaluation.set_coverage import set_coverage
    from ftkit.metrics.multiclass_outputs import MulticlassOutputs
    from ftkit.uncertainty.rejection import risk_coverage

    if not isinstance(outputs, MulticlassOutputs):
        return None, None
    held = None if coverage is None else set_coverage(outputs, rule, coverage)
    return risk_coverage(outputs.confidence, outputs.right), held


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


def evaluation_images(
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


def run_config(bundle: Path) -> Resolved | None:
    from ftkit.config.load import resolve
    from ftkit.runs.model_card import read_card
    from ftkit.runs.run_lookup import run_of

    run = None if read_card(bundle).members else run_of(bundle)
    return resolve(run / "config.yaml", {}, [], {}) if run and (run / "config.yaml").is_file() else None


def _print_notes(bundle: Path, images: EvaluationData, warnings: Iterable[str], notes: Iterable[str]) -> None:
    console.note(f"model {bundle} on {images.source}: {images.title} split, {plural(len(images.split), 'image')}")
    for line in (*images.notes, *notes):
        console.note(f"note: {line}")
    if images.changed:
        console.warn(f"{images.source} has changed since the model was trained: metrics are not comparable")
    for line in warnings:
        console.warn(line)
