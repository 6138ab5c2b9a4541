"""`ftkit compare --backbones`: rank backbones on the user's data, and print their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.config.field_types import seconds_of
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.backbone_ranking import Measured, Ranking

IDLE = {
    "backbone": "--backbones names them",
    "weights": "write NAME=WEIGHTS in --backbones",
    "strategy": "features of frozen backbones are compared",
    "name": "no run is made",
}
"""Why some sections of the config have no effect; the others are about training."""
WITH_EFFECT = {
    "allow_partial",
    "batch_size",
    "cache",
    "classes",
    "dataset",
    "device",
    "label_map",
    "on_bad_image",
    "output",
    "plugins",
    "precision",
    "preprocessing",
    "scan",
    "seed",
    "task",
    "train_samples",
    "val_fraction",
    "weights_key",
    "workers",
}
"""Sections of the config that measuring features depends on."""


def compare_backbones(text: str, budget: str | None, idle: Sequence[str], resolved: Resolved, json: bool) -> None:
    """Measure the backbones of `--backbones`, and print the ranking.

    Args:
        idle: Arguments that were given and have no effect.
    """
    if idle:
        raise RequestError(f"{idle[0]} has no effect with --backbones, which trains and evaluates no run", "drop it")
    backbones, seconds = _named(text), None if budget is None else _seconds(budget)
    for key, where in resolved.sources.items():
        section = key.partition(".")[0]
        if where.startswith(("--", "FTKIT_")) and section not in WITH_EFFECT:
            why = IDLE.get(section, "nothing is trained")
            raise RequestError(f"{where} has no effect with --backbones: {why}", "drop it")
    from ftkit.experiments.backbone_ranking import rank_backbones

    ranking = rank_backbones(resolved, backbones, seconds, console.note)
    if json:
        console.print_json(_facts(ranking))
    else:
        _show(ranking, one_line(resolved.registry.metrics.get(ranking.metric).label))


def _named(text: str) -> list[tuple[str, str | None]]:
    """The names of `NAME,NAME=WEIGHTS`, with their weights."""
    parts = [part.strip().partition("=") for part in text.split(",")]
    found = [(name.strip(), weights.strip() or None) for name, _, weights in parts]
    names = [name for name, _ in found]
    if not all(names) or any(equals and not weights for _, equals, weights in parts):
        raise RequestError(f"--backbones {text}: a name or weights are empty", "write it like lenet,resnet18=FILE")
    repeated = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if repeated is not None:
        raise RequestError(f"--backbones: {repeated} is given twice", "give it once")
    return found


def _seconds(text: str) -> float:
    seconds = seconds_of(text)
    if not seconds:
        raise RequestError(f"--budget {text}: not a time", "write it like 90s, 5m or 1h")
    return seconds


def _show(ranking: Ranking, label: str) -> None:
    title = f"{plural(ranking.images, 'training image')}; {label} of a probe, mean ± standard deviation over folds"
    heads = ("backbone", label, "LogME", "ms/image", "parameters", "MB")
    console.show_table(title, heads, [_row(one) for one in ranking.measured])
    console.print_text(f"* on the frontier: no other has at least this {label} in at most this time")
    for name, reason in ranking.unmeasured.items():
        console.print_text(one_line(f"not measured: {name}: {reason}"))


def _row(one: Measured) -> tuple[str, ...]:
    return (
        f"{'* ' if one.on_frontier else ''}{one_line(one.backbone)}",
        f"{one.value:.4f} ± {one.spread:.4f}",
        f"{one.logme:.3f}",
        f"{1e3 * one.seconds:.2f}",
        f"{one.parameters:,}",
        f"{one.megabytes:.1f}",
    )


def _facts(ranking: Ranking) -> Mapping[str, Any]:
    return {
        "metric": ranking.metric,
        "images": ranking.images,
        "backbones": [
            {
                "backbone": one.backbone,
                "weights": one.weights,
                "mean": one.value,
                "sd": one.spread,
                "folds": one.folds,
                "logme": one.logme,
                "seconds_per_image": one.seconds,
                "precision": one.precision,
                "parameters": one.parameters,
                "megabytes": one.megabytes,
                "frontier": one.on_frontier,
            }
            for one in ranking.measured
        ],
        "not_measured": [{"backbone": name, "reason": reason} for name, reason in ranking.unmeasured.items()],
    }
