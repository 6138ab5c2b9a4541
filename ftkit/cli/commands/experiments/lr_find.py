"""`ftkit lr-find`: the loss of a planned run over rising learning rates, and suggested rates."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer

from ftkit.cli.options import Json, with_config
from ftkit.cli.output import console
from ftkit.cli.output.given_flags import given_flags, given_now
from ftkit.distributed import launch_env
from ftkit.errors import RequestError, plural

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.rate_curve import RateCurve
    from ftkit.planning.run_plan import Plan

app = typer.Typer()

USED = "valley"
"""The suggestion in the command that is printed."""
RULES = {
    "valley": "the middle of the longest fall of the smoothed loss, as in fastai",
    "steepest": "where the smoothed loss falls fastest",
    "minimum": "a tenth of the rate with the lowest smoothed loss",
}
ROWS, BAR = 16, 40
"""Rows of the curve, and the width of its longest bar."""


@app.command(epilog="Example: ftkit lr-find --data photos --backbone resnet18 --strategy full")
@with_config
def lr_find(
    resolved: Resolved,
    json: Json = False,
) -> None:
    """Measure the loss over rising learning rates, and suggest one.

    The range test of Smith (2015) on the last phase of the planned run, in which most layer groups train. What the
    steps change is discarded, and no run is written.
    """
    given = given_now(resolved)
    if "optimizer.lr" in given:
        raise RequestError(f"{given['optimizer.lr']} has no effect: lr-find tries rates", "drop it")
    if launch_env.world() > 1:
        raise RequestError("lr-find works in one process only", "start it without a launcher")
    from ftkit.cli.commands.plan import complete
    from ftkit.experiments.range_test import range_test
    from ftkit.planning.run_data.validation_images import single_training
    from ftkit.training.events import Listener

    class Notes(Listener):
        def note(self, text: str) -> None:
            console.note(text)

    optimizer = resolved.config.optimizer.model_copy(update={"lr": resolved.config.optimizer.rate})
    config = resolved.config.model_copy(update={"optimizer": optimizer})
    plan = complete(single_training(replace(resolved, config=config)))
    curve = range_test(plan, Notes())
    found = curve.suggestions()
    command = shlex.join(["ftkit", "train", *given_flags(resolved, given), *_rate(found)])
    if json:
        console.print_json(_to_json(plan, curve, command))
    else:
        console.print_text("\n".join(_lines(plan, curve, command)))


def _rate(found: dict[str, float]) -> list[str]:
    return ["--lr", f"{found[USED]:g}"] if found else []


def _to_json(plan: Plan, curve: RateCurve, command: str) -> dict[str, Any]:
    phase, found = plan.schedule.phases[-1], curve.suggestions()
    return {
        "epochs": [phase.start, phase.stop],
        "trainable": sorted(phase.trainable),
        "lr_scale": dict(plan.schedule.rows[-1]),
        "rates": list(curve.rates),
        "losses": list(curve.losses),
        "smoothed": list(curve.smoothed),
        "diverged": curve.diverged,
        "suggestions": found,
        "suggested": found.get(USED),
        "command": command if found else None,
    }


def _lines(plan: Plan, curve: RateCurve, command: str) -> Iterator[str]:
    phase, found = plan.schedule.phases[-1], curve.suggestions()
    epochs = f"epoch {phase.stop}" if phase.stop - phase.start == 1 else f"epochs {phase.start + 1}-{phase.stop}"
    start = "the probe's head" if plan.probe else plan.weights.describe()
    yield f"     phase  {epochs} of strategy {plan.config.strategy.name}: {_scales(plan.schedule.rows[-1])}"
    yield f"     start  {start}"
    size = plural(plan.batches.effective, "image")
    end = "then the loss diverged" if curve.diverged else "without divergence"
    rates = f"base rates from {curve.rates[0]:g} to {curve.rates[-1]:.2g}"
    yield f"     steps  {len(curve.rates)} of up to {size}, at {rates}; {end}"
    yield ""
    yield from _bars(curve)
    yield ""
    if not found:
        yield "The smoothed loss doesn't fall at any rate, so none is suggested."
        return
    for name, rate in found.items():
        yield f"{name:>10}  {rate:<8g}  {RULES[name]}"
    yield ""
    yield command


def _scales(scales: Mapping[str, float]) -> str:
    """The scales of the base rate; neighbouring groups with one scale are given by the first and the last."""
    parts = []
    for scale, names in groupby(scales, key=scales.__getitem__):
        first, *_, last = [*names] * 2
        parts.append(f"{first if first == last else f'{first} to {last}'} x {scale:g}")
    return ", ".join(parts)


def _bars(curve: RateCurve) -> Iterator[str]:
    """The smoothed loss at evenly spaced steps."""
    losses = curve.smoothed
    shown = sorted({round(row * (len(losses) - 1) / (ROWS - 1)) for row in range(ROWS)})
    finite = [losses[place] for place in shown if losses[place] < float("inf")]
    top = max(finite, default=1.0) or 1.0
    for place in shown:
        loss = losses[place]
        bar = "#" * max(1, round(BAR * loss / top)) if loss <= top else "not finite"
        yield f"{curve.rates[place]:>10.1e}  {loss:8.4f}  {bar}"
