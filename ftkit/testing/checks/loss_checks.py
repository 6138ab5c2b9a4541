"""The contract of a loss: one finite, differentiable value for each image, which depends on that image alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftkit.api import Loss
from ftkit.testing.contract import require, require_frozen_dataclass, require_picklable

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, CLASSES = 12, 5
SCALES = (1.0, 30.0)
"""Sizes of the logits."""
SMOOTHING = (0.0, 0.1)
TOLERANCE = 1e-5
"""Relative and absolute tolerance of comparisons."""


def check_loss(loss: Loss) -> None:
    """Check a loss instance for each of its tasks.

    Raises:
        ContractError: The class isn't a frozen dataclass, or its instance can't be pickled; losses have another shape,
            or aren't finite; the gradient is missing or not finite; class indices and one-hot targets give different
            losses; the loss of an image depends on the other images; or right logits have no smaller loss than wrong
            ones.
    """
    require_frozen_dataclass(loss)
    require(bool(loss.tasks), "it has no tasks", "list their names in `tasks`")
    counts = [IMAGES // CLASSES] * CLASSES
    fitted = loss.fitted(counts, sum(counts))
    require(isinstance(fitted, Loss), f"fitted() returned {type(fitted).__name__}, not a loss")
    copy = require_picklable(fitted)
    for task in loss.tasks:
        for scale in SCALES:
            for smoothing in SMOOTHING:
                _check_values(fitted, copy, task, scale, smoothing)
        _check_direction(fitted, task)


def _check_values(loss: Loss, copy: Loss, task: str, scale: float, smoothing: float) -> None:
    import torch

    where = f"for task {task}"
    logits, targets = _batch(task)
    logits = (logits * scale).requires_grad_()
    losses = loss.per_image(logits, targets, smoothing)
    require(tuple(losses.shape) == (IMAGES,), f"{where} its losses have shape {tuple(losses.shape)}, not ({IMAGES},)")
    require(losses.is_floating_point(), f"{where} its losses are {losses.dtype}")
    require(bool(losses.isfinite().all()), f"{where} its losses are not finite for logits of {scale:g}")
    _check_gradient(where, losses.sum(), logits)
    _require_close(
        where,
        "its sum by `total` differs from that of `per_image`",
        loss.total(logits, targets, smoothing),
        losses.sum(),
    )
    _require_close(where, "it differs after pickling", copy.per_image(logits, targets, smoothing), losses)
    some = torch.tensor([3, 0, 7])
    alone = loss.per_image(logits[some], targets[some], smoothing)
    _require_close(where, "the loss of an image depends on the other images", alone, losses[some])
    if not targets.is_floating_point():
        soft = torch.nn.functional.one_hot(targets, CLASSES).to(torch.float32)
        _require_close(where, "one-hot targets give another loss", loss.per_image(logits, soft, smoothing), losses)


def _check_gradient(where: str, total: Tensor, logits: Tensor) -> None:
    import torch

    require(total.requires_grad, f"{where} its losses have no gradient", "compute them with torch, without detach()")
    (gradient,) = torch.autograd.grad(total, logits, retain_graph=True)
    require(bool(gradient.isfinite().all()), f"{where} its gradient is not finite")
    require(bool(gradient.any()), f"{where} its gradient is 0")


def _check_direction(loss: Loss, task: str) -> None:
    """Logits of the right classes have a smaller loss than their opposite."""
    import torch

    _, targets = _batch(task)
    hard = targets if targets.is_floating_point() else torch.nn.functional.one_hot(targets, CLASSES)
    right = 4.0 * (2 * hard - 1).to(torch.float32)
    better, worse = loss.per_image(right, targets).mean(), loss.per_image(-right, targets).mean()
    require(bool(better < worse), f"for task {task} right logits have no smaller loss than wrong ones")


def _require_close(where: str, message: str, found: Tensor, expected: Tensor) -> None:
    import torch

    close = found.shape == expected.shape and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    require(close, f"{where} {message}")


def _batch(task: str) -> tuple[Tensor, Tensor]:
    """Logits, and targets as training gives them: class indices, or for several labels per image 0 and 1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES, generator=generator)
    if task == "multilabel":
        return logits, (torch.rand(IMAGES, CLASSES, generator=generator) < 0.5).to(torch.float32)
    return logits, torch.arange(IMAGES) % CLASSES
