"""The flags of `ftkit evaluate` on slices, and the slices that they request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.output import console
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.evaluation.evaluation_data import EvaluationData
    from ftkit.evaluation.evaluator import ComputeOptions
    from ftkit.evaluation.slicing.slices import Slices
    from ftkit.files.cache_folder import CacheStore
    from ftkit.metrics.outputs import Outputs
    from ftkit.models.bundle import Loaded
    from ftkit.parts.metric import Metric

Slicing = Annotated[
    bool, typer.Option("--slices", help="Compare parts of the images: by column, size, brightness, cluster and more.")
]
SliceBy = Annotated[
    list[str] | None,
    typer.Option(
        "--slice-by",
        metavar="NAME",
        help="Slice by one column or property: size, aspect-ratio, brightness, sharpness, cluster; may be repeated.",
    ),
]
MinSlice = Annotated[
    int | None, typer.Option("--min-slice", metavar="N", min=2, help="Fewest images of a slice; by default 20.")
]


@dataclass(frozen=True)
class SliceFlags:
    """What to slice by, and the fewest images of a slice; see `SliceRequest`."""

    by: tuple[str, ...]
    minimum: int | None


def slice_flags(slices: bool, by: Sequence[str], minimum: int | None, cache: bool | None) -> SliceFlags | None:
    """The flags; None where no slices are requested.

    Raises:
        RequestError: A flag has no effect.
    """
    if not slices and not by:
        if minimum is not None:
            raise RequestError("--min-slice has no effect without --slices", "add --slices, or drop --min-slice")
        return None
    if cache and not by:
        raise RequestError("--cache has no effect with --slices: the images are read", "drop one of them")
    return SliceFlags(tuple(by), minimum)


def outputs_and_slices(
    loaded: Loaded,
    images: EvaluationData,
    options: ComputeOptions,
    store: CacheStore | None,
    metric: tuple[str, Metric],
    flags: SliceFlags | None,
) -> tuple[Outputs, Slices | None]:
    """The outputs of a model, and the slices by a metric, which is given with its name."""
    from ftkit.evaluation.evaluator import bundle_outputs
    from ftkit.evaluation.slicing.sliced_evaluation import SliceRequest, sliced_outputs
    from ftkit.evaluation.slicing.slices import MINIMUM, find_slices

    if flags is None:
        return bundle_outputs(loaded, images, options, store, console.note), None
    request = SliceRequest(flags.by, MINIMUM if flags.minimum is None else flags.minimum)
    outputs, groupings = sliced_outputs(loaded, images, request, options, store, console.note)
    return outputs, find_slices(outputs, *metric, groupings, request.minimum)
