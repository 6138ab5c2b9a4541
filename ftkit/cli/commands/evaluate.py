"""`ftkit evaluate`: metrics of a model on labelled images, overall and by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.commands.predict import ByClass, Coverage, SetsMethod, model_folder
from ftkit.cli.flags import dataset_at
from ftkit.cli.options import (
    DeviceChoice,
    Json,
    PrecisionChoice,
    RunsFolder,
    TtaChoice,
    complete_names,
    project_registry,
)
from ftkit.cli.output import console
from ftkit.cli.output.evaluating.calibration_lines import calibration_json, measured_lines
from ftkit.cli.output.evaluating.evaluation_tables import print_evaluation
from ftkit.cli.output.evaluating.mistake_files import mistakes_target
from ftkit.cli.output.evaluating.uncertainty_tables import coverage_lines, risk_table, uncertainty_json
from ftkit.cli.slicing.slice_options import MinSlice, SliceBy, Slicing, outputs_and_slices, slice_flags
from ftkit.cli.slicing.slice_table import print_slices, slices_json
from ftkit.config.choices import AUTO
from ftkit.errors import RequestError, plural
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.evaluation.set_coverage import SetCoverage
    from ftkit.evaluation.slicing.slices import Slices
    from ftkit.inference.uncertain_predictions import Uncertainty, UncertaintyRule
    from ftkit.metrics.bootstrap import Interval
    from ftkit.metrics.outputs import Outputs
    from ftkit.metrics.report import Evaluation
    from ftkit.models.bundle import Loaded
    from ftkit.parts.metric import Metric
    from ftkit.transforms.view_choices import Tta
    from ftkit.uncertainty.calibration import CalibrationErrors
    from ftkit.uncertainty.rejection import RiskCoverage
    from ftkit.uncertainty.set_methods import SetMethod

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
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    workers: Workers = None,
    cache: Cached = None,
    tta: TtaChoice = "none",
    mistakes: Mistakes = None,
    coverage: Coverage = None,
    set_method: SetsMethod = None,
    by_class: ByClass = False,
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
    if coverage is not None or set_method is not None or by_class:
        from ftkit.inference.uncertain_predictions import check_values

        check_values(_uncertainty(coverage, set_method, by_class), "--")  # Before the model is loaded.
    bundle = model_folder(model, output)
    resolved = run_config(bundle)
    images = evaluation_images(bundle, data, sets or [], split, resolved)
    from ftkit.activation_cache.cache_reader import store_of
    from ftkit.config.schema import Cache
    from ftkit.evaluation.calibration_on_images import calibration_on_images
    from ftkit.evaluation.evaluator import ComputeOptions, evaluate_with_intervals
    from ftkit.inference.uncertain_predictions import uncertainty_rule
    from ftkit.models.bundle import load_bundle

    loaded = load_bundle(bundle, device, precision, resolved.registry if resolved else None)
    metrics = _metrics(resolved, loaded, metric or [])
    rule = uncertainty_rule(_uncertainty(coverage, set_method, by_class), bundle, loaded.card, loaded.task.exclusive)
    _print_notes(bundle, images, loaded.notes, rule.notes)
    options = ComputeOptions(threads=None if workers is None else max(1, workers), batch_size=batch_size, tta=tta)
    store = store_of(resolved.config.cache if resolved else Cache()) if cache in (None, True) else None
    outputs, slices_found = outputs_and_slices(
        loaded, images, options, store, _monitored(resolved, loaded, metrics), wanted
    )
    if target is not None:
        console.note(target.write(outputs, images.split))
    evaluation, intervals = evaluate_with_intervals(outputs, metrics)
    errors, (curve, held) = calibration_on_images(loaded, outputs), _confidence_results(outputs, rule, coverage)
    results = _Results(loaded, images, metrics, evaluation, intervals, errors, curve, held, slices_found)
    if json:
        console.print_json({"model": str(bundle), **results.to_json(tta)})
    else:
        results.show(tta)


def _uncertainty(coverage: float | None, sets: SetMethod | None, by_class: bool) -> Uncertainty:
    from ftkit.inference.uncertain_predictions import Uncertainty

    return Uncertainty(coverage, sets, by_class)


@dataclass(frozen=True)
class _Results:
    """What an evaluation has found, as it is printed."""

    loaded: Loaded
    images: EvaluationData
    metrics: Mapping[str, Metric]
    evaluation: Evaluation
    intervals: Mapping[str, Interval]
    errors: CalibrationErrors | None
    curve: RiskCoverage | None
    sets: SetCoverage | None
    slices: Slices | None

    def to_json(self, tta: Tta) -> dict[str, Any]:
        images = self.images
        found = {"data": images.source, "split": images.title, "data_changed": images.changed}
        found |= {"precision": self.loaded.precision, "tta": tta, **self.evaluation.to_json()}
        found |= {"intervals": {name: asdict(interval) for name, interval in self.intervals.items()}}
        found |= {"calibration": calibration_json(self.loaded.card.calibration, self.errors)}
        found |= uncertainty_json(self.curve, self.sets)
        return found if self.slices is None else {**found, "slices": slices_json(self.slices, images.split.names)}

    def show(self, tta: Tta) -> None:
        print_evaluation(self.evaluation, self.images, self.intervals, self.metrics, tta)
        for line in (
            *measured_lines(self.loaded.card.calibration, self.errors, self.evaluation.images),
            *coverage_lines(self.sets),
        ):
            console.print_text(line)
        risk_table(self.curve, self.evaluation.images)
        if self.slices is not None:
            print_slices(self.slices, self.metrics[self.slices.metric].label, self.images.split.names)


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


def _monitored(resolved: Resolved | None, loaded: Loaded, metrics: Mapping[str, Metric]) -> tuple[str, Metric]:
    """The metric that selects the best epoch of the model's run."""
    chosen = loaded.task.monitor if resolved is None or resolved.config.monitor == AUTO else resolved.config.monitor
    return chosen, metrics[chosen]


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
