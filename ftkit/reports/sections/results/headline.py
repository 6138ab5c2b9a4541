"""The metrics of the model with their intervals."""

from __future__ import annotations

from ftkit.errors import one_line, plural
from ftkit.metrics.bootstrap import MOST_RESAMPLED, Interval
from ftkit.metrics.rounding import digits_of
from ftkit.parts.metric import Metric
from ftkit.reports.charts.bars import interval_bar
from ftkit.reports.markup import Child, Html, count, number, tag
from ftkit.reports.page_parts import hint, unseen, warnings
from ftkit.reports.report_data import Evaluated, ReportData
from ftkit.reports.section import Omitted


def headline(data: ReportData) -> Html | Omitted:
    """A card for each metric, the monitored one first."""
    found = data.evaluated
    if isinstance(found, Omitted):
        return found
    monitor = data.summary.monitor
    names = sorted(found.evaluation.values, key=lambda name: name != monitor)
    cards = [_card(name, found, name == monitor) for name in names if found.evaluation.values[name] is not None]
    undefined = [
        f"No {found.metrics[name].label}: {one_line(reason)}." for name, reason in found.evaluation.missing.items()
    ]
    wrong = int((~found.outputs.right).sum())
    return tag(
        "div",
        hint(
            f"The model on the {found.images.title} images: ",
            count(len(found.outputs)),
            " images, ",
            count(wrong),
            f" of them with a wrong prediction, computed in {found.precision}. ",
            _intervals(found),
        ),
        warnings([*_cautions(found), *undefined]),
        tag("div", cards, class_="cards"),
    )


def _card(name: str, found: Evaluated, first: bool) -> Html:
    metric, value = found.metrics[name], found.evaluation.values[name]
    assert value is not None, "undefined metrics have no card"
    digits, interval = digits_of(found.evaluation.images), found.intervals.get(name)
    return tag(
        "div",
        tag("div", metric.label, class_="card-label"),
        tag("div", number(value, digits), class_="card-value", data_metric=name),
        _interval(value, interval, metric, digits),
        tag("div", "lower is better", class_="card-note") if metric.lower_is_better else None,
        class_="card first" if first else "card",
    )


def _interval(value: float, interval: Interval | None, metric: Metric, digits: int) -> Html | None:
    if interval is None or interval.low is None or interval.high is None:
        return None
    top = max(interval.high * 1.25, value) if metric.lower_is_better else 1.0
    text: list[Child] = [unseen("95 % interval "), number(interval.low, digits), "–", number(interval.high, digits)]
    bar = interval_bar(value, interval.low, interval.high, (0.0, top))
    return tag("div", bar, tag("div", text, class_="card-interval"))


def _intervals(found: Evaluated) -> str:
    if not found.intervals:
        return "With so many images intervals are not computed."
    few = f" Metrics are resampled up to {MOST_RESAMPLED:,} images." if len(found.outputs) > MOST_RESAMPLED else ""
    return f"Below a number: its 95 % confidence interval, if it has one.{few}"


def _cautions(found: Evaluated) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    lines, images = [], len(found.outputs)
    if found.images.changed:
        lines.append(f"{found.images.source} has changed since the model was trained: the numbers are not comparable.")
    if found.images.title == "val":
        lines.append("These images also selected the best epoch, so the numbers are slightly too good.")
    if found.images.title == "train":
        lines.append("These images were trained on, so the numbers are too good.")
    if images < 100:
        lines.append(f"{plural(images, 'image is', 'images are')} few: see how wide the intervals are.")
    return lines
