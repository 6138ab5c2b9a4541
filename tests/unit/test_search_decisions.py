"""The order of a search for a recipe: a race or successive halving over folds, then changes of the best recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftkit.recipe_search.decisions import (
    ALL_FOLDS,
    NOTHING_LEFT,
    ONE_LEFT,
    SPENT,
    TOO_LONG,
    choose_winner,
    next_step,
)
from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial, Score, read_search

VALUES = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.6, "e": 0.8}


def new(names: Sequence[str] = tuple(VALUES), folds: int = 5, budget: float | None = 1000.0) -> RecipeSearch:
    trials = tuple(RecipeTrial(name, {}) for name in names)
    return RecipeSearch(budget, folds, "accuracy", lower_is_better=False, trials=trials)


def run(
    search: RecipeSearch,
    values: Mapping[str, float],
    further: Mapping[str, Sequence[str]] | None = None,
    seconds: float = 1.0,
    width: float | None = None,
) -> tuple[RecipeSearch, list[tuple[str, int]]]:
    """The finished search, and its trainings, where each recipe has the same value on all folds.

    Args:
        width: Of the interval of each value after one fold; after `n` folds it is an `n`-th.
    """
    first, steps = tuple(trial.name for trial in search.trials), list[tuple[str, int]]()

    def changed(state: RecipeSearch) -> list[RecipeTrial]:
        assert state.leader is not None
        known = [trial.name for trial in state.trials]
        return [RecipeTrial(name, {}) for name in (further or {}).get(state.leader.name, ()) if name not in known]

    while True:
        search, step = next_step(search, first, changed)
        if step is None:
            return search, steps
        steps.append((step.trial.name, step.fold))
        value, half = values[step.trial.name], None if width is None else width / (2 * step.fold)
        bounds = None if half is None else (value - half, value + half)
        search = search.with_trial(step.trial.with_score(Score(value, 1.0, bounds), seconds))


def test_the_better_half_goes_on_to_the_next_fold_and_the_best_one_to_all() -> None:
    # A race of 25 trainings would take more than half of the budget.
    search, steps = run(new(budget=40.0), VALUES)
    halved = [*((name, 1) for name in "abcde"), ("b", 2), ("c", 2), ("e", 2), ("b", 3), ("e", 3)]
    assert steps == [*halved, ("b", 4), ("b", 5)]
    assert search.reason == NOTHING_LEFT
    assert {trial.name: trial.verdict for trial in search.trials} == {
        "a": "behind b after fold 1",
        "b": "",
        "c": "behind b after 2 folds",
        "d": "behind b after fold 1",
        "e": "behind b after 3 folds",
    }
    assert choose_winner(search).winner == "b"


def test_a_change_is_given_up_at_the_first_fold_at_which_it_is_not_better() -> None:
    values = {**VALUES, "b+worse": 0.85, "b+better": 0.95, "b+better+again": 0.96}
    further = {"b": ["b+worse", "b+better"], "b+better": ["b+better+again"]}
    search, steps = run(new(), values, further)
    changes = [step for step in steps if "+" in step[0]]
    assert changes == [
        ("b+worse", 1),
        *(("b+better", fold) for fold in (1, 2, 3, 4, 5)),
        *(("b+better+again", fold) for fold in (1, 2, 3, 4, 5)),
    ]
    assert search.named("b+worse").verdict == "behind b after fold 1"
    assert search.named("b").verdict == "behind b+better after 5 folds"
    assert choose_winner(search).winner == "b+better+again"


@pytest.mark.parametrize(("budget", "raced"), [(50.0, True), (49.0, False)])
def test_the_first_recipes_race_where_that_takes_half_of_the_budget_at_most(budget: float, raced: bool) -> None:
    search, steps = run(new(budget=budget), VALUES, width=3.0)
    assert (steps == [(name, fold) for fold in range(1, 6) for name in VALUES]) is raced
    assert search.reason == NOTHING_LEFT
    assert search.named("e").verdict == f"behind b after {5 if raced else 3} folds"
    assert choose_winner(search).winner == "b"


@pytest.mark.parametrize(
    ("hits", "winner"),
    [
        ("11110" + "1" * 20, "a+more"),  # 4 images more and none less: two standard errors.
        ("1" * 4 + "0" * 3 + "1" * 18, "a"),  # 4 more and 2 less: less than one.
    ],
)
def test_a_change_must_gain_a_standard_error(hits: str, winner: str) -> None:
    def scored(name: str, hits: str) -> RecipeTrial:
        trial = RecipeTrial(name, {})
        for fold in range(1, 6):
            some = hits[: 5 * fold]
            trial = trial.with_score(Score(some.count("1") / len(some), 1.0, None, some), 1.0)
        return trial

    trials = (scored("a", "0" * 5 + "1" * 20), scored("a+more", hits))
    search, step = next_step(replace(new(()), trials=trials), ("a",), lambda _: ())
    assert (step, choose_winner(search).winner) == (None, winner)
    if winner == "a":
        assert search.named("a+more").verdict == "ahead of a by less than a standard error"


def test_without_folds_each_recipe_is_trained_once() -> None:
    search, steps = run(new(folds=1), VALUES)
    assert steps == [(name, 1) for name in VALUES]
    assert [trial.verdict for trial in search.trials if trial.name != "b"] == ["behind b"] * 4
    assert choose_winner(search).winner == "b"


def test_time_for_the_other_folds_of_the_best_is_kept() -> None:
    # After the first recipe, its other four folds take 4 seconds, and each further training one second.
    search, steps = run(new(budget=7.5), VALUES)
    assert steps == [("a", 1), ("b", 1), ("c", 1)]
    assert search.reason == SPENT
    ended = choose_winner(search)
    assert ended.winner == "b"
    assert [trial.verdict for trial in ended.trials[3:]] == [f"not tried: {SPENT}"] * 2


def test_a_recipe_whose_other_folds_take_too_long_does_not_win() -> None:
    quick = RecipeTrial("quick", {}).with_score(Score(0.5, 1.0), 1.0)
    slow = RecipeTrial("slow", {}).with_score(Score(0.9, 1.0), 50.0)
    search = replace(new(("quick", "slow"), budget=100.0), trials=(quick, slow), reason=SPENT)
    ended = choose_winner(search)
    assert ended.winner == "quick"
    assert ended.named("slow").verdict == TOO_LONG
    assert choose_winner(replace(search, budget=300.0)).winner == "slow"


def test_the_first_recipe_is_trained_whatever_the_budget() -> None:
    search, steps = run(new(budget=0.001), VALUES)
    assert steps == [("a", 1)]
    assert choose_winner(search).winner == "a"


def test_a_failed_recipe_is_passed_over() -> None:
    search = new(("a", "b"), folds=2)
    search = search.with_trial(replace(search.named("b"), verdict="failed: no memory"))
    search, steps = run(search, VALUES)
    assert steps == [("a", 1), ("a", 2)]
    assert choose_winner(search).winner == "a"


@pytest.mark.parametrize(("lower", "winner"), [(False, "b"), (True, "a")])
def test_the_direction_of_the_metric_counts(lower: bool, winner: str) -> None:
    search = replace(new(), lower_is_better=lower)
    assert choose_winner(run(search, VALUES)[0]).winner == winner


def test_of_equal_metrics_the_lower_loss_is_better_and_an_undefined_one_is_worst() -> None:
    assert Score(0.5, 1.0).is_better(Score(0.5, 2.0), False)
    assert not Score(0.5, 2.0).is_better(Score(0.5, 1.0), False)
    assert Score(0.1, 9.0).is_better(Score(None, 1.0), False)
    assert not Score(None, 1.0).is_better(Score(0.1, 9.0), False)


def test_in_a_race_the_clearly_worse_are_given_up() -> None:
    search, steps = run(new(("a", "b", "c"), budget=None), {"a": 0.5, "b": 0.9, "c": 0.7}, width=0.5)
    # Intervals of a and b are apart after two folds (0.25 wide), those of c and b after three.
    assert steps == [*((name, 1) for name in "abc"), *((name, 2) for name in "abc"), ("b", 3), ("c", 3)]
    assert search.reason == ONE_LEFT
    assert search.named("a").verdict == "behind b after 2 folds"
    assert search.named("c").verdict == "behind b after 3 folds"
    assert choose_winner(search).winner == "b"


@pytest.mark.parametrize("width", [None, 3.0])
def test_a_race_without_a_clear_difference_uses_all_folds(width: float | None) -> None:
    search, steps = run(new(("a", "b"), folds=3, budget=None), VALUES, width=width)
    assert steps == [(name, fold) for fold in (1, 2, 3) for name in "ab"]
    assert search.reason == ALL_FOLDS
    assert search.named("a").verdict == "behind b after 3 folds"
    assert choose_winner(search).winner == "b"


def test_in_a_race_by_a_loss_the_lower_interval_is_better() -> None:
    search = replace(new(("a", "b"), budget=None), lower_is_better=True)
    search, steps = run(search, VALUES, width=0.1)
    assert (steps, search.named("b").verdict) == ([("a", 1), ("b", 1)], "behind a after fold 1")


def test_a_race_goes_on_without_a_recipe_that_failed() -> None:
    search = new(("a", "b"), folds=2, budget=None)
    search = search.with_trial(replace(search.named("a"), verdict="failed: no memory"))
    search, steps = run(search, VALUES)
    assert steps == [("b", 1)]
    assert (search.reason, choose_winner(search).winner) == (ONE_LEFT, "b")


def test_a_race_in_which_all_fail_ends() -> None:
    search = new(("a",), folds=2, budget=None)
    search = search.with_trial(replace(search.named("a"), verdict="failed: no memory"))
    search, steps = run(search, VALUES)
    assert (steps, search.leader) == ([], None)


@pytest.mark.parametrize(
    ("first", "second", "clearly"),
    [
        ("1" * 10, "0" * 4 + "1" * 6, True),  # 4 of 10 images differ, all in one direction.
        ("1" * 9 + "0", "0" + "1" * 9, False),  # One each.
        ("1" * 5 + "0" * 5, "1" * 4 + "0" * 6, False),  # One.
        ("10", "1", False),  # Of other images.
        ("1", "0", False),
    ],
)
def test_rates_are_compared_image_by_image(first: str, second: str, clearly: bool) -> None:
    one, two = (Score(0.5, 1.0, None, hits) for hits in (first, second))
    assert one.is_clearly_better(two, lower_is_better=False) is clearly
    assert two.is_clearly_better(one, lower_is_better=True) is clearly
    assert not two.is_clearly_better(one, lower_is_better=False)


def test_only_the_last_score_keeps_its_hits() -> None:
    trial = (
        RecipeTrial("a", {}).with_score(Score(0.5, 1.0, None, "01"), 1.0).with_score(Score(0.5, 1.0, None, "0101"), 1.0)
    )
    assert [score.hits for score in trial.scores] == ["", "0101"]


def test_a_loss_that_is_not_finite_is_the_worst_and_is_kept(tmp_path: Path) -> None:
    score = Score(0.5, None)
    assert Score(0.5, 9.0).is_better(score, lower_is_better=False)
    run: Any = SimpleNamespace(search=tmp_path / "search.json")
    search = new(("a",), budget=None)
    search = search.with_trial(search.named("a").with_score(score, 1.0))
    run.search.write_text(json.dumps(search.to_json()))
    assert read_search(run) == search
