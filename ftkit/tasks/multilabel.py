"""Any number of classes per image: sigmoid, binary cross-entropy, and a threshold for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.errors import RequestError
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import Labels, count_classes
from ftkit.parts.task import AdviceBasis, HeadFit, Task
from ftkit.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.metrics.outputs import Outputs

THRESHOLD = 0.5
"""Of the probability of a class, where none was fitted."""


SIMILAR = 0.85
"""The similarity from which the data counts as similar to the pretraining data; see `AdviceBasis`.

Measured on 2026-11-29 with two seeds, 30 to 500 images and properties of the pictured digit or object as classes. The
ResNet-20 weights of CIFAR-10: CIFAR-10 0.79 to 0.95, small digits up to 0.63. LeNet's MNIST weights: small digits 0.57
to 0.82, CIFAR-10 in grey 0.06 to 0.28. See docs/recipes.md for the mAP of each strategy: on CIFAR-10 with its own
weights none is better than the probe, elsewhere training every layer at one rate is the best.
"""

LARGE = 500
"""Images of a class, on average, from which training every layer pays on similar data.

Measured as above: with 33, 167 and 333 images of a class two rates from the probe don't improve its mAP, with 667 it
rises from 96.5 % to 96.8 %, and macro F1 from 90.9 % to 92.1 %.
"""


@hookimpl
def ftkit_tasks() -> Mapping[str, type[Task]]:
    return {"multilabel": Multilabel}


@dataclass(frozen=True)
class Multilabel(Task):
    """Each image has any number of classes.

    Attributes:
        tune_thresholds: Choose a threshold for each class by its F1 on the validation images; otherwise 0.5.
    """

    tune_thresholds: bool = True

    name = "multilabel"
    loss = "binary-cross-entropy"
    metrics = ("map", "micro_f1", "macro_f1", "subset_accuracy", "auroc", "loss")
    monitor = "map"
    accuracy = "subset accuracy"
    exclusive = False

    def check(self, splits: Splits) -> None:
        for name, split in splits.present():
            if not len(split.labels) or name == "test":
                continue
            if not count_classes(split.labels):
                raise RequestError(f"no {name} image has a label", "check the column or columns of labels")

    def targets(self, labels: Labels, classes: int) -> Tensor:
        """1 for each class of an image and 0 for the others, float32 `(n, classes)`."""
        from ftkit.data.loading.loader import label_tensor

        return label_tensor(labels, classes)

    def soft_targets(self, targets: Tensor, classes: int) -> Tensor:
        return targets

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def averaged(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Of logarithms, in which probabilities near 0 and 1 keep their digits."""
        from torch.nn.functional import logsigmoid

        shares = weights.log()[:, None, None]
        with_class, without = ((logsigmoid(each) + shares).logsumexp(dim=0) for each in (logits, -logits))
        return with_class - without

    def plain_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum") / logits.shape[1]

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether the predicted set of classes is the true one, at a threshold of 0.5."""
        return ((logits > 0) == (targets > 0.5)).all(dim=1)

    def fit_head(self, features: Tensor, targets: Tensor, classes: int, **options: Any) -> HeadFit:
        from ftkit.tasks.one_vs_rest import fit_one_vs_rest

        return fit_one_vs_rest(features, targets, classes, **options)

    def advice_basis(self, labels: Labels, classes: int) -> AdviceBasis:
        """Of the classes with at least two images, and two without."""
        counts = count_classes(labels)
        both = [count for count in counts.values() if 1 < count < len(labels) - 1]
        unmeasured = "" if both else "no class has at least two images, and two without it"
        counted = both or list(counts.values())
        # The expected average precision of a random order.
        return AdviceBasis(sum(counted) / len(counted) / len(labels), SIMILAR, LARGE, unmeasured)

    def cross_validate(self, features: Tensor, targets: Tensor, seed: int) -> tuple[float, float]:
        from ftkit.tasks.one_vs_rest import cross_validated

        return cross_validated(features, targets, seed)

    def outputs(
        self, logits: Tensor, targets: Tensor, classes: Sequence[str], decision: Mapping[str, Any] | None = None
    ) -> Outputs:
        from ftkit.metrics.multilabel_outputs import MultilabelOutputs

        return MultilabelOutputs(logits, targets.bool(), classes, thresholds_of(decision or {}, len(classes)))

    def reordered(self, targets: Tensor, places: Sequence[int]) -> Tensor:
        return targets[:, list(places)]

    def reordered_decision(self, decision: Mapping[str, Any], places: Sequence[int]) -> Mapping[str, Any]:
        thresholds = decision.get("thresholds")
        return {**decision, "thresholds": [thresholds[place] for place in places]} if thresholds else decision

    def fit_decision(self, logits: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """The threshold of each class with the best F1 on these outputs, as `thresholds`.

        A threshold lies halfway between two scores. A class without an image, or with all of them, has 0.5.
        """
        if not self.tune_thresholds:
            return {}
        from ftkit.tasks.thresholds import best_f1_thresholds

        return {"thresholds": best_f1_thresholds(logits.sigmoid(), targets.bool())}

    def averaged_decision(self, decisions: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> Mapping[str, Any]:
        """The weighted mean of the members' thresholds."""
        if not any(decision.get("thresholds") for decision in decisions):
            return {}
        columns = zip(*(thresholds_of(one, len(_first_thresholds(decisions))) for one in decisions), strict=True)
        return {"thresholds": [sum(w * t for w, t in zip(weights, column, strict=True)) for column in columns]}

    def check_decision(self, decision: Mapping[str, Any], classes: int) -> None:
        thresholds = decision.get("thresholds") or []
        is_list = isinstance(thresholds, list | tuple) and all(type(value) in (int, float) for value in thresholds)
        if not is_list or len(thresholds) not in (0, classes):
            raise RequestError(f"decision.thresholds: not a number for each of {classes} classes")

    def predicted(self, scores: Sequence[float], decision: Mapping[str, Any]) -> tuple[int, ...]:
        thresholds = thresholds_of(decision, len(scores))
        above = [label for label, (score, least) in enumerate(zip(scores, thresholds, strict=True)) if score > least]
        return tuple(sorted(above, key=lambda label: -scores[label]))


def _first_thresholds(decisions: Sequence[Mapping[str, Any]]) -> Sequence[float]:
    return next(decision["thresholds"] for decision in decisions if decision.get("thresholds"))


def thresholds_of(decision: Mapping[str, Any], classes: int) -> tuple[float, ...]:
    return tuple(decision.get("thresholds") or [THRESHOLD] * classes)
