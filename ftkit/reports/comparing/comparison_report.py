"""The report that compares several runs on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ftkit.errors import RequestError, plural
from ftkit.evaluation.comparison import Result, compare, run_names
from ftkit.evaluation.evaluation_data import split_of_run
from ftkit.evaluation.evaluator import ComputeOptions
from ftkit.evaluation.trained_runs import common_split, find_trained_runs, predict_split
from ftkit.files.durable import replace_file
from ftkit.metrics.selection import main_metrics
from ftkit.parts.dataset import Split, SplitName
from ftkit.reports.comparing.compared_classes import compared_classes
from ftkit.reports.comparing.compared_curves import compared_curves
from ftkit.reports.comparing.compared_metrics import compared_metrics, paired_differences
from ftkit.reports.comparing.compared_settings import compared_settings
from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.comparing.disagreements import disagreements
from ftkit.reports.markup import Html, tag
from ftkit.reports.page import page
from ftkit.reports.page_parts import facts
from ftkit.reports.section import Section
from ftkit.reports.thumbnails import Thumbnails
from ftkit.runs.model_card import read_card

SECTIONS: tuple[Section[ComparisonData], ...] = (
    Section("metrics", "Metrics", compared_metrics),
    Section("differences", "Differences", paired_differences),
    Section("curves", "Learning curves", compared_curves),
    Section("classes", "F1 by class", compared_classes),
    Section("disagreements", "Images that only one predicts rightly", disagreements),
    Section("settings", "Settings that differ", compared_settings),
)


def write_comparison(
    specs: Sequence[str],
    runs_dir: Path,
    to: Path,
    split: SplitName | None = None,
    options: ComputeOptions | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the comparison of runs; the first one is the baseline.

    Args:
        specs: Folders or names of runs, and folders of ensembles.
        runs_dir: The parent of run folders.
        split: By default test where all runs have it, else val.
        tell: Called with lines to report.

    Raises:
        RequestError: A run is missing, has no model, is given twice, or has other images or classes than the first.
        FtkitError: An image can't be read, or the file can't be written.
    """
    if split == "train":
        raise RequestError("--split train: runs are compared on val or test", "give one of them")
    trained_runs = find_trained_runs(specs, runs_dir)
    for place, one in enumerate(trained_runs):
        if one.bundle.resolve() in [earlier.bundle.resolve() for earlier in trained_runs[:place]]:
            raise RequestError(f"{specs[place]} is given twice", "give each run once")
    chosen = split or common_split(trained_runs)
    outputs = [predict_split(one, chosen, options or ComputeOptions(), tell) for one in trained_runs]
    for line in (line for one in outputs for line in one.notes):
        tell(line)
    first = outputs[0]
    metrics = main_metrics(first.trained.resolved.registry, first.task)
    results = compare(outputs, metrics)
    thumbnails = Thumbnails(read_card(first.trained.bundle).preprocessing.value_range)
    data = ComparisonData(results, run_names(results), metrics, chosen, _images(results[0]), thumbnails)
    replace_file(to, page("Comparison of runs", _header(data), data, SECTIONS).encode())


def _images(first: Result) -> Split:
    """The images of the outputs, in their order."""
    outputs = first.outputs
    card = read_card(outputs.trained.bundle)
    found = split_of_run(outputs.trained.resolved, card, outputs.split, outputs.trained.path).split
    known = {name: place for place, name in enumerate(found.names)}
    taken = found.subset([known[name] for name in outputs.names])
    return replace(taken, names=list(outputs.names))


def _header(data: ComparisonData) -> Html:
    first = data.results[0].outputs
    rows = [
        ("images", f"{plural(len(first.names), 'image')} of the {data.title} split"),
        ("classes", f"{len(first.classes):,}"),
        ("baseline", data.names[0]),
    ]
    title = tag("h1", " and ".join(data.names) if len(data.names) == 2 else f"{len(data.names)} runs")
    return tag("header", tag("p", "Comparison of runs", class_="kicker"), title, facts(rows))
