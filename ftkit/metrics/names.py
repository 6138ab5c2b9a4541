"""The metrics that runs are judged by: what people call them, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ftkit.errors import RequestError


@dataclass(frozen=True)
class MetricInfo:
    """One metric of a split.

    Attributes:
        label: As text for people has it.
        lower: Whether lower is better.
    """

    label: str
    lower: bool = False


METRICS: Mapping[str, MetricInfo] = {
    "accuracy": MetricInfo("accuracy"),
    "top5": MetricInfo("top-5 accuracy"),
    "macro_f1": MetricInfo("macro F1"),
    "weighted_f1": MetricInfo("weighted F1"),
    "auroc": MetricInfo("AUROC"),
    "calibration_error": MetricInfo("calibration error", lower=True),
    "loss": MetricInfo("loss", lower=True),
}
"""By the names that `--monitor` takes."""

NOT_FINITE = "the model's outputs are not finite"
"""Why an image has no prediction, where its probabilities would not be numbers."""

TOP = 5
"""SplitOutputs that top-5 accuracy looks at; with no more classes than that it is always 1."""


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value of a metric beats the best so far; what isn't a finite number is beaten by anything."""
    # Records hold null for NaN and infinities alike, so that a resumed run must not tell them apart.
    if best is None or not math.isfinite(best):
        return True
    return value < best if METRICS[metric].lower else value > best


def no_auroc(labels: Iterable[int], classes: Sequence[str]) -> str:
    """Why these labels have no AUROC: a class without an image, or with all of them; empty where they have one."""
    found = set(labels)
    if len(found) == 1:
        return f"all images are of class {classes[found.pop()]!r}"
    missing = [name for label, name in enumerate(classes) if label not in found]
    more = f", nor of {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"no image is of class {missing[0]!r}{more}" if missing else ""


def check_monitor(metric: str, labels: Iterable[int], classes: Sequence[str], where: str) -> None:
    """Refuse to choose epochs by a metric that the validation images don't have.

    Args:
        labels: Of the validation images.
        where: How messages call the setting.

    Raises:
        RequestError: Top-5 of five classes or fewer, or AUROC where a class has no curve.
    """
    if metric == "top5" and len(classes) <= TOP:
        raise RequestError(
            f"{where}: top5 of {len(classes)} classes says nothing: it wants more than {TOP}",
            "give --monitor accuracy, or another one of the metrics",
        )
    reason = no_auroc(labels, classes) if metric == "auroc" else ""
    if reason:
        raise RequestError(
            f"{where}: auroc wants images of every class to validate on, but {reason}",
            "add such images, or give --monitor macro_f1",
        )
