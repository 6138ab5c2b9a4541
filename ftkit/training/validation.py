"""Validation at the end of an epoch: of the weights that train, and of other weights that callbacks bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftkit.distributed.processes import broadcast_tensor
from ftkit.errors import RequestError, plural
from ftkit.evaluation.collect import collect_outputs
from ftkit.metrics.finite_outputs import NOT_FINITE, few_names, finite_rows
from ftkit.metrics.report import Evaluation, evaluate_outputs
from ftkit.metrics.selection import is_better
from ftkit.models.parameter_groups import Modes
from ftkit.training.session import Session
from ftkit.training.stopping import signal_that_came
from ftkit.uncertainty.calibration_fit import CalibrationSample, calibration_sample

if TYPE_CHECKING:
    from ftkit.activation_cache.feed import Feed
    from ftkit.training.steppers.fsdp import Shards

TRAINED = "trained"
"""Name of the weights that the optimizer trains."""


@dataclass(frozen=True)
class Evaluated:
    """Weights and their metrics on the validation images.

    Attributes:
        name: `TRAINED`, or that of the callback that brings the weights.
        weights: A callback's weights by name in the network's state dict; empty for those that train.
        value: The monitored metric; NaN where it isn't defined.
        decision: What turns scores into predictions, fitted on the validation images.
        sample: Outputs that a calibration can be fitted on; None in other processes than the main one.
    """

    name: str
    evaluation: Evaluation
    weights: Mapping[str, Tensor]
    value: float
    decision: Mapping[str, Any]
    sample: CalibrationSample | None = field(default=None, repr=False)

    @property
    def metrics(self) -> dict[str, float | None]:
        """As a model's card has them."""
        return {f"val_{name}": value for name, value in self.evaluation.values.items()}


@dataclass(frozen=True)
class Validation:
    """The validation of an epoch.

    Attributes:
        selected: The weights with the best value of the monitored metric; of equals the first.
    """

    trained: Evaluated
    others: tuple[Evaluated, ...]
    selected: Evaluated = field(repr=False)

    def record(self) -> dict[str, float | str | None]:
        """The metrics of all weights, as the epoch's record has them."""
        found: dict[str, float | str | None] = {**self.trained.metrics}
        for each in self.others:
            found |= {f"val_{each.name}_{name}": value for name, value in each.evaluation.values.items()}
        return found | ({"selected_weights": self.selected.name} if self.others else {})


def validate(
    session: Session,
    feed: Feed,
    shards: Shards | None,
    others: Mapping[str, Mapping[str, Tensor]],
    on_batch: Callable[[], None],
    modes: Modes,
) -> Validation:
    """Evaluate the network on the validation images, in all processes.

    Args:
        others: Weights beside those that train, by name; the main process's are evaluated.
        modes: The modes of training: modules that prepare their weights for evaluation do it anew after it.
    """
    trained = _evaluated(session, feed, shards, TRAINED, {}, on_batch)
    evaluated = []
    for name, weights in others.items():
        evaluated.append(evaluate_weights(session, feed, shards, name, weights, on_batch, modes))
    selected, lower = trained, session.plan.metrics[session.plan.config.monitor].lower_is_better
    for each in evaluated:
        if is_better(each.value, selected.value, lower):
            selected = each
    return Validation(trained, tuple(evaluated), selected)


def evaluate_weights(
    session: Session,
    feed: Feed,
    shards: Shards | None,
    name: str,
    weights: Mapping[str, Tensor],
    on_batch: Callable[[], None],
    modes: Modes,
) -> Evaluated:
    """Evaluate other weights than the network's own, which it has again afterwards; it is left in eval mode.

    Args:
        weights: The main process's are evaluated.
        on_batch: Called once the network has its own weights again, if a signal has come; it must end the run then.
            Other args are those of `validate`.
    """

    def stop() -> None:
        if signal_that_came(session):
            raise _SignalCame

    with suppress(_SignalCame):
        try:
            with holding(session.network, {key: broadcast_tensor(value) for key, value in weights.items()}):
                modes.apply()
                return _evaluated(session, feed, shards, name, weights, stop)
        finally:
            modes.apply()
            session.network.eval()
    on_batch()
    raise AssertionError("on_batch ends the run after a signal")


class _SignalCame(Exception):
    """A signal has come while the network has other weights than its own, which no checkpoint may have."""


def _evaluated(
    session: Session,
    feed: Feed,
    shards: Shards | None,
    name: str,
    weights: Mapping[str, Tensor],
    on_batch: Callable[[], None],
) -> Evaluated:
    with shards.whole() if shards is not None else nullcontext():
        logits, labels = collect_outputs(
            feed.eval_model,
            feed.val_loader,
            session.accelerator,
            session.evaluation,
            lambda _: on_batch(),
            lambda batch: session.unreadable.readable("val", batch),
        )
    _note_not_finite(session, logits, "" if name == TRAINED else f" with the weights of {name}")
    plan = session.plan
    evaluation = evaluate_outputs(plan.task.outputs(logits, labels, plan.splits.classes), plan.metrics)
    # make_plan refuses to monitor a metric that the data doesn't have; None is one of outputs that aren't finite.
    value = evaluation.values[plan.config.monitor]
    decision = plan.task.fit_decision(logits, labels) if finite_rows(logits).all() else {}
    sample = calibration_sample(logits, labels) if session.is_main else None
    return Evaluated(name, evaluation, weights, math.nan if value is None else value, decision, sample)


def _note_not_finite(session: Session, logits: Tensor, which: str) -> None:
    """Report validation images whose outputs aren't finite: they count as wrong, and the epoch has no loss."""
    wrong = (~finite_rows(logits)).nonzero().flatten().tolist()
    if wrong:
        names = session.split("val").names
        images = f": {few_names(wrong, names)}" if len(names) == len(logits) else ""
        session.listener.note(
            f"{NOT_FINITE}{which} for {len(wrong):,} of {plural(len(logits), 'validation image')}{images}"
        )


@contextmanager
def holding(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give some of a network's tensors other values meanwhile.

    Raises:
        RequestError: The network has no tensor of such a name and shape.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    wrong = next((n for n, v in values.items() if n not in tensors or tensors[n].shape != v.shape), None)
    if wrong is not None:
        raise RequestError(f"the network has no tensor {wrong!r} of shape {tuple(values[wrong].shape)}")
    own = {name: tensors[name].detach().clone() for name in values}
    try:
        _put(tensors, values)
        yield
    finally:
        _put(tensors, own)


@torch.no_grad()
def _put(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        tensors[name].copy_(value)
