"""A task: what the labels of an image are, and how the outputs of a model become predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftkit.errors import RequestError
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import Labels, count_classes

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.metrics.outputs import Outputs


def class_counts(labels: Labels, classes: int) -> list[int]:
    """The number of images of each class; an image with several labels counts for each of them."""
    counts = count_classes(labels)
    return [counts[label] for label in range(classes)]


@dataclass(frozen=True)
class HeadFit:
    """A linear head fitted on features.

    Attributes:
        weight: float32 `(classes, features)`.
        bias: float32 `(classes,)`.
        strength: The inverse regularisation strength, scikit-learn's `C`, chosen by cross-validation.
    """

    weight: Tensor
    bias: Tensor
    strength: float


@dataclass(frozen=True)
class AdviceBasis:
    """What recommendations for a task depend on, apart from the features of the images.

    Attributes:
        chance: The value of the task's `monitor` for predictions that ignore the images, below 1.
        similar: The similarity from which pretrained features count as fitting the data: 0 for chance, 1 for features
            by which `cross_validate` makes no error.
        large: The mean number of training images of a class from which training every layer is worth it, if the
            features fit.
        unmeasured: Why these labels don't permit cross-validation; empty if they do.
    """

    chance: float
    similar: float
    large: int
    unmeasured: str = ""


class Task(ABC):
    """The meaning of labels and outputs. Subclasses are frozen dataclasses; fields are options.

    Nothing else in ftkit depends on whether a target is one class or several.

    Attributes:
        name: What metrics and losses list in their `tasks`.
        loss: The loss by default, by its registered name.
        metrics: The metrics of each evaluation, by their registered names.
        monitor: The metric that selects the best epoch by default.
        accuracy: What the share of rightly predicted images is called, as `correct` defines them.
        exclusive: Whether an image has exactly one class.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    name: ClassVar[str]
    loss: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    monitor: ClassVar[str]
    accuracy: ClassVar[str] = "accuracy"
    exclusive: ClassVar[bool] = True

    @abstractmethod
    def check(self, splits: Splits) -> None:
        """Refuse labels that the task isn't for.

        Raises:
            RequestError: Names the first such sample, and the task that its labels are for.
        """

    @abstractmethod
    def targets(self, labels: Labels, classes: int) -> Tensor:
        """The labels of `n` images as a tensor, with `n` as its first dimension."""

    @abstractmethod
    def soft_targets(self, targets: Tensor, classes: int) -> Tensor:
        """Targets of a batch as a probability for each class, float32 `(b, classes)`."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """The probability of each class, `(b, classes)`, of logits of the same shape."""

    def averaged(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Logits `(b, classes)` whose `scores` are the weighted mean of the scores of several logits.

        By default the logarithm of the mean where an image has exactly one class, and else its log-odds.

        Args:
            logits: `(k, b, classes)`, of `k` views or models.
            weights: `(k,)`, positive, with the sum 1.
        """
        import torch

        mean = (torch.stack([self.scores(one) for one in logits]) * weights[:, None, None]).sum(dim=0)
        return mean.log() if self.exclusive else mean.logit()

    @abstractmethod
    def plain_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum over a batch of what the metric `loss` averages; a scalar, for the training loss of an epoch.

        Args:
            targets: The result of `targets`, of `soft_targets`, or of batch transforms.
        """

    @abstractmethod
    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether each prediction is right, bool `(b,)`, for the training accuracy of an epoch; args as above."""

    @abstractmethod
    def fit_head(self, features: Tensor, targets: Tensor, classes: int, **options: Any) -> HeadFit:
        """Logistic regression on features float32 `(n, features)`: the probe.

        Args:
            options: `intercept`, whether the head has a bias; `balanced`, whether each class counts equally; `seed`.
        """

    def advice_basis(self, labels: Labels, classes: int) -> AdviceBasis | None:
        """What `ftkit advise` and strategy `auto` go by; None if they aren't for this task.

        Args:
            labels: Of the training images.
        """
        return None

    def cross_validate(self, features: Tensor, targets: Tensor, seed: int) -> tuple[float, float]:
        """How well features separate the classes: `monitor` of logistic regression and of the nearest class mean.

        Both are measured in cross-validation. Tasks with an `advice_basis` implement it.

        Args:
            features: float32 `(n, features)`.
            targets: As `targets` gives them.
        """
        raise NotImplementedError

    @abstractmethod
    def outputs(
        self, logits: Tensor, targets: Tensor, classes: Sequence[str], decision: Mapping[str, Any] | None = None
    ) -> Outputs:
        """What metrics are computed from.

        Args:
            logits: `(n, classes)`, on the CPU.
            targets: The result of `targets`.
            classes: Names in label order.
            decision: The result of `fit_decision`; None for the default.
        """

    @abstractmethod
    def reordered(self, targets: Tensor, places: Sequence[int]) -> Tensor:
        """The targets where class `i` is the one that was at `places[i]`."""

    def reordered_decision(self, decision: Mapping[str, Any], places: Sequence[int]) -> Mapping[str, Any]:
        """The decision for classes in that order."""
        return decision

    def fit_decision(self, logits: Tensor, targets: Tensor) -> Mapping[str, Any]:
        """What turns scores into predictions, fitted on validation outputs; JSON values, stored with the model."""
        return {}

    def check_decision(self, decision: Mapping[str, Any], classes: int) -> None:  # noqa: B027
        """Refuse a decision, read from a model's card, that `fit_decision` can't have given.

        Raises:
            RequestError: Names the invalid value.
        """

    def averaged_decision(self, decisions: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> Mapping[str, Any]:
        """The decision of an ensemble, of those of its members; by default they must be equal.

        Args:
            weights: Of the members, positive, with the sum 1.

        Raises:
            RequestError: The decisions can't be combined.
        """
        if any(one != decisions[0] for one in decisions):
            raise RequestError(f"the models of task {self.name} decide in different ways, which can't be combined")
        return decisions[0]

    @abstractmethod
    def predicted(self, scores: Sequence[float], decision: Mapping[str, Any]) -> tuple[int, ...]:
        """The classes that an image is predicted to have, by descending score.

        Args:
            scores: The probability of each class.
            decision: The result of `fit_decision`; empty for the default.
        """
