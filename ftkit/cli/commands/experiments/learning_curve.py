"""`ftkit learning-curve`: what more images would give, by models of samples of those there are."""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.options import Json, with_config
from ftkit.cli.output import console
from ftkit.errors import RequestError, one_line, plural
from ftkit.metrics.rounding import digits_of

if TYPE_CHECKING:
    from ftkit.config.load import Resolved
    from ftkit.experiments.learning_curve import Expected, LearningCurve

app = typer.Typer()

At = Annotated[
    list[int] | None,
    typer.Option("--at", metavar="N", min=1, help="Number of images to extrapolate to; by default 2 and 4 times all."),
]
FineTune = Annotated[
    bool, typer.Option("--fine-tune", help="Fine-tune the network on each sample; by default a probe is fitted.")
]
Repeats = Annotated[
    int, typer.Option("--repeats", metavar="N", min=2, max=100, help="Samples of each number of images.")
]


@app.command(
    "learning-curve",
    epilog="Examples:\n"
    "  ftkit learning-curve --data photos              with twice and four times the images\n"
    "  ftkit learning-curve --data photos --at 5000    with 5,000 training images\n"
    "  ftkit learning-curve --data photos --fine-tune --epochs 5",
)
@with_config
def learning_curve(
    resolved: Resolved, at: At = None, repeats: Repeats = 3, fine_tune: FineTune = False, json: Json = False
) -> None:
    """Estimate what more training images would give."""
    from ftkit.planning.backbone_choice import name_backbone

    named = name_backbone(resolved)
    found = (_fine_tuned if fine_tune else _probed)(named, repeats, at or [])
    if json:
        console.print_json(_to_json(found))
    else:
        _print(found)


def _fine_tuned(resolved: Resolved, repeats: int, at: list[int]) -> LearningCurve:
    from ftkit.experiments.auto_strategy import plan_run
    from ftkit.experiments.fine_tuned_curve import measure_fine_tuned_curve
    from ftkit.planning.run_data.validation_images import single_training

    plan = plan_run(single_training(resolved), console.note, fetch=True)
    if not plan.config.epochs:
        raise RequestError(
            "--fine-tune: no epochs are trained", "give --epochs or another --strategy, or leave --fine-tune out"
        )
    return measure_fine_tuned_curve(plan, repeats, at, console.note)


def _probed(resolved: Resolved, repeats: int, at: list[int]) -> LearningCurve:
    from ftkit.config.load import with_choice
    from ftkit.experiments.learning_curve import measure_probe_curve
    from ftkit.planning.resolve import make_plan
    from ftkit.planning.run_data.validation_images import with_one_recipe

    one = with_one_recipe(resolved)
    plan = make_plan(with_choice(one, "strategy", "full", {}, {}), console.note, fetch=True)
    if plan.weights.kind == "none":
        raise RequestError(
            f"{plan.backbone.name} has no pretrained weights here, so its features say nothing about the images",
            "give --weights, or another backbone",
        )
    return measure_probe_curve(plan, repeats, at, console.note)


def _print(found: LearningCurve) -> None:
    label, digits = one_line(found.label), max(3, digits_of(found.evaluated))
    rows = [
        (f"{images:,}", f"{fmean(values):.{digits}f}", _spread(values, digits), str(len(values)))
        for images, values in found.measured
    ]
    title = "Fine-tuned networks" if found.fine_tuned else "Probe on frozen features"
    console.show_table(title, ("training images", label, "+-", "samples"), rows)
    evaluated = plural(found.evaluated, "image")
    if found.fine_tuned:
        console.print_text(f"{label} on {evaluated}, which also choose the epoch of each training")
    else:
        console.print_text(f"{label} on {evaluated} that the probes aren't fitted on")
    if found.sampled:
        console.print_text(f"the largest sample is of {found.images:,} training images")
    for one in found.expected:
        console.print_text(_expected_text(one, found, label, digits))


def _spread(values: tuple[float, ...], digits: int) -> str:
    return f"{stdev(values):.{digits}f}" if len(values) > 1 else "-"


def _expected_text(one: Expected, found: LearningCurve, label: str, digits: int) -> str:
    times = f"{one.images / found.images:.3g}"
    bounds = f"{one.interval.low:.{digits}f} to {one.interval.high:.{digits}f}"
    return (
        f"with {one.images:,} training images ({times} times as many): {label} {one.value:.{digits}f}, 95 % interval "
        f"{bounds}"
    )


def _to_json(found: LearningCurve) -> dict[str, Any]:
    measured = [{"images": images, "values": values} for images, values in found.measured]
    expected = [{**asdict(one), "times": one.images / found.images} for one in found.expected]
    return {
        "metric": found.metric,
        "images": found.images,
        "evaluated": found.evaluated,
        "sampled": found.sampled,
        "fine_tuned": found.fine_tuned,
        "measured": measured,
        "expected": expected,
    }
