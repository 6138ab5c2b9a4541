"""Averages of weights: evaluated when a run ends, and kept as its model where they are better than each epoch.

Where the first weights are pretrained, weights between them and the last ones (WiSE-FT, Wortsman et al., 2022) and the
mean of those of several epochs (model soups, Wortsman et al., 2022) usually lie in one basin with both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ftkit.files.durable import replace_file
from ftkit.files.json_text import replace_nonfinite
from ftkit.files.tensor_files import open_tensors
from ftkit.metrics.selection import is_better
from ftkit.models.parameter_groups import Modes, modes_of
from ftkit.models.weights.interpolation import interpolate
from ftkit.planning.averaging import LEAST, Averaging
from ftkit.runs.averages import Average, encode_averages, kept_average
from ftkit.runs.model_card import WEIGHTS
from ftkit.training.callbacks.checkpointing import VALIDATION, make_card, save_model
from ftkit.training.callbacks.model_selection import Best
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.run_calibration import calibrated_card
from ftkit.training.run_context import RunContext
from ftkit.training.validation import Evaluated, evaluate_weights, holding

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer


class WeightAveraging(TrainerCallback):
    """Evaluates averages of weights on the validation split, and keeps the best as the model.

    It must be better than the best epoch by the monitored metric; of equal averages it is the one with the lowest
    loss. Averaged are the parameters of the layer groups that train, and buffers such as BatchNorm's statistics.
    """

    name = "weight_averaging"
    order = 150

    def __init__(self, trainer: Trainer, averaging: Averaging) -> None:
        super().__init__(trainer)
        plan = trainer.session.plan
        self._averaging = averaging
        self._monitor = plan.config.monitor
        self._lower = plan.metrics[self._monitor].lower_is_better
        self._first_buffers: dict[str, Tensor] = {}
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    def on_run_start(self, run: RunContext) -> None:
        """Keep the first buffers; an average that was kept before the run was extended counts as its best epoch."""
        if not self.trainer.resumed:
            self._first_buffers = {name: buffer.clone() for name, buffer in self._buffers().items()}
            return
        session, earlier = self.trainer.session, kept_average(self.trainer.session.run)
        if earlier is None or session.progress.ended or run.epoch == session.plan.config.epochs:
            return
        value = earlier.value(self._monitor)
        if earlier.epochs[-1] <= run.epoch and value is not None and self._is_better(value):
            self.trainer.best.best = Best(value, earlier.epochs[-1])

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the weights of one of the last epochs to their mean, which the main process keeps."""
        if run.epoch not in self._averaging.epochs:
            return {}
        self._count += 1
        if run.is_main:
            for name, tensor in self._tensors(run.trainable).items():
                mean = self._mean.setdefault(name, tensor.clone())
                mean.lerp_(tensor, 1 / self._count)
        return {}

    def on_run_end(self, run: RunContext) -> None:
        """Evaluate each average, and write the best as the model and all into `averages.json`."""
        session, best = self.trainer.session, self.trainer.best.best
        earlier = kept_average(session.run)
        modes = self.trainer.active.modes if self.trainer.active else modes_of(session.network)
        found = [(average, self._evaluate(average, modes)) for average in self._candidates(run.epoch)]
        chosen = min((one for one in found if self._is_better(one[1].value)), key=self._rank, default=None)
        averages = [replace(one[0], metrics=replace_nonfinite(one[1].metrics), kept=one is chosen) for one in found]
        if chosen is not None:
            self._save(*chosen)
        elif earlier is not None and (earlier.value(self._monitor), earlier.epochs[-1]) == (best.value, best.epoch):
            averages.insert(0, earlier)
        if run.is_main and (averages or earlier is not None):
            replace_file(session.run.averages, encode_averages(averages))
        self.trainer.call("on_averages", averages)

    def state_dict(self) -> Mapping[str, Any]:
        start = self._averaging.epochs.start
        return {"start": start, "count": self._count, "mean": self._mean, "first_buffers": self._first_buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first_buffers = self._checked(state["first_buffers"])
        mean, count = self._checked(state["mean"]), int(state["count"])
        # In a run that was extended since, the last epochs are others.
        if state["start"] == self._averaging.epochs.start:
            self._count, self._mean = count, mean if self.trainer.session.is_main else {}

    def _candidates(self, epoch: int) -> Iterator[Average]:
        """The averages of a run that has ended after an epoch."""
        if self.trainer.session.run.records()[0]["epoch"] == 0:
            yield from (Average((0, epoch), share) for share in self._averaging.shares)
        if self._count >= LEAST:
            yield Average(tuple(range(epoch - self._count + 1, epoch + 1)))

    def _evaluate(self, average: Average, modes: Modes) -> Evaluated:
        """The metrics of an average. Cached activations are of the last phase: they hold if no other layers trained."""
        trainer, (groups, of_phase) = self.trainer, self._trained_groups(average.epochs[-1])
        feed = trainer.feed if average.share is None or groups <= of_phase else trainer.session.uncached
        weights, name = self._weights(average), average.describe()
        return evaluate_weights(trainer.session, feed, trainer.shards, name, weights, trainer.stop_if_asked, modes)

    def _is_better(self, value: float) -> bool:
        return math.isfinite(value) and is_better(value, self.trainer.best.best.value, self._lower)

    def _rank(self, one: tuple[Average, Evaluated]) -> tuple[float, float]:
        """The best average has the lowest: by the monitored metric, then by the loss."""
        value, loss = one[1].value, one[1].evaluation.values.get("loss")
        return value if self._lower else -value, math.inf if loss is None else loss

    def _save(self, average: Average, evaluated: Evaluated) -> None:
        session = self.trainer.session
        if session.is_main:
            epoch = average.epochs[-1]
            card = make_card(session, evaluated.metrics, epoch, evaluated.decision, average.facts)
            card = calibrated_card(session.plan, card, evaluated.sample, VALIDATION)
            with holding(session.network, self._weights(average)):
                save_model(session, session.network, session.run.model, card)

    def _weights(self, average: Average) -> Mapping[str, Tensor]:
        """The tensors that an average changes; other processes than the main one have others of the same shapes."""
        groups, of_phase = self._trained_groups(average.epochs[-1])
        last = self._tensors(of_phase if average.share is None else groups)
        if not self.trainer.session.is_main:
            return last
        if average.share is None:
            return self._mean
        return interpolate(self._first(last), last, average.share)

    def _trained_groups(self, epoch: int) -> tuple[Set[str], Set[str]]:
        """The layer groups that have trained in any epoch up to this one, and those that did in the last phase."""
        schedule = self.trainer.session.plan.schedule
        phases = [phase for phase in schedule.phases if phase.start < epoch]
        return frozenset().union(*(phase.trainable for phase in phases)), phases[-1].trainable

    def _first(self, last: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first values of tensors; those of parameters are read from the disk."""
        with open_tensors(self.trainer.session.run.first / WEIGHTS) as file:
            return {
                name: (self._first_buffers[name] if name in self._first_buffers else file.get_tensor(name)).to(
                    tensor.device
                )
                for name, tensor in last.items()
            }

    def _tensors(self, groups: Set[str]) -> dict[str, Tensor]:
        """The parameters of layer groups, and buffers, as they are now."""
        session = self.trainer.session
        parameters = dict(session.network.named_parameters())
        names = [name for group in session.built.members if group in groups for name in session.built.members[group]]
        return {name: parameters[name].detach() for name in names} | self._buffers()

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers that a model has, in floating point."""
        network = self.trainer.session.network
        saved = network.state_dict().keys()
        return {
            name: buffer for name, buffer in network.named_buffers() if name in saved and buffer.is_floating_point()
        }

    def _checked(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint, on the device.

        Raises:
            ValueError: The network has no tensor of such a name and shape.
        """
        known = self._tensors(self.trainer.session.built.members.keys())
        for name, value in values.items():
            if name not in known or known[name].shape != value.shape:
                raise ValueError(f"weight_averaging has a tensor {name!r} that the network doesn't have")
        return {name: torch.empty_like(known[name]).copy_(value) for name, value in values.items()}
