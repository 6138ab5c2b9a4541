"""The callbacks of a run: the trainer's own, and those of the config."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from ftkit.parts.callback import Callback
from ftkit.planning.run_plan import Plan
from ftkit.training.callbacks.checkpointing import Checkpointing
from ftkit.training.callbacks.model_selection import BestEpoch, EarlyStopping
from ftkit.training.callbacks.nan_guard import NanGuard, SkipNonFinite
from ftkit.training.callbacks.plugin_events import PluginEvents
from ftkit.training.callbacks.reporter import Reporter
from ftkit.training.callbacks.trackers import Trackers
from ftkit.training.callbacks.trainer_callback import Callbacks, TrainerCallback
from ftkit.training.callbacks.weight_averaging import WeightAveraging
from ftkit.training.callbacks.weight_drift import WeightDrift

if TYPE_CHECKING:
    from ftkit.training.trainer import Trainer


def make_callbacks(trainer: Trainer) -> tuple[BestEpoch, Callbacks]:
    """The callback that finds the best epoch, and all callbacks of a run."""
    session = trainer.session
    config, best = session.plan.config, BestEpoch(trainer)
    own: list[TrainerCallback] = [
        SkipNonFinite(trainer) if config.on_nan == "skip" else NanGuard(trainer),
        best,
        WeightDrift(trainer),
        Checkpointing(trainer),
        Reporter(trainer),
    ]
    if config.patience is not None:
        own.append(EarlyStopping(trainer))
    if session.plan.averaging is not None:
        own.append(WeightAveraging(trainer, session.plan.averaging))
    if session.is_main:
        own += [Trackers(trainer), PluginEvents(trainer)]
    return best, Callbacks(own, _chosen(session.plan))


def _chosen(plan: Plan) -> dict[str, Callback]:
    """The callbacks of the config by name; the second of one name is `NAME 2`."""
    found: dict[str, Callback] = {}
    for choice, callback in zip(plan.config.callbacks, plan.callbacks, strict=True):
        count = sum(name.partition(" ")[0] == choice.name for name in found)
        # A plan may be trained more than once, and each run has callbacks of its own.
        found[f"{choice.name} {count + 1}" if count else choice.name] = deepcopy(callback)
    return found
