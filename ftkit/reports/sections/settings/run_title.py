"""The heading of the report of a run."""

from __future__ import annotations

from ftkit.errors import plural
from ftkit.recipe_search.search_record import read_search
from ftkit.reports.markup import Child, Html, tag
from ftkit.reports.page_parts import facts
from ftkit.reports.report_data import ReportData
from ftkit.runs.run_summary import RunSummary, describe_model


def run_header(data: ReportData) -> Html:
    """The name of the run, and what it is, in a few facts."""
    summary, config = data.summary, data.summary.config
    rows: list[tuple[str, Child]] = [
        ("data", summary.data),
        ("backbone", str(summary.plan["backbone"])),
        ("strategy", f"{summary.strategy}, {plural(summary.planned, 'epoch')}, seed {config.get('seed')}"),
        ("model", _model(summary)),
        ("started", f"{summary.started:%Y-%m-%d %H:%M}, {_duration(summary)}"),
        ("state", summary.state),
    ]
    return tag(
        "header", tag("p", "Training report", class_="kicker"), tag("h1", summary.run.path.resolve().name), facts(rows)
    )


def _model(summary: RunSummary) -> str:
    if summary.cross_fitting is not None:
        return f"{summary.cross_fitting.model}, {plural(len(summary.fold_sizes), 'fold')}"
    return "none yet" if summary.best is None else describe_model(summary.best)


def _duration(summary: RunSummary) -> str:
    training = f"{_time(sum(record['seconds'] for record in summary.records))} of training"
    search = read_search(summary.run)
    return training if search is None else f"{training}; comparing recipes took {_time(search.spent)}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
