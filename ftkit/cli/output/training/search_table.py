"""The recipes that a search has tried, at the end of `ftkit train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftkit.cli.output.descriptions import time_text
from ftkit.errors import one_line

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.recipe_search.search_record import RecipeSearch
    from ftkit.training.train import Outcome


def search_lines(plan: Plan, outcome: Outcome) -> list[str]:
    """The recipes with their metrics, times and verdicts; none for a run without a search."""
    from ftkit.recipe_search.search_record import read_search

    search = read_search(outcome.run)
    if search is None:
        return []
    label, width = one_line(plan.metrics[search.monitor].label), max(len(trial.name) for trial in search.trials)
    lines = [
        f"recipes by validation {label}, each on the first folds:"
        if search.folds > 1
        else f"recipes by validation {label}{_trained_on(search)}:"
    ]
    for trial in search.trials:
        scores = " ".join("-" if score.value is None else f"{score.value:.4f}" for score in trial.scores) or "-"
        state = "best" if trial.name == search.winner else trial.verdict
        lines.append(f"  {trial.name:<{width}}  {scores}  {time_text(sum(trial.seconds))}  {state}")
        lines += [f"  {'':<{width}}  {trial.changes_text}"] if trial.changes else []
    spent = time_text(search.spent) + ("" if search.budget is None else f" of {time_text(search.budget)}")
    return [*lines, f"search: {spent} spent, {search.reason}"]


def search_json(outcome: Outcome) -> dict[str, Any] | None:
    """The recipes with their metrics, seconds and verdicts as JSON values; None for a run without a search."""
    from ftkit.recipe_search.search_record import read_search

    search = read_search(outcome.run)
    if search is None:
        return None
    return {
        "winner": search.winner,
        "reason": search.reason,
        "monitor": search.monitor,
        "folds": search.folds,
        "samples": dict(search.samples) or None,
        "tried": {
            trial.name: {
                "changes": dict(trial.changes),
                "values": [score.value for score in trial.scores],
                "seconds": sum(trial.seconds),
                "verdict": trial.verdict or None,
            }
            for trial in search.trials
        },
    }


def _trained_on(search: RecipeSearch) -> str:
    """The training images of each recipe, where they aren't all."""
    return f", each trained on {search.samples['train_samples']:,} images" if search.samples else ""
