"""The recipes that a run compared before it trained one to the end."""

from __future__ import annotations

from collections.abc import Iterator

from ftkit.errors import plural
from ftkit.recipe_search.search_record import RecipeSearch, RecipeTrial, read_search
from ftkit.reports.markup import Child, Html, number, tag
from ftkit.reports.page_parts import hint, table
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted


def compared_recipes(data: ReportData) -> Html | Omitted:
    """A row for each recipe: what it changes, its metric, its time, and why it was given up."""
    summary = data.summary
    search = read_search(summary.run)
    if search is None:
        return Omitted("the run compared no recipes")
    label = summary.metric_labels.get(search.monitor, search.monitor)
    folds = search.folds > 1
    where = "evaluated on the validation images of its folds together" if folds else "evaluated on validation images"
    if search.samples:
        where = f"trained on {search.samples['train_samples']:,} images and {where}; the best one then on all"
    heads = ["recipe", "changes", label, "95 % interval", *(["folds"] if folds else []), "seconds", ""]
    return tag(
        "div",
        hint(f"Each recipe was {where}. {_ended(search)}"),
        table(heads, [list(_row(search, trial)) for trial in search.trials], "Recipes that were compared", "words"),
    )


def _ended(search: RecipeSearch) -> str:
    if not search.winner:
        return "The comparison isn't finished."
    return f"The best is {search.winner}; the comparison ended after {search.spent:.0f} seconds: {search.reason}."


def _row(search: RecipeSearch, trial: RecipeTrial) -> Iterator[Child]:
    score = trial.scores[-1] if trial.scores else None
    bounds = None if score is None else score.interval
    yield trial.name
    yield trial.changes_text or "none"
    yield number(None if score is None else score.value, 3)
    yield "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
    if search.folds > 1:
        yield f"{trial.trained} of {plural(search.folds, 'fold')}"
    yield f"{sum(trial.seconds):.0f}"
    yield "best" if trial.name == search.winner else trial.verdict
