"""`ftkit compare`: runs on the same images, strategies over seeds, or backbones, in one table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ftkit.cli.commands.evaluate import NO_VIEWS_CACHED
from ftkit.cli.options import Json, TtaChoice, with_config
from ftkit.cli.output import console
from ftkit.cli.output.comparison_tables import comparison_json, print_comparison
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.evaluator import ComputeOptions
    from ftkit.parts.metric import Metric
    from ftkit.parts.task import Task
    from ftkit.transforms.view_choices import Tta

app = typer.Typer()

SEEDS = 3
RUN_KEYS = {"output", "metrics", "device", "workers", "batch_size", "cache.use"}
"""Config keys that have an effect on the comparison of existing runs."""


Runs = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs, and ensembles; the first is the baseline.")
]
Strategies = Annotated[
    str | None, typer.Option("--strategies", metavar="NAME,NAME", help="Train these strategies, and compare them.")
]
Backbones = Annotated[
    str | None,
    typer.Option("--backbones", metavar="NAME[=WEIGHTS],...", help="Rank backbones by a probe on their features."),
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="With --backbones: begin none after 90s, 5m or 1h.")
]
Seeds = Annotated[int | None, typer.Option("--seeds", metavar="N", min=1, help="Seeds per strategy.", show_default="3")]
SplitChoice = Annotated[
    Literal["val", "test"] | None, typer.Option("--split", help="Split to evaluate on; by default test, else val.")
]
Unpaired = Annotated[bool, typer.Option("--unpaired", help="Allow runs with other images or classes; no test.")]


@app.command(
    epilog="Examples:\n"
    "  ftkit compare runs/frozen runs/full\n"
    "  ftkit compare --strategies freeze,gradual,full --seeds 3 --data photos\n"
    "  ftkit compare --backbones efficientnet_lite0,resnet18=resnet18.pth --data photos --budget 5m"
)
@with_config
def compare(
    resolved: Resolved,
    runs: Runs = None,
    strategies: Strategies = None,
    backbones: Backbones = None,
    budget: Budget = None,
    seeds: Seeds = None,
    split: SplitChoice = None,
    unpaired: Unpaired = False,
    tta: TtaChoice = "none",
    json: Json = False,
) -> None:
    """Compare runs, strategies over seeds, or backbones on the same images."""
    if backbones is not None:
        from ftkit.cli.output.backbone_table import compare_backbones

        others = {"--strategies": strategies, "--seeds": seeds, "--split": split, "--unpaired": unpaired or None}
        idle = {**others, "--tta": None if tta == "none" else tta, **dict.fromkeys(runs or [], "")}
        compare_backbones(
            backbones, budget, [name for name, value in idle.items() if value is not None], resolved, json
        )
        return
    if budget is not None:
        raise RequestError("--budget has no effect without --backbones", "drop it")
    if strategies is None:
        _check_run_arguments(runs or [], seeds, tta, resolved)
        _compare_runs(runs or [], _compute_options(resolved, tta), resolved, split, unpaired, json)
        return
    _check_strategy_arguments(runs or [], unpaired, tta, resolved)
    from ftkit.cli.output.training.trial_table import compare_strategies

    compare_strategies(
        strategies.split(","),
        seeds or SEEDS,
        resolved,
        split,
        partial(shown_metrics, resolved),
        _compute_options(resolved),
        json,
    )


def _check_run_arguments(runs: Sequence[str], seeds: int | None, tta: Tta, resolved: Resolved) -> None:
    """Check that there are two runs, and no option without effect on existing runs."""
    if len(runs) < 2:
        raise RequestError(
            f"nothing to compare{f' {runs[0]} with' if runs else ''}: give two or more runs, or --strategies",
            "see ftkit runs list",
        )
    given = {key: where for key, where in resolved.sources.items() if where.startswith("--")}
    idle = (
        "--seeds"
        if seeds is not None
        else next((w for k, w in given.items() if not {k, k.partition(".")[0]} & RUN_KEYS), None)
    )
    if idle is not None:
        raise RequestError(f"{idle} has no effect on existing runs", "drop it, or give --strategies")
    if tta != "none" and resolved.config.cache.use and "cache.use" in given:
        raise RequestError(
            f"{given['cache.use']} has no effect with --tta {tta}: {NO_VIEWS_CACHED}", "drop one of them"
        )


def _check_strategy_arguments(runs: Sequence[str], unpaired: bool, tta: Tta, resolved: Resolved) -> None:
    """Check that no option is given that has no effect with `--strategies`."""
    if runs:
        raise RequestError(f"--strategies and {runs[0]}: give either runs or strategies to train", "drop one of them")
    if unpaired:
        raise RequestError("--unpaired has no effect with --strategies", "drop it: seeds are never paired")
    if tta != "none":
        why = "the metrics of validation are those that training recorded"
        raise RequestError(f"--tta has no effect with --strategies: {why}", "drop it, or compare the runs by name")
    given = {key: where for key, where in resolved.sources.items() if where.startswith(("--", "FTKIT_"))}
    for section, why in (("strategy", "--strategies names them"), ("name", "runs are named by strategy and seed")):
        where = next((w for key, w in given.items() if key.partition(".")[0] == section), None)
        if where is not None:
            raise RequestError(f"{where} has no effect with --strategies: {why}", "drop it")


def _compare_runs(
    runs: Sequence[str],
    options: ComputeOptions,
    resolved: Resolved,
    split: Literal["val", "test"] | None,
    unpaired: bool,
    json: bool,
) -> None:
    from ftkit.evaluation.comparison import compare as compare_outputs
    from ftkit.evaluation.trained_runs import common_split, find_trained_runs, predict_split

    trained_runs = find_trained_runs(runs, Path(os.path.relpath(resolved.config.output)))
    chosen = split or common_split(trained_runs)
    outputs = []
    for one in trained_runs:
        console.note(f"{one.path}: {chosen} split")
        outputs.append(predict_split(one, chosen, options, console.note))
        for line in outputs[-1].notes:
            console.warn(line)
    metrics = shown_metrics(resolved, outputs[0].task)
    results = compare_outputs(outputs, metrics, paired=not unpaired)
    if json:
        console.print_json(
            {"split": chosen, "tta": options.tta, "runs": [comparison_json(result) for result in results]}
        )
    else:
        print_comparison(results, metrics, chosen, options.tta)


def _compute_options(resolved: Resolved, tta: Tta = "none") -> ComputeOptions:
    from ftkit.evaluation.evaluator import ComputeOptions

    config, given = resolved.config, resolved.sources
    threads = max(1, config.workers) if isinstance(config.workers, int) else None
    sized = "batch_size" in given and isinstance(config.batch_size, int)
    batch_size = int(config.batch_size) if sized else ComputeOptions.batch_size
    return ComputeOptions(config.device, config.precision, threads, batch_size, config.cache.use, tta)


def shown_metrics(resolved: Resolved, task: Task) -> dict[str, Metric]:
    """The metrics of `--metric`, or by default the main ones of the task and those of the config file.

    Raises:
        RequestError: A metric isn't defined for the task.
    """
    from ftkit.config.load import build
    from ftkit.metrics.selection import check_task, main_metrics

    listed = dict(zip((choice.name for choice in resolved.config.metrics), build(resolved, "metrics"), strict=True))
    sources = [where for key, where in resolved.sources.items() if key.partition(".")[0] == "metrics"]
    check_task(listed, task, resolved.where("metrics"))
    chosen = any(where.startswith(("--", "FTKIT_")) for where in sources)
    return listed if chosen else {**main_metrics(resolved.registry, task), **listed}
