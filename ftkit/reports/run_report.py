"""The report of a run: one HTML file with its results, its training, its data and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ftkit.activation_cache.cache_reader import store_of
from ftkit.config.load import Resolved, resolve
from ftkit.errors import FtkitError, RequestError
from ftkit.evaluation.calibration_on_images import calibration_on_images
from ftkit.evaluation.evaluation_data import EvaluationData, split_of_run
from ftkit.evaluation.evaluator import ComputeOptions, bundle_outputs, evaluate_with_intervals
from ftkit.evaluation.slicing.sliced_evaluation import SliceRequest, sliced_outputs
from ftkit.evaluation.slicing.slices import Slices, find_slices
from ftkit.files.cache_folder import CacheStore
from ftkit.files.durable import replace_file
from ftkit.files.folder_swap import current_folder
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.selection import run_metrics
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.parts.dataset import SplitName, Splits
from ftkit.parts.metric import Metric
from ftkit.planning.run_data.run_splits import splits_of_run
from ftkit.reports.page import page
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted
from ftkit.reports.section_table import SECTIONS
from ftkit.reports.sections.settings.run_title import run_header
from ftkit.reports.thumbnails import Thumbnails
from ftkit.runs.model_card import CARD, ModelCard, read_card
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import summarize


@dataclass(frozen=True)
class RunInputs:
    """A run's config and images, loaded.

    Attributes:
        notes: Lines on the images.
        model: Loads the run's model; by default as `ComputeOptions` say.
    """

    resolved: Resolved
    splits: Splits
    notes: tuple[str, ...]
    model: Callable[[], Loaded] | None = None


MOST_SLICED = 5000
"""Most images whose size, brightness, sharpness and features a report measures."""
Warn = Callable[[str], None]


def write_report(
    run: Path,
    to: Path | None = None,
    split: SplitName | None = None,
    options: ComputeOptions | None = None,
    warn: Warn = lambda line: None,
    inputs: RunInputs | None = None,
) -> Path:
    """Write the report of a run.

    Args:
        run: The run folder; the run may be under way.
        to: The file, which is replaced; by default `report.html` in the run folder.
        split: The split that the model is evaluated on; by default test, else val, as in `ftkit evaluate`.
        options: Where and how to compute.
        warn: Called with a line on what the report lacks.
        inputs: The run's config and images, where they have been loaded already.

    Returns:
        The file.

    Raises:
        RequestError: The folder isn't a run's, or the run has no such split.
        FtkitError: The file can't be written.
    """
    data = read_report_data(run, split, options or ComputeOptions(), inputs)
    if isinstance(data.evaluated, Omitted):
        warn(f"the report has no results: {data.evaluated.reason}")
    target = to or RunFolder(run).report
    replace_file(target, page(f"{run.resolve().name}: report", run_header(data), data, SECTIONS).encode())
    return target


def read_report_data(
    run: Path, split: SplitName | None, options: ComputeOptions, inputs: RunInputs | None = None
) -> ReportData:
    """Read a run's folder and its images, and evaluate its model; args and errors as in `write_report`."""
    summary = summarize(run)
    bundle = current_folder(summary.run.model)
    card = read_card(bundle) if (bundle / CARD).is_file() else None
    lacking = "is missing" if summary.state == "finished" else "isn't there yet: the run has no model"
    evaluated: Evaluated | Omitted = Omitted(f"{bundle / CARD} {lacking}")
    try:
        inputs = inputs or _inputs(summary.run)
    except FtkitError as error:
        evaluated = Omitted(f"its images can't be read: {error.message}")
    else:
        if card is not None:
            evaluated = _evaluated(bundle, card, split, options, inputs)
    if split is not None and isinstance(evaluated, Omitted):
        raise RequestError(f"--split {split}: {evaluated.reason}")
    splits, notes = (None, ()) if inputs is None else (inputs.splits, inputs.notes)
    value_range = card.preprocessing.value_range if card else None
    return ReportData(summary, card, evaluated, splits, notes, Thumbnails(value_range))


def _inputs(run: RunFolder) -> RunInputs:
    resolved = resolve(run.config, {}, [], {})
    return RunInputs(resolved, *splits_of_run(resolved))


def _evaluated(
    bundle: Path,
    card: ModelCard,
    split: SplitName | None,
    options: ComputeOptions,
    inputs: RunInputs,
) -> Evaluated | Omitted:
    """The model's results on a split of the run's own images, or why there are none."""
    resolved = inputs.resolved
    try:
        images = split_of_run(resolved, card, split, bundle.parent, (inputs.splits, inputs.notes))
        load = inputs.model or partial(load_bundle, bundle, options.device, options.precision, resolved.registry)
        model = load()
        metrics = run_metrics(resolved, model.task, len(card.classes))
        store = store_of(resolved.config.cache) if options.cache else None
        outputs, slices = _outputs_and_slices(model, images, options, store, metrics, resolved.config.monitor)
        evaluation, intervals = evaluate_with_intervals(outputs, metrics)
        errors = calibration_on_images(model, outputs) if outputs.finite.all() else None
    except FtkitError as error:
        if isinstance(error, RequestError) and split is not None:
            raise
        return Omitted(error.message)
    return Evaluated(model, images, outputs, evaluation, intervals, metrics, model.precision, errors, slices)


def _outputs_and_slices(
    model: Loaded,
    images: EvaluationData,
    options: ComputeOptions,
    store: CacheStore | None,
    metrics: Mapping[str, Metric],
    monitor: str,
) -> tuple[Outputs, Slices | Omitted]:
    """The outputs of the model, and the slices where there are few enough images to measure these."""
    many = len(images.split)
    if many > MOST_SLICED:
        reason = f"{many:,} images aren't measured for a report; ftkit evaluate --slices does it"
        return bundle_outputs(model, images, options, store), Omitted(reason)
    outputs, groupings = sliced_outputs(model, images, SliceRequest(), options, store)
    if not outputs.finite.all():
        return outputs, Omitted("some outputs aren't finite")
    return outputs, find_slices(outputs, monitor, metrics[monitor], groupings)
