"""Evaluates a model, and the slices of the images, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ftkit.activation_cache.cache_reader import Note, ignore_note
from ftkit.builtin.datasets.csv_columns import find_columns
from ftkit.builtin.datasets.csv_file import CsvFile
from ftkit.errors import unknown
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.evaluation.evaluator import ComputeOptions, bundle_outputs
from ftkit.evaluation.slicing.groupings import Grouping, by_value
from ftkit.evaluation.slicing.image_properties import CLUSTER, PROPERTIES, logits_and_groupings
from ftkit.evaluation.slicing.slices import MINIMUM
from ftkit.files.cache_folder import CacheStore
from ftkit.metrics.finite_outputs import finite_rows, require_finite
from ftkit.metrics.outputs import Outputs
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Dataset


@dataclass(frozen=True)
class SliceRequest:
    """What to slice by.

    Attributes:
        by: Columns of the table and properties of the images; empty for all.
        minimum: Fewest images of a slice.
    """

    by: tuple[str, ...] = ()
    minimum: int = MINIMUM


def sliced_outputs(
    loaded: Loaded,
    images: EvaluationData,
    request: SliceRequest,
    options: ComputeOptions,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> tuple[Outputs, list[Grouping]]:
    """The outputs of a model, and groups of the images.

    Raises:
        RequestError: A column or property is unknown.
        FtkitError: An image can't be read.
    """
    columns, wanted = _chosen(request, images.dataset, bool(loaded.members))
    groupings = list(_columns(images, columns))
    if not wanted:
        return bundle_outputs(loaded, images, options, store, tell), groupings
    logits, measured = logits_and_groupings(loaded, images.split, options, wanted, store)
    groupings += measured
    if images.outputs is not None:
        return bundle_outputs(loaded, images, options), groupings
    require_finite(finite_rows(logits), images.split.names)
    targets = loaded.task.targets(images.split.labels, len(loaded.card.classes))
    return loaded.task.outputs(logits, targets, loaded.card.classes, loaded.card.applied_decision), groupings


def _chosen(request: SliceRequest, dataset: Dataset | None, is_ensemble: bool) -> tuple[list[str], list[str]]:
    """The columns and the properties that are wanted. A column goes before a property of the same name."""
    there = further_columns(dataset)
    if not request.by:
        return there, [name for name in PROPERTIES if not (name == CLUSTER and is_ensemble) and name not in there]
    for name in request.by:
        if name not in there and name not in PROPERTIES:
            raise unknown("column or property", name, [*there, *PROPERTIES], "--slice-by")
    wanted = list(dict.fromkeys(request.by))
    return [name for name in wanted if name in there], [name for name in wanted if name not in there]


def further_columns(dataset: Dataset | None) -> list[str]:
    """The columns of a CSV file that say more about an image than its path, labels and split."""
    if not isinstance(dataset, CsvFile):
        return []
    header = dataset.header()
    columns = find_columns(dataset, header, dataset.path)
    used = {columns.image, columns.label, columns.split, *columns.classes.values()}
    return [name for place, name in enumerate(header) if place not in used and name]


def _columns(images: EvaluationData, names: Sequence[str]) -> Iterator[Grouping]:
    for name in names:
        assert isinstance(images.dataset, CsvFile), "only these have columns"
        values = images.dataset.column(name) or {}
        yield by_value(name, [values.get(image, "") for image in images.split.names])
