"""`ftkit plan`: the plan of a training, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

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
        console.print_json(complete_plan.to_json())
    else:
        show(complete_plan, console.out())


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


<<<<<<< HEAD
=======
def facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """The lines of a plan as name and value."""
    config = plan.config
    total = None if plan.group_parameters is None else sum(plan.group_parameters.values())
    counts = ", ".join(f"{name} {len(split):,}" for name, split in plan.splits.present())
    yield "data", f"{config.dataset.name}: {plan.num_classes} classes ({_few(plan.splits.classes)}); {counts}"
    head = f"a head for {plan.num_classes} classes{_head(plan)}"
    yield "backbone", f"{plan.backbone.name}: {full_count(total)} parameters with {head}{_rates(plan)}"
    yield "weights", plan.weights.describe() + ("; head kept" if config.keep_head else "")
    yield "preprocessing", preprocessing_text(plan.preprocessing)
    yield "augment", config.augment.name + _changes(plan)
    if plan.image_transforms:
        added = [plan.augmentation.image_transform] if plan.augmentation.image_transform else []
        names = added + [item.name for item in config.image_transforms]
        yield "transforms", f"{_parts(names, plan.image_transforms)}; on each training image, after the crop"
    if plan.batch_transforms:
        names = [item.name for item in config.batch_transforms]
        each = "one of them by chance on" if len(names) > 1 else "on"
        yield "batches", f"{_parts(names, plan.batch_transforms)}; {each} each training batch"
    if plan.callbacks:
        yield "callbacks", _parts([item.name for item in config.callbacks], plan.callbacks)
    if plan.probe:
        yield "probe", "the head is initialised by logistic regression on frozen features"
    yield from _cache(plan)
    yield (
        "optimizer",
        f"{config.optimizer.name}, lr {config.optimizer.rate:g}{_changed(plan.optimizer)}; {_curve(plan)}",
    )
    yield from _regularisation(plan)
    yield "loss", config.loss.name + _changed(plan.loss) + _weighting(plan)
    # What `auto` selects is unknown without torch.
    yield "precision", config.precision + (", by processor and network" if config.precision == "auto" else "")
    yield from _steps(plan)
    yield "best epoch", f"by validation {one_line(plan.metrics[config.monitor].label)}{_patience(plan)}"


def _steps(plan: Plan) -> Iterator[tuple[str, str]]:
    """Steps, batch sizes, and the processes that share them."""
    config = plan.config
    yield (
        "steps",
        f"{plan.batches.steps:,} per epoch x {plural(config.epochs, 'epoch')} = {plan.steps:,}; "
        f"{plural(plan.batches.effective, 'image')} per step ({_division(plan)} x {plan.world_size} "
        f"process{'es' if plan.world_size > 1 else ''})",
    )
    if plan.world_size > 1:
        yield (
            "processes",
            f"{plan.world_size}, each with batches of {plan.batches.batch_size}; learning rates are not scaled",
        )
    if config.fsdp:
        yield "fsdp", "weights, gradients and optimizer state are sharded over the processes"
    if config.zero_stage:
        sharded = "optimizer state is" if config.zero_stage == 1 else "gradients and optimizer state are"
        yield "deepspeed", f"{sharded} sharded over the processes"


def _division(plan: Plan) -> str:
    """The images per step of each process; with `auto`, how they are divided isn't known yet."""
    size, accumulate = plan.config.batch_size, plan.config.accumulate
    return str(plan.batches.batch_size) if size == AUTO else f"{size} x {accumulate} accumulated"


def _rates(plan: Plan) -> str:
    """The rates of the backbone's own stochastic depth and dropout, where they are set."""
    rates = {"drop path": plan.config.drop_path, "dropout": plan.config.backbone_dropout}
    return "".join(f", {name} {rate:g}" for name, rate in rates.items() if rate is not None)


def _patience(plan: Plan) -> str:
    wanted, start = plan.config.patience, plan.patience_start
    if wanted is None:
        return ""
    since = f", counted from epoch {start + 1}, the start of the last phase" if start else ""
    return f"; early stopping after {plural(wanted, 'epoch')} without improvement{since}"


>>>>>>> rates
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
