"""The results of a sweep's trials, as the study has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ftkit.experiments.sweeps.search_space import Point
from ftkit.experiments.sweeps.study_storage import OpenStudy
from ftkit.experiments.sweeps.sweep_claims import MACHINE, counted, run_of
from ftkit.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

State = Literal["finished", "pruned", "failed", "running"]


@dataclass(frozen=True)
class TrialFacts:
    """A trial as the study has it.

    Attributes:
        value: The best value of the monitored metric; None without one.
        epochs: Epochs done; None while it runs.
        seconds: Time of its epochs.
        reason: Why it was pruned or has failed.
        config: The config of its run, as JSON values.
    """

    number: int
    state: State
    values: Point
    value: float | None
    epochs: int | None
    seconds: float | None
    machine: str
    run: RunFolder
    reason: str
    config: Mapping[str, Any] | None


def trial_facts(opened: OpenStudy) -> list[TrialFacts]:
    """The trials of a study by number."""
    return [_facts(trial) for trial in counted(opened)]


def best_of(opened: OpenStudy, trials: Sequence[TrialFacts]) -> TrialFacts | None:
    """The finished trial with the best value, the first of equals."""
    finished = [one for one in trials if one.state == "finished" and one.value is not None]
    sign = 1 if is_lower_better(opened.study) else -1
    return min(finished, key=lambda one: (sign * (one.value or 0.0), one.number), default=None)


def is_lower_better(study: Study) -> bool:
    return bool(study.direction.name == "MINIMIZE")


def _facts(trial: FrozenTrial) -> TrialFacts:
    states: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    attributes = trial.user_attrs
    value = attributes.get("value")
    return TrialFacts(
        number=trial.number,
        state=states.get(trial.state.name, "running"),
        values={key: _text(value) for key, value in trial.params.items()},
        value=float(value) if value is not None else None,
        epochs=attributes.get("epochs"),
        seconds=attributes.get("seconds"),
        machine=str(attributes.get(MACHINE, "")),
        run=run_of(trial),
        reason=str(attributes.get("reason", "")),
        config=attributes.get("config"),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)
