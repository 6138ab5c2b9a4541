"""One class per image: softmax, cross-entropy, and the likeliest class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.errors import RequestError
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import Labels
from ftkit.parts.task import HeadFit, Task
from ftkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.metrics.outputs import Outputs


@hookimpl
def ftkit_tasks() -> Mapping[str, type[Task]]:
    return {"multiclass": Multiclass}


@dataclass(frozen=True)
class Multiclass(Task):
    """Each image has one class."""

    name = "multiclass"
    loss = "cross-entropy"
    metrics = ("accuracy", "top5", "macro_f1", "weighted_f1", "auroc", "calibration_error", "loss")
    monitor = "accuracy"

    def check(self, splits: Splits) -> None:
        for split_name, split in splits.present():
            if split.multilabel:
                raise RequestError(
                    f"the {split_name} images may have several labels each, and task multiclass takes one",
                    "give --task multilabel",
                )

    def targets(self, labels: Labels, classes: int) -> Tensor:
        """Class indices, int64 `(n,)`."""
        from ftkit.data.loading.loader import label_tensor

        return label_tensor(labels)

    def soft_targets(self, targets: Tensor, classes: int) -> Tensor:
        from torch.nn.functional import one_hot

        return one_hot(targets, classes).float()

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def plain_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction="sum")

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the likeliest class is the true one; of mixed images, the one with the largest share."""
        return logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))

    def fit_head(self, features: Tensor, targets: Tensor, classes: int, **options: Any) -> HeadFit:
        from ftkit.tasks.head_fit import fit_multinomial

        return fit_multinomial(features, targets, classes, **options)

    def outputs(
        self, logits: Tensor, targets: Tensor, classes: Sequence[str], decision: Mapping[str, Any] | None = None
    ) -> Outputs:
        from ftkit.metrics.multiclass_outputs import MulticlassOutputs

        return MulticlassOutputs(logits, targets, classes)

    def reordered(self, targets: Tensor, places: Sequence[int]) -> Tensor:
        import torch

        return torch.tensor(places).argsort()[targets]

    def predicted(self, scores: Sequence[float], decision: Mapping[str, Any]) -> tuple[int, ...]:
        return (max(range(len(scores)), key=scores.__getitem__),)
