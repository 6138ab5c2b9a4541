"""The probe: the head solved to its optimum on frozen features, before anything else moves.

A head drawn at random sends random gradients through a pretrained network and damages it. A solved one is
the best that the features can do as they are, so it is the start of the training and the floor of the run.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ftkit.data.loading import loader
from ftkit.data.loading.seeds import derive
from ftkit.distributed.processes import broadcast_tensor
from ftkit.errors import FtkitError, RequestError
from ftkit.evaluation.collect import CheckBatch, OnBatch, collect_outputs, evaluation_shard
from ftkit.metrics.finite_outputs import require_features

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftkit.activation_cache.feed import Feed
    from ftkit.models.compute.devices import Compute
    from ftkit.training.session import Session

FEW = 1000
"""Up to so many images strengths are compared in half decades and on repeated splits, which costs little then."""
MOST_COMPARED = 4000
"""Images that strengths are compared on; more would take long and choose the same."""
FOLDS, REPEATS = 5, 8
LONE_STRENGTH = 0.01
"""Did well on all the data that was tried."""
ITERATIONS = 1000


Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Solution:
    """A linear head.

    Attributes:
        weight: float32 `(classes, features)`.
        bias: float32 `(classes,)`.
        strength: scikit-learn's C, chosen by cross-validation.
    """

    weight: Tensor
    bias: Tensor
    strength: float


class NoProbeError(RequestError):
    """The network's head can't be solved by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, "give --no-probe, or a backbone with one linear layer as its head")


def probe_head(session: Session, feed: Feed, on_batch: OnBatch | None = None) -> Solution:
    """Solve the head on the training images as they are, and put the solution into the network.

    Every process computes the features of its share; the main one solves, and all take its solution.

    Args:
        feed: Of cached activations, where the probe uses them.
        on_batch: Called after each batch of features.

    Raises:
        NoProbeError: The network's head isn't a linear layer on features.
        FtkitError: Features aren't finite; in every process, so that none waits for another.
    """
    layer = head_layer(session.network, session.plan.backbone.head[0])
    features, labels = training_features(session, feed, layer, on_batch)
    require_features(features, session.split("train").names)
    classes, balanced = session.plan.num_classes, session.plan.config.balance != "none"
    seed = derive(session.plan.config.seed, "probe") % 2**32
    solution = Solution(torch.zeros(classes, layer.in_features), torch.zeros(classes), 0.0)
    if session.is_main:
        solution = solve(features, labels, classes, layer.bias is not None, balanced, seed)
    with torch.no_grad():
        layer.weight.copy_(broadcast_tensor(solution.weight.to(session.device)))
        if layer.bias is not None:
            layer.bias.copy_(broadcast_tensor(solution.bias.to(session.device)))
    return solution


def head_layer(network: nn.Module, name: str) -> nn.Linear:
    """The layer that the probe solves; dropout may stand before it.

    Raises:
        NoProbeError: It isn't linear.
    """
    layer = network.get_submodule(name)
    if isinstance(layer, nn.Sequential):
        layer = layer[-1]
    if not isinstance(layer, nn.Linear):
        raise NoProbeError(f"the head, {name}, is not a linear layer")
    return layer


def training_features(
    session: Session, feed: Feed, layer: nn.Linear, on_batch: OnBatch | None = None
) -> tuple[Tensor, Tensor]:
    """What the head sees of each training image, float32 `(n, features)`, and the labels `(n,)`."""
    accelerator = session.accelerator
    skip = partial(session.unreadable.readable, "train")
    if feed is not session.uncached:
        loader = feed.train_loader
        return head_inputs(feed.eval_model, layer, loader, accelerator, session.compute, on_batch, skip)
    loader = evaluation_shard(session.plan, session.split("train"), session.workers, accelerator)
    return head_inputs(session.network, layer, loader, accelerator, session.compute, on_batch, skip)


def head_inputs(
    network: nn.Module,
    layer: nn.Linear,
    loader: Iterable[Any],
    accelerator: Accelerator,
    compute: Compute,
    on_batch: OnBatch | None = None,
    skip_unreadable: CheckBatch = loader.require_readable,
) -> tuple[Tensor, Tensor]:
    """What a layer at the network's end sees of each image, float32 `(n, features)`, and the labels `(n,)`.

    Args:
        loader: This process's share of the images; every process gets all of the result.

    Raises:
        NoProbeError: The network does more with the layer's output than return it.
    """
    return collect_outputs(_Features(network, layer), loader, accelerator, compute, on_batch, skip_unreadable)


