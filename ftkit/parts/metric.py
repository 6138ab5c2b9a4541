"""A metric: one number that evaluates a model's outputs for a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from ftkit.metrics.outputs import Outputs

Array: TypeAlias = "np.ndarray[Any, Any]"
Resampler: TypeAlias = "Callable[[Array], Array]"
"""From counts of images, float64 `(resamples, n)`, to the metric on each resample, float64 `(resamples,)`."""


class UndefinedMetricError(Exception):
    """Raised by `Metric.value` where the metric has no value; the message gives the reason in one clause."""


class Metric(ABC):
    """Evaluates the outputs for a split. Subclasses may be frozen dataclasses, whose fields are options with defaults.

    The value must follow from the outputs alone: each process of a run computes it for itself, and all must agree.

    Attributes:
        label: The metric's name in tables, such as `top-5 accuracy`.
        lower_is_better: Whether a smaller value is better.
        tasks: Names of the tasks that it is defined for.
        min_classes: The fewest classes for which the value depends on the model. With fewer, it is not computed.
        needs: `scores` for a metric that is undefined where the outputs for an image are not finite; `predictions`
            for one that counts such an image as a wrong prediction.
        resampled: Whether `ftkit evaluate` gives a bootstrap interval. `ftkit compare` always does.
    """

    label: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)
    min_classes: ClassVar[int] = 1
    needs: ClassVar[Literal["scores", "predictions"]] = "scores"
    resampled: ClassVar[bool] = True

    def undefined(self, support: Sequence[int], images: int, classes: Sequence[str]) -> str:
        """Why the metric has no value for such targets, in one clause; empty where it has one.

        It is called before a run that records the metric, and before each evaluation.

        Args:
            support: Number of images of each class.
            images: Number of images.
            classes: Names of the classes, in the same order.
        """
        return ""

    @abstractmethod
    def value(self, outputs: Outputs) -> float:
        """The metric over all images of `outputs`.

        Raises:
            UndefinedMetricError: It has no value for these outputs.
        """

    def resampler(self, outputs: Outputs) -> Resampler:
        """A function from resamples to the metric on each, NaN where it has no value.

        A resample is given as the number of times that each image is drawn. By default the images are repeated and
        `value` is called for each resample; a metric that can be computed from sums over images is faster here.
        """
        import numpy as np

        def value(count: Array) -> float:
            taken = outputs.take(np.repeat(np.arange(len(count)), count.astype(np.int64)))
            if self.undefined(taken.support.tolist(), len(taken), taken.classes):
                return np.nan
            try:
                return self.value(taken)
            except UndefinedMetricError:
                return np.nan

        return lambda counts: np.array([value(count) for count in counts])


class MeanMetric(Metric):
    """A metric that is a mean over images. Its intervals are computed for all resamples at once."""

    @abstractmethod
    def per_image(self, outputs: Outputs) -> Array:
        """The value of each image, `(n,)`: numbers, or bools for a rate, which gets Wilson's interval."""

    def value(self, outputs: Outputs) -> float:
        return float(self.per_image(outputs).mean())

    def resampler(self, outputs: Outputs) -> Resampler:
        values = self.per_image(outputs).astype(float)
        return lambda counts: counts @ values / len(values)
