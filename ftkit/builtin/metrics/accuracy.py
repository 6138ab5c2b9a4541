"""Accuracy, top-5 accuracy, and subset accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftkit.api import MeanMetric, Metric, MulticlassOutputs, hookimpl

if TYPE_CHECKING:
    from ftkit.api import Array, Outputs


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"accuracy": Accuracy, "top5": TopFive, "subset_accuracy": SubsetAccuracy}


class Accuracy(MeanMetric):
    """Part of the images whose likeliest class is the true one."""

    label = "accuracy"
    needs = "predictions"

    def per_image(self, outputs: Outputs) -> Array:
        return outputs.right


class SubsetAccuracy(Accuracy):
    """Part of the images with exactly the true labels predicted."""

    label = "subset accuracy"
    tasks = ("multilabel",)


class TopFive(MeanMetric):
    """Part of the images whose true class is among the five likeliest; with five classes it would always be 1."""

    label = "top-5 accuracy"
    needs = "predictions"
    min_classes = 6

    def per_image(self, outputs: Outputs) -> Array:
        assert isinstance(outputs, MulticlassOutputs), "of no other task"
        return outputs.in_top
