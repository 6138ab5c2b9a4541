"""What a search for a recipe has tried, in `search.json`. Needs no torch.

The file is written after each training. An interrupted search takes the same decisions from it again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist, fmean, stdev
from typing import Any

from ftkit.errors import RequestError
from ftkit.metrics.selection import is_better_or_equal_with_lower_loss
from ftkit.runs.run_folder import RunFolder

Z = NormalDist().inv_cdf(0.975)
"""Standard errors to each side in a 95 % interval."""


@dataclass(frozen=True)
class Score:
    """The monitored metric and the mean loss on validation images.

    Attributes:
        loss: None where it isn't finite, which is the worst.
        value: The metric; None where it is undefined.
        interval: Bounds of its 95 % interval over images; None where it has none.
        hits: `1` or `0` for each image, where the metric is a rate of images, such as accuracy; kept for the last score
            of a recipe.
    """

    value: float | None
    loss: float | None
    interval: tuple[float, float] | None = None
    hits: str = ""

    def is_better(self, other: Score, lower_is_better: bool) -> bool:
        """Whether it is better by the metric, or of equal metrics has the lower loss."""
        ours, theirs = ((one.value, math.inf if one.loss is None else one.loss) for one in (self, other))
        return is_better_or_equal_with_lower_loss(ours, theirs, lower_is_better)

    def is_clearly_better(self, other: Score, lower_is_better: bool) -> bool:
        """Whether the difference of both is larger than chance allows, by a 95 % interval.

        Rates of the same images are compared image by image, other metrics by whether their own intervals are apart.
        """
        gain = self._gain(other, lower_is_better)
        if gain is not None:
            return gain > Z
        if self.interval is None or other.interval is None:
            return False
        low, high = (self, other) if lower_is_better else (other, self)
        assert low.interval is not None, "both have one"
        assert high.interval is not None, "both have one"
        return low.interval[1] < high.interval[0]

    def gains_an_error(self, other: Score, lower_is_better: bool) -> bool:
        """Whether it is better, and by more than a standard error where both are rates of the same images."""
        gain = self._gain(other, lower_is_better)
        return self.is_better(other, lower_is_better) if gain is None else gain > 1

    def _gain(self, other: Score, lower_is_better: bool) -> float | None:
        """The difference to another score, in standard errors; None unless both are rates of the same images."""
        if len(self.hits) < 2 or len(self.hits) != len(other.hits):
            return None
        differences = [int(one) - int(two) for one, two in zip(self.hits, other.hits, strict=True)]
        mean = fmean(differences) * (-1 if lower_is_better else 1)
        error = stdev(differences) / math.sqrt(len(differences))
        return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


@dataclass(frozen=True)
class RecipeTrial:
    """A recipe that was tried.

    Attributes:
        name: The recipe's name, and that of its run folder.
        changes: What it changes in the config of the run, by dotted key; empty for the config as it is.
        scores: The score on the validation images of the first fold, of the first two, and so on; one score without
            folds.
        seconds: The time of each training.
        verdict: Why it isn't trained any further; empty while it may win.
    """

    name: str
    changes: Mapping[str, Any]
    scores: tuple[Score, ...] = ()
    seconds: tuple[float, ...] = ()
    verdict: str = ""

    @property
    def trained(self) -> int:
        """Number of folds that it was trained on."""
        return len(self.scores)

    @property
    def changes_text(self) -> str:
        """What it changes, as `key value, key value`; empty for the config as it is."""
        found = []
        for key, value in self.changes.items():
            parts = value if isinstance(value, list) else [value]
            found += [f"{key} {_part_text(part)}" for part in parts]
        return ", ".join(found)

    def is_better(self, other: RecipeTrial, lower_is_better: bool) -> bool:
        """Whether its score is better on the images of the folds that both were trained on."""
        common = min(self.trained, other.trained)
        return common > 0 and self.scores[common - 1].is_better(other.scores[common - 1], lower_is_better)

    def with_score(self, score: Score, seconds: float) -> RecipeTrial:
        """The trial after one more training."""
        earlier = (replace(one, hits="") for one in self.scores)
        return replace(self, scores=(*earlier, score), seconds=(*self.seconds, round(seconds, 3)))


@dataclass(frozen=True)
class RecipeSearch:
    """The state of a search.

    Attributes:
        budget: Seconds to spend; None for a race, which ends when one recipe is left or all folds are used.
        folds: Number of folds; 1 for a validation split.
        samples: Config keys that limit the images of each trial, and their values; the winner is then trained on all.
        monitor: Name of the metric that chooses.
        fixed: Config keys that no recipe changes, because the user has set them.
        trials: In the order in which they were begun.
        winner: Name of the recipe that the run became; empty until it is chosen.
        reason: Why the search ended; empty until then.
    """

    budget: float | None
    folds: int
    monitor: str
    lower_is_better: bool
    fixed: tuple[str, ...] = ()
    trials: tuple[RecipeTrial, ...] = ()
    winner: str = ""
    reason: str = ""
    samples: Mapping[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Seconds of all trainings."""
        return sum(sum(trial.seconds) for trial in self.trials)

    def has_time_for(self, seconds: float) -> bool:
        """Whether the budget leaves that much time."""
        return self.budget is None or self.spent + seconds <= self.budget

    @property
    def leader(self) -> RecipeTrial | None:
        """The best recipe so far, of those trained on the most folds among the ones that may win."""
        open_trials = [trial for trial in self.trials if trial.trained and not trial.verdict]
        most = max((trial.trained for trial in open_trials), default=0)
        best = None
        for trial in open_trials:
            if trial.trained == most and (best is None or trial.is_better(best, self.lower_is_better)):
                best = trial
        return best

    def named(self, name: str) -> RecipeTrial:
        """The trial of a recipe."""
        return next(trial for trial in self.trials if trial.name == name)

    def with_trial(self, changed: RecipeTrial) -> RecipeSearch:
        """The search with a new trial, or a new state of one."""
        known = [trial.name for trial in self.trials]
        if changed.name not in known:
            return replace(self, trials=(*self.trials, changed))
        return replace(self, trials=tuple(changed if one.name == changed.name else one for one in self.trials))

    def seconds_left(self, trial: RecipeTrial) -> float:
        """The expected time of a recipe's trainings on the folds that it lacks."""
        return (self.folds - trial.trained) * self.seconds_expected(trial)

    def seconds_expected(self, trial: RecipeTrial) -> float:
        """The expected time of a recipe's next training: the mean of its own, else the longest of the others'."""
        if trial.seconds:
            return fmean(trial.seconds)
        return max((fmean(one.seconds) for one in self.trials if one.seconds), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _part_text(value: Any) -> str:
    """A plain value, or a part's name and options."""
    if not isinstance(value, dict):
        return f"{value:.3g}" if isinstance(value, float) else str(value).lower()
    options = [f"{key} {option:g}" for key, option in value.items() if key != "name"]
    return " ".join([str(value["name"]), *([f"({', '.join(options)})"] if options else [])])


def read_search(run: RunFolder) -> RecipeSearch | None:
    """The search that a run came from; None for a run without one.

    Raises:
        RequestError: The file isn't what ftkit wrote.
    """
    if not run.search.is_file():
        return None
    from pydantic import TypeAdapter

    try:
        found: RecipeSearch = TypeAdapter(RecipeSearch).validate_python(
            json.loads(run.search.read_text(encoding="utf-8"))
        )
    except ValueError:
        raise RequestError(f"{run.search} isn't what ftkit wrote", "put it back as it was, or remove the run") from None
    return found
