"""The contract of a metric: one number, the same in any order of the images, better for better outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ftkit.api import Metric, MulticlassOutputs, MultilabelOutputs, UndefinedMetricError
from ftkit.testing.contract import require

if TYPE_CHECKING:
    from torch import Tensor

    from ftkit.api import Outputs

IMAGES, CLASSES = 60, 7
RESAMPLES = 4
TOLERANCE = 1e-6
TASKS = {"multiclass": MulticlassOutputs, "multilabel": MultilabelOutputs}


def check_metric(metric: Metric) -> None:
    """Check a metric for each of its tasks.

    Raises:
        ContractError: It has no label or an unknown task; its value isn't a finite float where it is defined, differs
            in a second call, depends on the order of the images, or isn't better for right predictions than for wrong
            ones; its resamples have another shape or value; or it fails for targets that lack a class.
    """
    require(bool(getattr(metric, "label", "")), "it has no label", "set `label`, its name in tables")
    unknown = [task for task in metric.tasks if task not in TASKS]
    require(bool(metric.tasks) and not unknown, f"its tasks are {metric.tasks}", f"choose from {', '.join(TASKS)}")
    for task in metric.tasks:
        right, wrong = _outputs(task, 1.0), _outputs(task, -1.0)
        value = _value(metric, right)
        _check_order(metric, right, value)
        other = _value(metric, wrong)
        better = value < other if metric.lower_is_better else value > other
        require(better, f"for task {task} it is {value:g} for right and {other:g} for wrong predictions", DIRECTION)
        _check_resampler(metric, right, value)
        _check_missing_class(metric, task)
        if metric.needs == "predictions":
            _value(metric, _outputs(task, 1.0, broken=True))


DIRECTION = "check `lower_is_better`"


def _value(metric: Metric, outputs: Outputs) -> float:
    """The value for outputs on which the metric must be defined."""
    where = f"for task {outputs.task}"
    reason = metric.undefined(outputs.support.tolist(), len(outputs), outputs.classes)
    require(reason == "", f"{where} it is undefined although all classes have images: {reason}")
    value, again = metric.value(outputs), metric.value(outputs)
    number = isinstance(value, float) and math.isfinite(value)
    require(number, f"{where} its value is {value!r}, not a finite float", "convert it by float()")
    require(value == again, f"{where} its value differs in a second call: {value!r}, {again!r}")
    return value


def _check_order(metric: Metric, outputs: Outputs, value: float) -> None:
    import numpy as np

    shuffled = outputs.take(np.random.default_rng(0).permutation(len(outputs)))
    found = metric.value(shuffled)
    same = math.isclose(found, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    require(same, f"for task {outputs.task} its value depends on the order of the images: {value!r}, {found!r}")


def _check_resampler(metric: Metric, outputs: Outputs, value: float) -> None:
    import numpy as np

    counts = np.ones((RESAMPLES, len(outputs)))
    counts[1:] = np.random.default_rng(0).multinomial(len(outputs), [1 / len(outputs)] * len(outputs), RESAMPLES - 1)
    found = metric.resampler(outputs)(counts)
    shape = np.shape(found)
    require(shape == (RESAMPLES,), f"its resampler returns shape {shape} for {RESAMPLES} resamples")
    same = math.isclose(found[0], value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    require(same, f"its resampler gives {found[0]:g} for all images once, and its value is {value:g}")
    for number in range(1, RESAMPLES):
        taken = outputs.take(np.repeat(np.arange(len(outputs)), counts[number].astype(int)))
        if metric.undefined(taken.support.tolist(), len(taken), taken.classes):
            continue
        expected = metric.value(taken)
        same = math.isclose(found[number], expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        require(same, f"its resampler gives {found[number]:g} for a resample whose value is {expected:g}")


def _check_missing_class(metric: Metric, task: str) -> None:
    """Where a class has no images, a metric has a value or gives the reason why not."""
    import numpy as np

    outputs = _outputs(task, 1.0)
    in_last = outputs.targets[:, -1] if outputs.targets.ndim > 1 else outputs.targets == CLASSES - 1
    taken = outputs.take(np.flatnonzero(~in_last))
    reason = metric.undefined(taken.support.tolist(), len(taken), taken.classes)
    require(isinstance(reason, str), f"undefined() returned {type(reason).__name__}, not a text")
    if reason:
        return
    try:
        value = metric.value(taken)
    except UndefinedMetricError:
        return
    require(math.isfinite(value), f"for task {task} its value is {value} if a class has no images", MISSING)


MISSING = "return the reason from `undefined`, or raise UndefinedMetricError"


def _outputs(task: str, sign: float, broken: bool = False) -> Outputs:
    """Outputs for images of all classes, whose noisy logits are mostly right, or with `sign` -1 mostly wrong.

    Args:
        broken: Make the outputs for one image NaN.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    targets: Tensor
    if task == "multilabel":
        targets = torch.rand(IMAGES, CLASSES, generator=generator) < 0.4
        hard = targets
    else:
        targets = torch.arange(IMAGES) % CLASSES
        hard = torch.nn.functional.one_hot(targets, CLASSES)
    logits = sign * 6.0 * (hard.float() - 0.5) + torch.randn(IMAGES, CLASSES, generator=generator)
    if broken:
        logits[3] = torch.nan
    outputs: Outputs = TASKS[task](logits, targets, [f"class {number}" for number in range(CLASSES)])
    return outputs
