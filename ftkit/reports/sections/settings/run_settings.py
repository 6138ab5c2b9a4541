"""The config of the run, and the versions that it ran with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftkit.reports.markup import Child, Html, count, tag
from ftkit.reports.page_parts import facts, folded
from ftkit.reports.report_data import ReportData

SHOWN = (
    "optimizer",
    "lr_curve",
    "loss",
    "augment",
    "batch_size",
    "accumulate",
    "balance",
    "label_smoothing",
    "monitor",
)
"""Config keys that are shown; the whole config is folded."""


def run_settings(data: ReportData) -> Html:
    """The main settings, the whole config, and versions."""
    summary = data.summary
    rows: list[tuple[str, Child]] = [(key, _text(summary.config[key])) for key in SHOWN if key in summary.config]
    parameters = [group["parameters"] for group in summary.plan["groups"]]
    if parameters and None not in parameters:
        rows.insert(0, ("parameters", count(sum(parameters))))
    if summary.processes > 1:
        rows.append(("processes", f"{summary.processes}, each with batches of this size"))
    rows.insert(0, ("weights", str(summary.plan.get("weights", "?"))))
    config = summary.run.config.read_text(encoding="utf-8")
    return tag(
        "div",
        facts(rows),
        folded("The whole config, config.yaml", tag("pre", config, tabindex="0")),
        folded("Versions and digests", facts(_versions(data))),
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {item}" for key, item in value.items() if key != "name" and item is not None)
        return f"{value.get('name', '')}{', ' if rest else ''}{rest}"
    return str(value)


def _versions(data: ReportData) -> Iterator[tuple[str, Child]]:
    card, inputs = data.card, data.summary.run.inputs
    if card is not None:
        yield "ftkit", card.ftkit
        yield from ((name, version) for name, version in card.versions.items())
        yield "model written", card.created
        yield "data fingerprint", card.fingerprint
        if card.backbone.package:
            yield "backbone package", f"{card.backbone.package} {card.backbone.version}"
    if inputs.is_file():
        found = json.loads(inputs.read_text(encoding="utf-8"))
        yield "weights digest", str(found.get("weights"))
        yield from ((f"{split} images digest", str(digest)) for split, digest in (found.get("images") or {}).items())
