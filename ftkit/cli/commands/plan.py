"""`ftkit plan`: the plan of a training, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from ftkit.cli.options import Json, with_config
from ftkit.cli.output import console
from ftkit.cli.output.descriptions import full_count, short_count
from ftkit.cli.output.training.plan_facts import facts

if TYPE_CHECKING:
    from rich.console import Console

    from ftkit.config.load import Resolved
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder

app = typer.Typer()

LABELS, COLUMN = 30, 10
"""Width in characters of the table's first two columns together, and of each further column."""


@app.command(epilog="Example: ftkit plan --data photos --strategy gradual")
@with_config
def plan(
    resolved: Resolved,
    json: Json = False,
) -> None:
    """Show the plan of a training: layer groups, learning rates, steps, memory."""
    complete_plan = complete(resolved)
    if json:
        console.print_json(plan_json(complete_plan))
    else:
        show(complete_plan, console.out())


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan for `--json`, with the recipes that the run compares first, and on how many images if not on all."""
    from ftkit.recipe_search.recipes import race_samples, searched_recipes

    recipes = {trial.name: dict(trial.changes) for trial in searched_recipes(plan)}
    samples = race_samples(plan) if recipes else {}
    return {**plan.to_json(), "recipes": recipes or None, "recipe_samples": samples or None}


def complete(
    resolved: Resolved,
    tell: Callable[[str], None] | None = console.note,
    run: RunFolder | None = None,
    fetch: bool = False,
) -> Plan:
    """The plan with parameter counts.

    Torch is loaded only to count the parameters of a network without a summary, to find its layers with stochastic
    depth or dropout if their rates are set, and to measure features for strategy `auto`.

    Args:
        tell: Called with a message before a long measurement.
        run, fetch: See `make_plan`.
    """
    from ftkit.experiments.auto_strategy import plan_run

    planned = plan_run(resolved, tell, run, fetch)
    rates = planned.config.drop_path, planned.config.backbone_dropout
    if planned.group_parameters is not None and rates == (None, None):
        return planned
    from ftkit.models.build import check_regularisation, with_parameter_counts

    check_regularisation(planned)
    return with_parameter_counts(planned)


def show(plan: Plan, to: Console) -> None:
    """Print a plan as lines and a table of layer groups by epochs."""
    for name, value in facts(plan):
        to.print(f"{name:>14}  {value}", soft_wrap=True)
    fitting = max(1, (to.width - LABELS) // COLUMN)
    for spans in _chunks(_spans(plan), fitting):
        to.print(_table(plan, spans))
    for note in plan.notes:
        to.print(f"{'note':>14}  {note}", soft_wrap=True)


def _spans(plan: Plan) -> list[tuple[int, int]]:
    """First and last epoch, from 0, of each range of epochs with equal rates."""
    runs = groupby(range(plan.config.epochs), key=lambda epoch: plan.schedule.rows[epoch])
    return [(epochs[0], epochs[-1]) for epochs in (list(members) for _, members in runs)]


def _table(plan: Plan, spans: list[tuple[int, int]]) -> object:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, title=f"{plan.config.strategy.name}: peak learning rate by epoch", title_justify="left"
    )
    table.add_column("group", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for first, last in spans:
        table.add_column(f"{first + 1}" if first == last else f"{first + 1}-{last + 1}", justify="right", no_wrap=True)
    for group in plan.schedule.groups:
        rates = [plan.peak_rates(first).get(group.name) for first, _ in spans]
        cells = ["frozen" if r is None else f"{r:.2g}" for r in rates]
        table.add_row(group.name, full_count(plan.parameters(group.name)), *cells)
    table.add_section()
    phases = [plan.schedule.phase_at(first) for first, _ in spans]
    table.add_row("trainable", "", *(short_count(plan.trainable_parameters(p)) for p in phases))
    memory = [plan.memory_bytes(p) for p in phases]
    if None not in memory:
        table.add_row("memory", "", *(f"~{short_count(m)}B" for m in memory))
    return table


def _chunks(spans: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(spans), size):
        yield spans[start : start + size]
