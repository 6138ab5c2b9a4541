"""`ftkit runs list|show`: runs with their settings, progress and metrics, without loading torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.options import Json, RunsFolder
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural, shell_word

if TYPE_CHECKING:
    from ftkit.runs.run_summary import RunSummary

app = typer.Typer(no_args_is_help=True, help="List and show training runs.")


FILES: Mapping[str, str] = {
    "config.yaml": "the complete config; trains the same model again",
    "plan.json": "the plan of the training",
    "inputs.json": "digests of weights, network and images",
    "splits.csv": "split and class of each image",
    "splits.csv.gz": "split and class of each image, compressed",
    "metrics.jsonl": "one record per epoch",
    "averages.json": "metrics of the averages of weights",
    "search.json": "the recipes that were compared, with their metrics",
    "trials": "the run of each recipe, while the search lasts",
    "cross-fitting.json": "folds, and out-of-fold metrics by the share of the way from the first to the last weights",
    "out-of-fold.csv": "label, prediction, fold and scores of each training image",
    "folds": "the run of each fold",
    "weight_drift.json": "weight drift of each layer",
    "report.html": "results, mistakes, training and data as a page",
    "pruned.json": "why ftkit sweep ended the run early",
    "train.log": "the messages of the training",
    "model": "the best model",
    "last": "the model of the last epoch",
    "checkpoints": "checkpoints, to resume from",
    "tensorboard": "for tensorboard --logdir",
}


@app.command("list", epilog="Example: ftkit runs list --output runs")
def list_runs(output: RunsFolder = None, json: Json = False) -> None:
    """List the runs in a folder, the newest first."""
    place = runs_folder(output)
    found = _summaries(place)
    if json:
        console.print_json([_facts(summary) for summary in found])
        return
    if not found:
        console.print_text(f"no runs in {place}: start one with ftkit train")
        return
    from ftkit.cli.output.descriptions import aligned

    header = ("name", "started", "data", "backbone", "strategy", "epochs", "best", "state")
    for line in aligned([header, *map(_row, found)]):
        console.print_text(line)


@app.command("show", epilog="Example: ftkit runs show runs/ants")
def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run.", show_default=False)],
    output: RunsFolder = None,
    json: Json = False,
) -> None:
    """Show a run's settings, epochs, metrics, weight drift, files and next commands."""
    from ftkit.runs.run_lookup import find_run
    from ftkit.runs.run_summary import summarize

    place = Path() if Path(name).is_dir() else runs_folder(output)
    summary = summarize(find_run(name, place))
    if json:
        console.print_json(_everything(summary))
        return
    for line in _lines(summary):
        console.print_text(line)


def runs_folder(output: Path | None) -> Path:
    """The parent of the run folders: `--output`, else that of the config."""
    if output is not None:
        return output
    from ftkit.config.load import resolve

    return Path(os.path.relpath(resolve(None, {}, [], os.environ).config.output))


def _summaries(place: Path) -> list[RunSummary]:
    """The runs in a folder, the newest first; unreadable ones are skipped with a warning."""
    from ftkit.runs.run_lookup import run_folders
    from ftkit.runs.run_summary import summarize

    found = []
    for folder in run_folders(place):
        try:
            found.append(summarize(folder))
        except RequestError as error:
            console.warn(error.message)
    return sorted(found, key=lambda summary: (summary.started, summary.run.name), reverse=True)


def _row(summary: RunSummary) -> tuple[str, ...]:
    source, _, path = summary.data.partition(" ")
    return (
        one_line(summary.run.name),
        f"{summary.started:%Y-%m-%d %H:%M}",
        one_line(Path(path).name) if path else source,
        str(summary.plan["backbone"]),
        summary.strategy,
        f"{summary.epochs}/{summary.planned}",
        _best(summary),
        summary.state,
    )


def _best(summary: RunSummary) -> str:
    value = summary.value(summary.best)
    return "" if value is None else f"{one_line(summary.metric_labels[summary.monitor])} {value:.4f}"


def _facts(summary: RunSummary) -> dict[str, Any]:
    return {
        "name": summary.run.name,
        "path": str(summary.run.path),
        "started": summary.started.isoformat(timespec="seconds"),
        "state": summary.state,
        "data": summary.data,
        "backbone": summary.plan["backbone"],
        "strategy": summary.strategy,
        "epochs": summary.epochs,
        "epochs_planned": summary.planned,
        "monitor": summary.monitor,
        "best": summary.best,
        "cross_fitting": None if summary.cross_fitting is None else summary.cross_fitting.to_json(),
    }


