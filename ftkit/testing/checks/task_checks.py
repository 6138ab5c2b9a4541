"""The contract of a task: targets, scores, predictions and outputs of the same labels agree."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ftkit.api import HeadFit, LabelSets, Outputs, RequestError, Split, Splits, Task
from ftkit.testing.contract import ContractError, require, require_frozen_dataclass, require_picklable
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ftkit.parts.label_sets import Labels

CLASSES, FEATURES = 4, 6
NAMES = tuple(f"class {number}" for number in range(CLASSES))
IMAGES = 24
SINGLE = [number % CLASSES for number in range(IMAGES)]
SETS = [{n % CLASSES, (n + 1) % CLASSES} if n % 3 else {n % CLASSES} for n in range(IMAGES)]
PLACES = (2, 0, 3, 1)
TOLERANCE = 1e-5


def check_task(task: Task) -> None:
    """Check a task instance on generated labels: class indices, or sets of them, whichever it accepts.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; a class attribute is
            missing; it refuses both kinds of labels; shapes or values of targets, scores or the fitted head are wrong;
            or predictions, outputs, averages or reordered targets don't agree with each other.
    """
    import torch

    require_frozen_dataclass(task)
    require_picklable(task)
    for attribute in ("name", "loss", "metrics", "monitor"):
        require(bool(getattr(task, attribute, "")), f"it has no {attribute}", f"set the class attribute {attribute}")
    require(task.monitor in task.metrics, f"its monitor, {task.monitor}, is not one of its metrics")
    labels = _accepted(task)
    targets = task.targets(labels, CLASSES)
    require(len(targets) == len(labels), f"targets() gives {len(targets)} targets for {len(labels)} images")
    with seeded(0):
        logits = torch.randn(len(labels), CLASSES)
        _check_scores(task, logits, targets)
        _check_averages(task, logits)
        _check_predictions(task, logits, targets)
        _check_order(task, targets)
        _check_head(task, targets)


def _accepted(task: Task) -> Labels:
    errors = list[RequestError]()
    kinds: tuple[Labels, ...] = (SINGLE, LabelSets(SETS, CLASSES))
    for labels in kinds:
        split = Split([str(number) for number in range(IMAGES)], labels, _unopened)
        try:
            task.check(Splits(NAMES, split, split))
        except RequestError as error:
            errors.append(error)
        else:
            return labels
    raise ContractError(f"it refuses class indices and sets of them: {errors[0].message}; {errors[1].message}")


def _unopened(index: int) -> Image:
    raise NotImplementedError("a task has no need of images")


def _check_scores(task: Task, logits: Tensor, targets: Tensor) -> None:
    import torch

    soft, scores = task.soft_targets(targets, CLASSES), task.scores(logits)
    for what, values in (("soft targets", soft), ("scores", scores)):
        require(tuple(values.shape) == tuple(logits.shape), f"its {what} have shape {tuple(values.shape)}")
        require(values.is_floating_point(), f"its {what} are {values.dtype}")
        require(bool(((values >= 0) & (values <= 1)).all()), f"its {what} are not from 0 to 1")
    correct = task.correct(logits, targets)
    valid = correct.dtype == torch.bool and tuple(correct.shape) == (len(logits),)
    require(valid, f"correct() gives {correct.dtype} {tuple(correct.shape)}, not bool ({len(logits)},)")


def _check_averages(task: Task, logits: Tensor) -> None:
    """The mean of the probabilities of several views or models, as logits."""
    import torch

    weights, several = torch.tensor([0.5, 0.3, 0.2]), torch.stack([logits, logits.flip(0), -2 * logits])
    expected = sum(float(weight) * task.scores(one) for weight, one in zip(weights, several, strict=True))
    found = task.scores(task.averaged(several, weights))
    require(found.shape == logits.shape, f"the scores of averaged() have shape {tuple(found.shape)}")
    close = torch.allclose(found, torch.as_tensor(expected), atol=TOLERANCE)
    require(close, "the scores of averaged() are not the weighted mean of the scores")


def _check_predictions(task: Task, logits: Tensor, targets: Tensor) -> None:
    """Single predictions agree with the outputs that metrics use, with the default and with a fitted decision."""
    import numpy as np

    fitted = task.fit_decision(logits, targets)
    try:
        restored = json.loads(json.dumps(dict(fitted), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ContractError(f"fit_decision() returned {fitted!r:.100}, which isn't JSON: {error}") from error
    decisions: tuple[dict[str, Any], ...] = ({}, restored)
    for decision in decisions:
        outputs = task.outputs(logits, targets, NAMES, decision or None)
        require(isinstance(outputs, Outputs), f"outputs() returned {type(outputs).__name__}")
        require(len(outputs) == len(logits), f"its outputs have {len(outputs)} images, not {len(logits)}")
        scores = task.scores(logits.double()).numpy()
        close = outputs.scores.shape == scores.shape and np.allclose(outputs.scores, scores, atol=TOLERANCE)
        require(close, "the scores of its outputs differ from scores()")
        total = float(outputs.losses.sum())
        for values in (targets, task.soft_targets(targets, CLASSES)):
            loss = float(task.plain_loss(logits, values))
            require(abs(loss - total) <= TOLERANCE * abs(total) + TOLERANCE, f"plain_loss() is {loss:g}, not {total:g}")
        for number, row in enumerate(scores.tolist()):
            single = outputs.predicted[number]
            expected = set(np.flatnonzero(single).tolist()) if np.ndim(single) else {int(single)}
            found = task.predicted(row, decision)
            require(set(found) == expected, f"predicted() gives {found}, and its outputs predict {sorted(expected)}")


def _check_order(task: Task, targets: Tensor) -> None:
    import torch

    moved = task.soft_targets(task.reordered(targets, PLACES), CLASSES)
    expected = task.soft_targets(targets, CLASSES)[:, list(PLACES)]
    require(torch.equal(moved, expected), "reordered() doesn't move class places[i] to i")


def _check_head(task: Task, targets: Tensor) -> None:
    import torch

    features = torch.randn(len(targets), FEATURES)
    for intercept in (True, False):
        head = task.fit_head(features, targets, CLASSES, intercept=intercept, balanced=False, seed=0)
        require(isinstance(head, HeadFit), f"fit_head() returned {type(head).__name__}")
        shapes = tuple(head.weight.shape), tuple(head.bias.shape)
        require(shapes == ((CLASSES, FEATURES), (CLASSES,)), f"the shapes of its head are {shapes}")
        finite = bool(head.weight.isfinite().all()) and bool(head.bias.isfinite().all())
        require(finite, "its head has values that are not finite")
