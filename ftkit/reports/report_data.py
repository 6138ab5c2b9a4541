"""What the sections of a run's report are made of, read and computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.evaluation.slicing.slices import Slices
from ftkit.metrics.bootstrap import Interval
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.report import Evaluation
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Splits
from ftkit.parts.metric import Metric
from ftkit.reports.section import Omitted
from ftkit.reports.thumbnails import Thumbnails
from ftkit.runs.model_card import ModelCard
from ftkit.runs.run_summary import RunSummary
from ftkit.uncertainty.calibration import CalibrationErrors


@dataclass(frozen=True)
class Evaluated:
    """The run's model, evaluated on a split as `ftkit evaluate` does.

    Attributes:
        model: The model that was evaluated.
        images: The images and their labels.
        metrics: The metrics of `evaluation`, by name.
        precision: Numeric precision of the outputs.
        calibration: The calibration error on these images, with and without the model's calibration; None where the
            task has none, or outputs aren't finite.
        slices: The metric that selects the best epoch on parts of the images, or why there are none.
    """

    model: Loaded = field(repr=False)
    images: EvaluationData
    outputs: Outputs
    evaluation: Evaluation
    intervals: Mapping[str, Interval]
    metrics: Mapping[str, Metric]
    precision: str
    calibration: CalibrationErrors | None
    slices: Slices | Omitted


@dataclass(frozen=True)
class ReportData:
    """A run, as the sections of its report take it.

    Attributes:
        card: The card of the run's model; None before there is one.
        evaluated: Or why the model isn't evaluated.
        splits: The run's images; None where they can't be read.
        notes: Lines on the images, such as the number of files left out.
        thumbnails: Makes the pictures of all sections, within one limit of bytes.
    """

    summary: RunSummary
    card: ModelCard | None
    evaluated: Evaluated | Omitted
    splits: Splits | None = field(repr=False)
    notes: tuple[str, ...]
    thumbnails: Thumbnails = field(repr=False)