def _everything(summary: RunSummary) -> dict[str, Any]:
    return {
        **_facts(summary),
        "config": summary.config,
        "records": summary.records,
        "weight_drift": summary.weight_drift,
        "layers": (summary.layer_drift or {}).get("layers"),
        "files": [file for file, _ in _files(summary)],
        "next": list(_next(summary)),
    }


def _search(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """What a search has tried, where the run has a budget."""
    from ftkit.cli.output.descriptions import time_text
    from ftkit.recipe_search.search_record import read_search

    search = read_search(summary.run)
    if search is not None:
        ended = f"; {search.winner} is the best: {search.reason}" if search.winner else ""
        tried = sum(trial.trained > 0 for trial in search.trials)
        yield "search", f"{plural(tried, 'recipe')} tried in {time_text(search.spent)}{ended}"


def _lines(summary: RunSummary) -> Iterator[str]:
    from ftkit.cli.output.descriptions import aligned
    from ftkit.cli.output.training.weight_drift_bars import weight_drift_lines

    yield from (f"{name:>9}  {one_line(value)}" for name, value in _essentials(summary))
    if summary.records:
        yield from ["", *aligned(_epoch_rows(summary))]
    if summary.weight_drift:
        yield from ["", *weight_drift_lines(summary.weight_drift, summary.epochs)]
    yield from ["", "files:", *aligned([(f"  {file}", what) for file, what in _files(summary)])]
    yield from ["", *(f"  {command}" for command in _next(summary))]


def _essentials(summary: RunSummary) -> Iterator[tuple[str, str]]:
    from ftkit.runs.run_summary import describe_model

    config, plan = summary.config, summary.plan
    counts = ", ".join(f"{name} {count:,}" for name, count in plan.get("data", {}).items())
    yield "run", f"{summary.run.path}, started {summary.started:%Y-%m-%d %H:%M}, {summary.state}"
    yield "data", f"{summary.data}: {plural(len(plan.get('classes', ())), 'class')}; {counts}"
    yield "backbone", f"{plan['backbone']}, weights {plan.get('weights', '?')}"
    yield (
        "strategy",
        f"{summary.strategy}, {summary.epochs} of {plural(summary.planned, 'epoch')}, seed {config.get('seed')}",
    )
    optimizer = config.get("optimizer", {})
    batch = f"batches of {config.get('batch_size')} x {config.get('accumulate')}"
    yield "optimizer", f"{optimizer.get('name')}, lr {optimizer.get('lr'):g}, {batch}"
    yield from _search(summary)
    if summary.fold_sizes:
        trained = sum(fold.is_finished for fold in summary.folds)
        yield "folds", f"cross-fitted, {plural(len(summary.fold_sizes), 'fold')}, {trained} trained"
    if summary.cross_fitting is not None:
        share = f" at share {summary.cross_fitting.share:g}" if len(summary.cross_fitting.shares) > 1 else ""
        yield "model", f"{summary.cross_fitting.model}{share}; out-of-fold {_best(summary)}"
    elif (best := summary.best) is not None:
        yield "best", f"{describe_model(best)}: {_best(summary)}"


def _epoch_rows(summary: RunSummary) -> list[tuple[str, ...]]:
    from ftkit.metrics.selection import EPOCH_METRICS

    labels = summary.metric_labels
    shown = [name for name in dict.fromkeys((*EPOCH_METRICS, summary.monitor)) if name in labels]
    rows = [("epoch", "train loss", *(f"val {one_line(labels[name])}" for name in shown), "seconds", "")]
    best = None if summary.best is None or "average" in summary.best else summary.best["epoch"]
    for record in summary.records:
        numbers = (record.get(key) for key in ("train_loss", *(f"val_{name}" for name in shown)))
        cells = ("" if n is None else f"{n:.4f}" for n in numbers)
        mark = "best" if record["epoch"] == best else ""
        rows.append((str(record["epoch"]), *cells, f"{record['seconds']:.1f}", mark))
    if best is None and summary.best is not None:
        values = [summary.best.get(f"val_{name}") for name in shown]
        rows.append(("average", "", *("" if n is None else f"{n:.4f}" for n in values), "", "best"))
    return rows


def _files(summary: RunSummary) -> Iterable[tuple[str, str]]:
    described = {**FILES, "model": "the final model"} if summary.fold_sizes else FILES
    return [(file, what) for file, what in described.items() if (summary.run.path / file).exists()]


def _next(summary: RunSummary) -> Iterator[str]:
    """Commands to run next."""
    path = shell_word(summary.run.path)
    if summary.state == "stopped":
        yield f"ftkit train --resume {path}"
    if summary.run.model.is_dir():
        yield f"ftkit evaluate {path}"
        yield f"ftkit predict IMAGE_OR_FOLDER --model {path}"
    if (summary.run.path / "tensorboard").is_dir():
        yield f"tensorboard --logdir {path}"
