"""`ftkit compare`: runs on the same images, or strategies over seeds, in one table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ftkit.cli.commands.evaluate import digits_of
from ftkit.cli.options import with_config
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.evaluation.comparison import Estimate, PairedComparison, Result
    from ftkit.evaluation.trained_runs import ComputeOptions
    from ftkit.parts.metric import Metric

app = typer.Typer()

SHOWN_METRICS = ("accuracy", "macro_f1", "loss")
SEEDS = 3
OF_RUNS = {"output", "metrics", "device", "workers", "batch_size", "cache.use"}
"""Settings that runs can be compared with: where they are, and how to compute."""


@app.command(
    epilog="Examples:\n"
    "  ftkit compare runs/frozen runs/full\n"
    "  ftkit compare --strategies freeze,gradual,full --seeds 3 --data photos --backbone resnet18"
)
@with_config
def compare(
    resolved: Resolved,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs by folder or name; the first is the standard.")
    ] = None,
    strategies: Annotated[
        str | None, typer.Option("--strategies", metavar="NAME,NAME", help="Train these instead, and compare them.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="Seeds for each strategy.", show_default="3")
    ] = None,
    split: Annotated[
        Literal["val", "test"] | None, typer.Option("--split", help="Split to evaluate on; by default test, else val.")
    ] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Take runs of different images or classes too, without a test.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything as JSON on stdout.")] = False,
) -> None:
    """Compare runs, or strategies over seeds, on the same images."""
    if strategies is None:
        _require_runs(runs or [], seeds, resolved)
        _compare_runs(runs or [], resolved, split, unpaired, json)
        return
    _require_strategies(runs or [], unpaired, resolved)
    from ftkit.cli.output.trial_table import compare_strategies

    compare_strategies(
        strategies.split(","),
        seeds or SEEDS,
        resolved,
        split,
        shown_metrics(resolved),
        _compute_options(resolved),
        json,
    )


def _require_runs(runs: Sequence[str], seeds: int | None, resolved: Resolved) -> None:
    """Refuse what has no effect on runs that are there."""
    if len(runs) < 2:
        raise RequestError(
            f"nothing to compare{f' {runs[0]} with' if runs else ''}: give two runs or more, or --strategies",
            "ftkit runs list shows the runs",
        )
    given = {key: where for key, where in resolved.sources.items() if where.startswith("--")}
    idle = (
        "--seeds"
        if seeds is not None
        else next((w for k, w in given.items() if not {k, k.partition(".")[0]} & OF_RUNS), None)
    )
    if idle is not None:
        raise RequestError(f"{idle} has no effect on runs that are trained", "drop it, or give --strategies")


def _require_strategies(runs: Sequence[str], unpaired: bool, resolved: Resolved) -> None:
    """Refuse what has no effect where runs are trained and named here."""
    if runs:
        raise RequestError(f"--strategies and {runs[0]}: either runs, or strategies to train", "drop one of them")
    if unpaired:
        raise RequestError("--unpaired has no effect with --strategies", "drop it: seeds aren't paired anyway")
    given = {key: where for key, where in resolved.sources.items() if where.startswith(("--", "FTKIT_"))}
    for section, why in (("strategy", "--strategies names them"), ("name", "runs are named by strategy and seed")):
        where = next((w for key, w in given.items() if key.partition(".")[0] == section), None)
        if where is not None:
            raise RequestError(f"{where} has no effect with --strategies: {why}", "drop it")


def _compare_runs(
    runs: Sequence[str],
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
        outputs.append(predict_split(one, chosen, _compute_options(resolved), console.note))
        for line in outputs[-1].notes:
            console.warn(line)
    metrics = shown_metrics(resolved)
    results = compare_outputs(outputs, metrics, paired=not unpaired)
    if json:
        console.print_json({"split": chosen, "runs": [_facts(result) for result in results]})
    else:
        _show(results, metrics, chosen)


def _compute_options(resolved: Resolved) -> ComputeOptions:
    from ftkit.evaluation.trained_runs import ComputeOptions

    config, given = resolved.config, resolved.sources
    threads = max(1, config.workers) if isinstance(config.workers, int) else None
    batch_size = config.batch_size if "batch_size" in given else ComputeOptions.batch_size
    return ComputeOptions(config.device, config.precision, threads, batch_size, config.cache.use)


def shown_metrics(resolved: Resolved) -> dict[str, Metric]:
    """The metrics to show: those that were given for this command, or else the usual ones and those of the config."""
    from ftkit.config.load import build
    from ftkit.metrics.selection import named_metrics

    listed = dict(zip((choice.name for choice in resolved.config.metrics), build(resolved, "metrics"), strict=True))
    sources = [where for key, where in resolved.sources.items() if key.partition(".")[0] == "metrics"]
    usual = () if any(where.startswith(("--", "FTKIT_")) for where in sources) else SHOWN_METRICS
    return {**named_metrics(resolved.registry, usual), **listed}


def _show(results: Sequence[Result], metrics: Mapping[str, Metric], split: str) -> None:
    """Two tables: each run by itself, and each against the first."""
    from ftkit.metrics.bootstrap import RESAMPLES

    names, labels = _names(results), [one_line(metric.label) for metric in metrics.values()]
    images = len(results[0].outputs.names)
    title = f"{split}: {plural(images, 'image')}; in brackets where 95 of 100 resamples lie, of {RESAMPLES:,}"
    if any(len(r.outputs.names) != images for r in results):
        title = f"{split}; in brackets where 95 of 100 resamples lie, of {RESAMPLES:,}"
    columns = ("run", *labels, "best epoch", "seconds", "trainable")
    rows = [
        (name, *(_estimate(result.metrics[metric]) for metric in metrics), *_cost(result))
        for name, result in zip(names, results, strict=True)
    ]
    console.show_table(title, columns, rows)
    rest = [(name, r.against) for name, r in zip(names, results, strict=True) if r.against is not None]
    if not rest:
        return
    heads = ("only it is right", f"only {names[0]} is", "p", *labels)
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
    console.show_table(f"more or less than {names[0]}, image by image", ("run", *heads), rows)
    console.print_text("p: McNemar's exact test of whether the two are right equally often")
    for name, against in rest:
        console.print_text(_verdict(name, names[0], against, images))


def _verdict(name: str, first: str, against: PairedComparison, images: int) -> str:
    """What the test says, in words: p alone doesn't say whether so few images could have told the two apart."""
    more = against.only_this - against.only_first
    if against.is_chance:
        needed = f"{against.smallest_difference / images:.{digits_of(images)}f} of accuracy"
        return (
            f"{name}: within chance: {plural(images, 'image')} can't tell it from {first}; "
            f"it would take {against.smallest_difference} more of them right, {needed}, and it is {more:+d}"
        )
    return f"{name}: {'better' if more > 0 else 'worse'} than {first}, by more than chance (p below 0.05)"


