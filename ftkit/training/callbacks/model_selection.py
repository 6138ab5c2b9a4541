"""Which epoch is the best so far, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ftkit.metrics.selection import is_better
from ftkit.runs.averages import kept_average
from ftkit.runs.checkpoint_files import Count
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import best_record
from ftkit.training.callbacks.trainer_callback import TrainerCallback
from ftkit.training.run_context import RunContext

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.training.trainer import Trainer


def record_of_model(plan: Plan, run: RunFolder) -> dict[str, Any] | None:
    """The record of the model that a run has, as `best_record` gives it; None before the first epoch."""
    monitor = plan.config.monitor
    return best_record(run.records(), kept_average(run), monitor, plan.metrics[monitor].lower_is_better)


@dataclass(frozen=True)
class Best:
    """The best epoch: the monitored metric there, None before the first; epoch 0 is the state before training."""

    value: float | None = None
    epoch: Count = 0


@dataclass(frozen=True)
class _SavedState:
    value: float | None
    epoch: Count
    last_decision: Mapping[str, Any] = field(default_factory=dict)


class BestEpoch(TrainerCallback):
    """Finds the epoch with the best value of the monitored metric, the earliest of equals.

    Attributes:
        is_best: Whether the last epoch that ended is the best.
        last_decision: What turns the scores of the last epoch's weights into predictions.
    """

    name = "best_epoch"
    order = 100

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.best = Best()
        self.is_best = False
        self.last_decision: Mapping[str, Any] = {}

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, Any]:
        plan, selected = self.trainer.session.plan, self.trainer.validation.selected
        self.last_decision = self.trainer.validation.trained.decision
        self.is_best = is_better(selected.value, self.best.value, plan.metrics[plan.config.monitor].lower_is_better)
        if self.is_best:
            self.best = Best(selected.value, run.epoch)
        return {}

    def state_dict(self) -> Mapping[str, Any]:
        return {**asdict(self.best), "last_decision": self.last_decision}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        saved = TypeAdapter(_SavedState).validate_python(state)
        plan = self.trainer.session.plan
        plan.task.check_decision(saved.last_decision, len(plan.splits.classes))
        self.best, self.last_decision = Best(saved.value, saved.epoch), saved.last_decision


@dataclass(frozen=True)
class Patience:
    """How long early stopping has waited.

    Attributes:
        waited: Epochs without a better value since patience began to count.
        best: The best value since then, None before the first.
        epochs: Planned epochs of the run.
    """

    waited: Count
    best: float | None
    epochs: Count


class EarlyStopping(TrainerCallback):
    """Ends the run after `patience` epochs without a better value of the monitored metric.

    Each epoch is compared with those since patience began to count, not with those before: a thaw often costs accuracy
    at first, and the epochs that regain it must not count as wasted. The probe is no epoch.
    """

    name = "early_stopping"
    order = 110

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.state = Patience(0, None, trainer.session.plan.config.epochs)

    def on_epoch_end(self, run: RunContext, record: Mapping[str, Any]) -> Mapping[str, Any]:
        plan, value = self.trainer.session.plan, self.trainer.validation.selected.value
        config, state = plan.config, self.state
        assert config.patience is not None, "there is no early stopping without patience"
        if run.epoch <= plan.patience_start:
            self.state = Patience(0, None, state.epochs)
        elif is_better(value, state.best, plan.metrics[config.monitor].lower_is_better):
            self.state = Patience(0, value, state.epochs)
        else:
            self.state = Patience(state.waited + 1, state.best, state.epochs)
        if self.state.waited >= config.patience:
            run.stop()
        return {}

    def state_dict(self) -> Mapping[str, Any]:
        return asdict(self.state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        saved = TypeAdapter(Patience).validate_python(state)
        # Of a run that was extended since, patience starts anew.
        if saved.epochs == self.state.epochs:
            self.state = saved