class _Features(nn.Module):
    """The network up to its head: returns the head's input instead of its output."""

    def __init__(self, network: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.network = network
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        seen: list[tuple[Tensor, Tensor]] = []
        hook = self.layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            logits = self.network(images)
        finally:
            hook.remove()
        if len(seen) != 1 or seen[0][0].ndim != 2 or not _same(seen[0][1], logits):
            raise NoProbeError("the network does more with its head's output than return it")
        return seen[0][0]


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal; what is not a number counts as equal to itself, and is told elsewhere."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def solve(
    features: Tensor, labels: Tensor, classes: int, intercept: bool = True, balanced: bool = False, seed: int = 0
) -> Solution:
    """Multinomial logistic regression, by scikit-learn, its strength chosen by cross-validation.

    Features are centred and divided by one number, their overall spread, so that a strength means the same
    for every backbone; the solution is given for the features as they were.

    Args:
        features: float32 `(n, features)`.
        labels: int64 `(n,)`, each class at least once.
        balanced: Let each class count equally.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    x, mean, spread = scaled(features, intercept)
    y = labels.numpy()
    # The matrices are small: more threads slow the solver down, and one gives the same bits on any machine.
    with threadpool_limits(limits=1):
        strength = choose_strength(x, y, intercept, balanced, seed)
        weight, bias = _by_class(_fitted(_regression(strength, intercept, balanced), x, y), classes)
    weight = weight / spread
    bias = bias - weight @ mean
    return Solution(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength)


def scaled(features: Tensor, centre: bool = True) -> tuple[Array, Array, float]:
    """Features in double precision, centred and divided by their overall spread; their mean and that spread.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    x = features.double().numpy()
    if not np.isfinite(x).all():
        raise FtkitError("the pretrained network puts out features that are not finite", "check its weights")
    # Without an intercept there is nothing to take the mean back up.
    mean, spread = (x.mean(axis=0) if centre else np.zeros(x.shape[1])), float(x.std()) or 1.0
    return (x - mean) / spread, mean, spread


def cross_validated(features: Tensor, labels: Tensor, seed: int = 0) -> tuple[float, float]:
    """Accuracy of logistic regression on features in cross-validation, and that of the nearest mean of a class.

    Args:
        features: float32 `(n, features)`.
        labels: int64 `(n,)`, each class at least twice.

    Raises:
        FtkitError: A feature isn't a finite number.
    """
    from sklearn.model_selection import StratifiedKFold

    (x, _, _), y = scaled(features), labels.numpy()
    folds = min(FOLDS, *Counter(y.tolist()).values())
    right = np.zeros(2)
    with threadpool_limits(limits=1):
        strength = choose_strength(x, y, True, False, seed)
        for seen, unseen in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            model = _fitted(_regression(strength, True, False), x[seen], y[seen])
            guesses = model.predict(x[unseen]), _nearest_mean(x[seen], y[seen], x[unseen])
            right += [(guess == y[unseen]).sum() for guess in guesses]
    probe, nearest = right / len(y)
    return float(probe), float(nearest)


def _nearest_mean(x: Array, y: Array, unseen: Array) -> Array:
    """The class whose mean is nearest to each row of `unseen`."""
    names = np.unique(y)
    means = np.stack([x[y == name].mean(axis=0) for name in names])
    # |u - m|² = |u|² - 2um + |m|², of which |u|² is the same for all means.
    guesses: Array = names[((means**2).sum(axis=1) - 2 * unseen @ means.T).argmin(axis=1)]
    return guesses


def choose_strength(x: Array, y: Array, intercept: bool, balanced: bool, seed: int) -> float:
    """The C with the best accuracy in cross-validation, of equals the strongest regularisation.

    Accuracy and not log loss: on few images the latter prefers less regularisation than new images do
    (measured on CIFAR-10 with 10 images a class: 77.4 % against 81.3 %). Where a class has a single image,
    or there are too many classes for two each, nothing can be compared, and `LONE_STRENGTH` is taken.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import RepeatedStratifiedKFold, train_test_split

    if 2 * len(np.unique(y)) > MOST_COMPARED:
        return LONE_STRENGTH
    if len(y) > MOST_COMPARED:
        x, _, y, _ = train_test_split(x, y, train_size=MOST_COMPARED, random_state=seed, stratify=y)
    folds = min(FOLDS, *Counter(y.tolist()).values())
    if folds < 2:
        return LONE_STRENGTH
    few = len(y) <= FEW
    repeats = min(REPEATS, FEW // len(y)) if few else 1
    model = LogisticRegressionCV(
        Cs=[10 ** (half / 2) for half in range(-8, 3, 1 if few else 2)],
        cv=RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed),
        scoring="balanced_accuracy" if balanced else "accuracy",
        fit_intercept=intercept,
        class_weight="balanced" if balanced else None,
        max_iter=ITERATIONS,
        refit=False,
    )
    scores = _fitted(model, x, y).scores_
    # Older versions of scikit-learn give the same array once for each class.
    by_fold = next(iter(scores.values())) if isinstance(scores, dict) else scores
    return float(model.Cs_[int(by_fold.mean(axis=0).round(6).argmax())])


def _fitted(model: Any, x: Array, y: Array) -> Any:
    """Fitted; scikit-learn's announcements of what will change some day are not the user's concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return model.fit(x, y)


def _regression(strength: float, intercept: bool, balanced: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=strength, fit_intercept=intercept, class_weight="balanced" if balanced else None, max_iter=ITERATIONS
    )


def _by_class(model: Any, classes: int) -> tuple[Array, Array]:
    """One row a class; for two classes scikit-learn gives a single one, for the second against the first."""
    weight, bias = model.coef_, np.atleast_1d(model.intercept_)
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, np.broadcast_to(bias, (classes,)).copy()
