"""A metric: one number that evaluates a model's outputs for a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ftkit.metrics.outputs import Rows


class Metric(ABC):
    """Evaluates the outputs for a split. Subclasses are frozen dataclasses; fields are options.

    Attributes:
        label: The metric's name in tables, such as `top-5 accuracy`.
        lower_is_better: Whether a smaller value is better.
        tasks: Names of the tasks that it is defined for.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    label: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = ("multiclass",)

    def undefined(self, targets: Sequence[object], classes: Sequence[str]) -> str:
        """Why the metric has no value on such targets, in one clause; empty where it has one.

        It is asked before a run that monitors the metric, and before each evaluation.
        """
        return ""

    @abstractmethod
    def value(self, outputs: Rows) -> float:
        """The metric over all images of `outputs`; NaN where it has no value."""
