"""What a search does next: a function of what it has tried, so that an interrupted search goes on as it would have.

Without a budget, recipes race (Maron and Moore, 1994): all train on each fold in turn, and those that are clearly worse
than the best one are given up. With a validation split all train once.

With a budget, the first recipes race too, if that is expected to take half of the budget at most. Otherwise they are
compared by successive halving (Jamieson and Talwalkar, 2016) with folds as the resource: all train on the first fold,
the better half on the second one, and so on. Then changes of the best recipe are tried one at a time. A change is given
up at the first fold after which it isn't better, and after all folds unless it is better by a standard error: of many
changes some are better by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial

Further = Callable[[RecipeSearch], Sequence[RecipeTrial]]
"""The recipes to try after the first ones, given the state of the search."""
SPENT, NOTHING_LEFT = "the budget was spent", "no further recipe was left to try"
ONE_LEFT, ALL_FOLDS = "the others are clearly worse", "all folds are used"
ALL_TRAINED = "each was trained once"
TOO_LONG = "its other folds would take longer than the budget"
RACED = 0.5
"""Most of the budget that a race of the first recipes may be expected to take."""


@dataclass(frozen=True)
class Step:
    """A training: a recipe on one fold, from 1."""

    trial: RecipeTrial
    fold: int


def next_step(search: RecipeSearch, first: Sequence[str], further: Further) -> tuple[RecipeSearch, Step | None]:
    """The search with new verdicts, and the next training; None where the search is over, with its reason.

    Args:
        first: Names of the recipes that are compared first; all are trials of the search.
    """
    if search.budget is None:
        return _race(search, first)
    compare = _race if _has_time_to_race(search, first) else _halving
    search, step = compare(search, first)
    if step is None:
        search, step = _challenge(replace(search, reason=""), further)
    if step is None:
        return replace(search, reason=NOTHING_LEFT), None
    if search.leader is not None and not _fits(search, step):
        return replace(search, reason=SPENT), None
    return search, step


def _fits(search: RecipeSearch, step: Step) -> bool:
    """Whether a training is expected to end in time for the winner's other folds."""
    leader = search.leader
    assert leader is not None, "a recipe has been trained"
    return search.has_time_for(search.seconds_expected(step.trial) + search.seconds_left(leader))


def _has_time_to_race(search: RecipeSearch, first: Sequence[str]) -> bool:
    """Whether a race of the first recipes fits into its part of the budget, by their times on the first fold."""
    assert search.budget is not None, "asked of a search with a budget"
    seconds = sum(sum(search.named(name).seconds[:1]) for name in first)
    return seconds * search.folds <= RACED * search.budget


def _race(search: RecipeSearch, first: Sequence[str]) -> tuple[RecipeSearch, Step | None]:
    """The next training of a race; None where one recipe is left, or all folds are used."""
    for fold in range(1, search.folds + 1):
        alive = [trial for name in first if not (trial := search.named(name)).verdict]
        if fold > 1 and len(alive) == 1:
            return replace(search, reason=ONE_LEFT), None
        for trial in alive:
            if trial.trained < fold:
                return search, Step(trial, fold)
        ranked = _ranked(search, alive)
        for trial in ranked[1:]:
            best, own = ranked[0].scores[fold - 1], trial.scores[fold - 1]
            if fold == search.folds or best.is_clearly_better(own, search.lower_is_better):
                search = search.with_trial(replace(trial, verdict=_behind(search, ranked[0], fold)))
    return replace(search, reason=ALL_FOLDS if search.folds > 1 else ALL_TRAINED), None


def _halving(search: RecipeSearch, first: Sequence[str]) -> tuple[RecipeSearch, Step | None]:
    """The next training of successive halving; None where one recipe is left, or all folds are used."""
    rounds = min(search.folds, math.ceil(math.log2(max(2, len(first)))))
    for fold in range(1, rounds + 1):
        alive = [trial for name in first if not (trial := search.named(name)).verdict]
        if fold > 1 and len(alive) == 1:
            return search, None
        for trial in alive:
            if trial.trained < fold:
                return search, Step(trial, fold)
        kept = 1 if fold == rounds else math.ceil(len(first) / 2**fold)
        ranked = _ranked(search, alive)
        for trial in ranked[kept:]:
            search = search.with_trial(replace(trial, verdict=_behind(search, ranked[0], fold)))
    return search, None


def _challenge(search: RecipeSearch, further: Further) -> tuple[RecipeSearch, Step | None]:
    """The next training of a changed recipe, or first of the best one on its other folds; None where none is left."""
    while trained := [trial for trial in search.trials if trial.trained and not trial.verdict]:
        best = trained[0]  # Its challengers were begun later.
        if best.trained < search.folds:
            return search, Step(best, best.trained + 1)
        rivals = [one for one in search.trials if not one.verdict and one.name != best.name]
        rival = rivals[0] if rivals else next(iter(further(search)), None)
        if rival is None:
            return search, None
        if rival.trained and not rival.is_better(best, search.lower_is_better):
            search = search.with_trial(replace(rival, verdict=_behind(search, best, rival.trained)))
        elif rival.trained < best.trained:
            return search, Step(rival, rival.trained + 1)
        elif not rival.scores[-1].gains_an_error(best.scores[-1], search.lower_is_better):
            verdict = f"ahead of {best.name} by less than a standard error"
            search = search.with_trial(replace(rival, verdict=verdict))
        else:
            search = search.with_trial(replace(best, verdict=_behind(search, rival, best.trained)))
    return search, None


def _ranked(search: RecipeSearch, trials: Sequence[RecipeTrial]) -> list[RecipeTrial]:
    """Trials of as many folds, the best first; of equals, the earlier one."""
    ranked = list[RecipeTrial]()
    for trial in trials:
        place = next((i for i, one in enumerate(ranked) if trial.is_better(one, search.lower_is_better)), len(ranked))
        ranked.insert(place, trial)
    return ranked


def _behind(search: RecipeSearch, better: RecipeTrial, folds: int) -> str:
    where = f" after {'fold 1' if folds == 1 else f'{folds} folds'}" if search.folds > 1 else ""
    return f"behind {better.name}{where}"


def choose_winner(search: RecipeSearch) -> RecipeSearch:
    """The search with its winner: the best recipe whose other folds fit into the budget, or the one that lacks least.

    Recipes that haven't been trained get the reason for the end as their verdict.
    """
    for trial in search.trials:
        if not trial.trained and not trial.verdict:
            search = search.with_trial(replace(trial, verdict=f"not tried: {search.reason}"))
    while (leader := search.leader) is not None:
        left = search.seconds_left(leader)
        others = [one for one in search.trials if one.trained and one.name != leader.name]
        quicker = [one for one in others if search.seconds_left(one) < left and not one.verdict.endswith(TOO_LONG)]
        if search.has_time_for(left) or not quicker:
            return replace(search, winner=leader.name)
        search = search.with_trial(replace(leader, verdict=TOO_LONG))
        if search.leader is None:
            best = _ranked(search, quicker)[0]
            search = search.with_trial(replace(best, verdict=""))
    raise AssertionError("a recipe has been trained")
