"""The config keys in which the runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftkit.reports.comparing.comparison_data import ComparisonData
from ftkit.reports.markup import Child, Html
from ftkit.reports.page_parts import table
from ftkit.reports.section import Omitted

IGNORED = ("name", "output", "report")


def compared_settings(data: ComparisonData) -> Html | Omitted:
    """A row for each key, a column for each run."""
    configs = []
    for result in data.results:
        summary = result.outputs.trained.summary
        configs.append({} if summary is None else dict(_flat(summary.config)))
    keys = dict.fromkeys(key for config in configs for key in config)
    rows: list[list[Child]] = [
        [key, *(config.get(key, "–") for config in configs)]
        for key in keys
        if len({config.get(key, "–") for config in configs if config}) > 1
    ]
    if not rows:
        return Omitted("the runs have the same settings")
    return table(("key", *data.names), rows, "Settings that differ", "words")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values as text, by dotted key."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix or key not in IGNORED:
            yield f"{prefix}{key}", str(value)
