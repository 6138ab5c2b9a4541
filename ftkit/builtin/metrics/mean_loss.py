"""The loss, as a metric: without label smoothing and class weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftkit.api import MeanMetric, Metric, UndefinedMetricError, hookimpl, plural

if TYPE_CHECKING:
    from ftkit.api import Array, Outputs


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"loss": Loss}


class Loss(MeanMetric):
    """Mean cross entropy; with several labels per image, mean binary cross entropy."""

    label = "loss"
    lower_is_better = True
    tasks = ("multiclass", "multilabel")

    def per_image(self, outputs: Outputs) -> Array:
        return outputs.losses

    def value(self, outputs: Outputs) -> float:
        import numpy as np

        impossible = int(np.isinf(outputs.losses).sum())
        if impossible:
            raise UndefinedMetricError(f"the true class of {plural(impossible, 'image')} has the probability 0")
        return super().value(outputs)
