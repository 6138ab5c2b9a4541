"""The kinds of parts that plugins bring by name: one row a kind, with its hook and its interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftkit.parts.backbone import Backbone
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import Dataset
from ftkit.parts.exporter import Exporter
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Metric
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.random_transforms import BatchTransform, ImageTransform
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        name: The singular, as messages have it: `batch transform`.
        plural: The name in commands, hooks and attributes of the registry: `batch_transforms`.
        is_valid: Whether a value is of the kind.
    """

    name: str
    plural: str
    is_valid: Callable[[object], bool]

    @property
    def hook(self) -> str:
        return f"ftkit_{self.plural}"


def _is_class_of(base: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, type) and issubclass(value, base)


def _is_a(base: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, base)


KINDS: Mapping[str, Kind] = {
    kind.plural: kind
    for kind in (
        Kind("backbone", "backbones", _is_a(Backbone)),
        Kind("dataset", "datasets", _is_class_of(Dataset)),
        Kind("strategy", "strategies", _is_class_of(Strategy)),
        Kind("task", "tasks", _is_class_of(Task)),
        Kind("metric", "metrics", _is_class_of(Metric)),
        Kind("loss", "losses", _is_class_of(Loss)),
        Kind("optimizer", "optimizers", _is_class_of(Optimizer)),
        Kind("curve", "curves", _is_class_of(Curve)),
        Kind("image transform", "image_transforms", _is_class_of(ImageTransform)),
        Kind("batch transform", "batch_transforms", _is_class_of(BatchTransform)),
        Kind("callback", "callbacks", _is_class_of(Callback)),
        Kind("exporter", "exporters", _is_class_of(Exporter)),
        Kind("model", "models", _is_a(Path)),
    )
}
"""By plural. Of most kinds plugins bring classes, whose fields are options; of some, values."""
