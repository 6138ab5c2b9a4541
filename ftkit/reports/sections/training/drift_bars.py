"""Weight drift: how far the weights moved from the initial ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftkit.errors import plural
from ftkit.reports.charts.bars import bar
from ftkit.reports.markup import Child, Html, count, tag
from ftkit.reports.page_parts import folded, hint, table, unseen
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted


def drift_bars(data: ReportData) -> Html | Omitted:
    """A bar for each layer group, and the numbers of all layers."""
    summary = data.summary
    if summary.fold_sizes:
        return Omitted("a cross-fitted run has a drift for each fold: see ftkit runs show of a fold")
    drift = summary.weight_drift
    if not drift or not summary.epochs:
        return Omitted("no epoch has changed the weights yet")
    parameters = {group["name"]: group["parameters"] for group in summary.plan["groups"]}
    rows = [(name, parameters.get(name), value) for name, value in drift.items()]
    layers = (summary.layer_drift or {}).get("layers", [])
    explained = (
        f"The norm of the change of the weights after epoch {summary.epochs}, relative to the norm of the initial "
        "weights. 0 is a frozen group."
    )
    return tag(
        "div",
        hint(explained),
        _table("layer group", rows, "Weight drift by layer group"),
        _layers(layers) if layers else None,
    )


def _layers(layers: Iterable[Mapping[str, Any]]) -> Html:
    rows = [(layer["layer"], layer["parameters"], layer["weight_drift"]) for layer in layers]
    return folded(plural(len(rows), "layer"), _table("layer", rows, "Weight drift by layer"))


def _table(head: str, rows: list[tuple[str, int | None, float | None]], label: str) -> Html:
    longest = max((value for _, _, value in rows if value), default=0.0) or 1.0
    made: list[list[Child]] = [
        [name, "?" if size is None else count(size), _percent(value), bar((value or 0) / longest)]
        for name, size, value in rows
    ]
    return table((head, "parameters", "drift", unseen("drift as a bar")), made, label, "barred")


def _percent(value: float | None) -> Html:
    if value is None:
        return Html("from 0")
    return tag("data", f"{100 * value:.3g} %", value=repr(value))
