"""`ftkit compare`: runs on the same images, strategies over seeds, or backbones, in one table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftkit.cli.commands.evaluate import NO_VIEWS_CACHED
from ftkit.cli.options import Json, TtaChoice, with_config
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural
from ftkit.metrics.rounding import digits_of

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.comparison import Estimate, PairedComparison, Result
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
        console.print_json({"split": chosen, "tta": options.tta, "runs": [_facts(result) for result in results]})
    else:
        _show(results, metrics, chosen, options.tta)


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


def _show(results: Sequence[Result], metrics: Mapping[str, Metric], split: str, tta: Tta) -> None:
    """Print two tables: the metrics of each run, and their differences from the baseline."""
    from ftkit.metrics.bootstrap import RESAMPLES

    names, labels = _names(results), [one_line(metric.label) for metric in metrics.values()]
    images = len(results[0].outputs.names)
    same_images = all(len(r.outputs.names) == images for r in results)
    title = f"{split}: {plural(images, 'image')}" if same_images else split
    title += "" if tta == "none" else f", test-time augmentation {tta}"
    title += f"; in brackets: 95 % bootstrap intervals, {RESAMPLES:,} resamples"
    columns = ("run", *labels, "best epoch", "seconds", "trainable")
    rows = [
        (name, *(_estimate(result.metrics[metric]) for metric in metrics), *_cost(result))
        for name, result in zip(names, results, strict=True)
    ]
    console.show_table(title, columns, rows)
    rest = [(name, r.against) for name, r in zip(names, results, strict=True) if r.against is not None]
    if not rest:
        return
    heads = ("only it correct", f"only {names[0]} correct", "p", *labels)
    rows = [
        (
            name,
            str(a.only_this),
            str(a.only_first),
            f"{a.p:.3g}",
            *(_estimate(a.differences[metric], "+.4f") for metric in metrics),
        )
        for name, a in rest
    ]
    console.show_table(f"paired differences from {names[0]}", ("run", *heads), rows)
    accuracy = results[0].outputs.task.accuracy
    console.print_text(f"p: McNemar's exact test; the null hypothesis is equal {accuracy}")
    for name, against in rest:
        console.print_text(_verdict(name, names[0], against, images, accuracy))


def _verdict(name: str, first: str, against: PairedComparison, images: int, accuracy: str = "accuracy") -> str:
    """The result of the test, with the smallest significant difference, since p alone hides the test's power."""
    more = against.only_this - against.only_first
    if against.is_chance:
        least = f"{against.smallest_difference / images:.{digits_of(images)}f} in {accuracy}"
        return (
            f"{name}: not significantly different from {first} on {plural(images, 'image')}: "
            f"{more:+d} correct; {against.smallest_difference} ({least}) would be significant"
        )
    return f"{name}: significantly {'better' if more > 0 else 'worse'} than {first} (p below 0.05)"


def _names(results: Sequence[Result]) -> list[str]:
    """Names of the runs, or paths for runs with equal names."""
    paths = [r.outputs.trained.path for r in results]
    known = Counter(path.name for path in paths)
    return [one_line(path.name if known[path.name] == 1 else str(path)) for path in paths]


def _estimate(value: Estimate, form: str = ".4f") -> str:
    point, interval = value
    if point is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{point:{form}}"
    return f"{point:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _cost(result: Result) -> tuple[str, str, str]:
    from ftkit.cli.output.descriptions import full_count

    trained = result.outputs.trained
    summary = trained.summary
    if summary is None:
        return "-", "-", "-"
    best = summary.best["epoch"] if summary.best else "-"
    average = ", averaged" if summary.best and "average" in summary.best else ""
    seconds = f"{trained.seconds or 0:.1f}"
    return f"{best} of {summary.epochs}{average}", seconds, full_count(trained.trainable)


def _facts(result: Result) -> dict[str, Any]:
    one, against = result.outputs, result.against
    summary = one.trained.summary
    facts = {
        "run": str(one.trained.path),
        "images": len(one.names),
        "precision": one.precision,
        "metrics": {name: _plain(value) for name, value in result.metrics.items()},
        "best_epoch": summary.best["epoch"] if summary and summary.best else None,
        "average": summary.best.get("average") if summary and summary.best else None,
        "epochs": summary.epochs if summary else None,
        "seconds": None if one.trained.seconds is None else round(one.trained.seconds, 3),
        "trainable": one.trained.trainable,
        "against_baseline": None,
    }
    if against is not None:
        differences = {name: _plain(value) for name, value in against.differences.items()}
        facts["against_baseline"] = {
            "differences": differences,
            "only_baseline_correct": against.only_first,
            "only_this_correct": against.only_this,
            "p": against.p,
            "significant": not against.is_chance,
            "smallest_significant_difference": against.smallest_difference / len(one.names),
        }
    return facts


def _plain(value: Estimate) -> dict[str, float | None]:
    return {"value": value[0], "low": value[1].low, "high": value[1].high}