def _names(results: Sequence[Result]) -> list[str]:
    """Runs by name; by path where two have the same."""
    paths = [r.outputs.trained.path for r in results]
    known = Counter(path.name for path in paths)
    return [one_line(path.name if known[path.name] == 1 else str(path)) for path in paths]


def _estimate(value: Estimate, form: str = ".4f") -> str:
    point, where = value
    if point is None:
        return "-"
    if where.low is None or where.high is None:
        return f"{point:{form}}"
    return f"{point:{form}} [{where.low:{form}}, {where.high:{form}}]"


def _cost(result: Result) -> tuple[str, str, str]:
    from ftkit.cli.output.descriptions import full_count

    trained = result.outputs.trained
    summary = trained.summary
    best = summary.best["epoch"] if summary.best else "-"
    return f"{best} of {summary.epochs}", f"{trained.seconds:.1f}", full_count(trained.trainable)


def _facts(result: Result) -> dict[str, Any]:
    one, against = result.outputs, result.against
    summary = one.trained.summary
    facts = {
        "run": str(one.trained.path),
        "images": len(one.names),
        "metrics": {name: _plain(value) for name, value in result.metrics.items()},
        "best_epoch": summary.best["epoch"] if summary.best else None,
        "epochs": summary.epochs,
        "seconds": round(one.trained.seconds, 3),
        "trainable": one.trained.trainable,
        "against_first": None,
    }
    if against is not None:
        differences = {name: _plain(value) for name, value in against.differences.items()}
        counts = {"only_first_right": against.only_first, "only_this_right": against.only_this, "p": against.p}
        counts |= {
            "within_chance": against.is_chance,
            "smallest_difference": against.smallest_difference / len(one.names),
        }
        facts["against_first"] = {"differences": differences, **counts}
    return facts


def _plain(value: Estimate) -> dict[str, float | None]:
    return {"value": value[0], "low": value[1].low, "high": value[1].high}
