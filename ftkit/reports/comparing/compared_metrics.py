"""The metrics of each run with intervals, and its differences from the baseline with a paired test."""

from __future__ import annotations

from ftkit.errors import plural
from ftkit.evaluation.comparison import Estimate, verdict
from ftkit.metrics.bootstrap import RESAMPLES
from ftkit.metrics.rounding import digits_of
from ftkit.reports.charts.bars import interval_bar
from ftkit.reports.charts.line_chart import legend_swatch
from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import hint, table
from ftkit.reports.section import Omitted


def compared_metrics(data: ComparisonData) -> Html:
    """A row for each run, a column for each metric."""
    heads = ("run", *(metric.label for metric in data.metrics.values()), "epochs", "seconds")
    rows: list[list[Child]] = []
    for place, (name, result) in enumerate(zip(data.names, data.results, strict=True)):
        cells = [_cell(data, metric, result.metrics[metric], place) for metric in data.metrics]
        summary, seconds = result.outputs.trained.summary, result.outputs.trained.seconds
        cost: list[Child] = ["–" if summary is None else count(summary.epochs)]
        cost.append("–" if seconds is None else f"{seconds:.1f}")
        rows.append([[legend_swatch(data.style(place)), name], *cells, *cost])
    explained = f"Below each number: its 95 % bootstrap interval, of {RESAMPLES:,} resamples, on the same images."
    return tag("div", hint(explained), table(heads, rows, "Metrics of the runs"))


def _cell(data: ComparisonData, metric: str, estimate: Estimate, place: int) -> Html:
    """The number, its interval, and both on the scale of all runs."""
    value, interval = estimate
    digits = digits_of(len(data.results[0].outputs.names))
    if value is None or interval.low is None or interval.high is None:
        return number(value, digits)
    bounds = [result.metrics[metric][1] for result in data.results]
    lows = [one.low for one in bounds if one.low is not None]
    highs = [one.high for one in bounds if one.high is not None]
    bar = interval_bar(value, interval.low, interval.high, (min(lows), max(highs)), data.style(place))
    low, high = number(interval.low, digits), number(interval.high, digits)
    return tag("div", number(value, digits), bar, tag("span", low, "–", high, class_="card-interval"), class_="rate")


def paired_differences(data: ComparisonData) -> Html | Omitted:
    """A row for each run but the first, and what the test says."""
    rest = [(name, r.against) for name, r in zip(data.names, data.results, strict=True) if r.against is not None]
    if not rest:
        return Omitted("the runs can't be paired")
    first, images = data.names[0], len(data.results[0].outputs.names)
    digits, accuracy = digits_of(images), data.results[0].outputs.task.accuracy
    heads = ("run", "only it right", f"only {first} right", "p", *(m.label for m in data.metrics.values()))
    rows: list[list[Child]] = [
        [
            name,
            count(a.only_this),
            count(a.only_first),
            number(a.p, 3),
            *(_difference(a.differences[metric], digits) for metric in data.metrics),
        ]
        for name, a in rest
    ]
    verdicts = [tag("li", verdict(name, first, a, images, accuracy), ".") for name, a in rest]
    explained = (
        f"Differences from {first}, with 95 % intervals. p: McNemar's exact test on {plural(images, 'image')}; "
        f"the null hypothesis is equal {accuracy}."
    )
    return tag("div", tag("ul", verdicts, class_="plain"), hint(explained), table(heads, rows, "Paired differences"))


def _difference(estimate: Estimate, digits: int) -> Html:
    value, interval = estimate
    if value is None or interval.low is None or interval.high is None:
        return number(value, digits)
    low, high = number(interval.low, digits), number(interval.high, digits)
    return tag("div", number(value, digits), tag("span", low, "–", high, class_="card-interval"), class_="rate")
