"""`ftkit shift`: whether unlabelled images are unlike a model's validation images, and its estimated accuracy."""

from __future__ import annotations

import sys
from array import array
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.predict import Model, Paths, Processes, model_folder
from ftkit.cli.image_paths import find_images
from ftkit.cli.options import DeviceChoice, Json, PrecisionChoice, RunsFolder
from ftkit.cli.output import console
from ftkit.data.walk import SkippedFiles
from ftkit.errors import RequestError, one_line, plural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ftkit.inference.predictions import Prediction
    from ftkit.uncertainty.novelty import Shift

app = typer.Typer()

NAMED = 3
"""Images without a prediction that are named."""
SIGNIFICANT = 0.01
"""The p-value below which images count as shifted."""


@app.command(epilog="Example: ftkit shift this-weeks-photos --model runs/ants")
def shift(
    paths: Paths,
    model: Model = None,
    rate: Annotated[
        float, typer.Option("--novelty", metavar="RATE", help="Part of the validation images that count as unlike.")
    ] = 0.01,
    json: Json = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images per batch.")] = 32,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    num_processes: Processes = 1,
    output: RunsFolder = None,
) -> None:
    """Compare unlabelled images with a model's validation images."""
    bundle = model_folder(model, output)
    skipped = SkippedFiles()
    images = find_images(paths, sys.stdin, skipped)
    from ftkit.inference.multi_device import PredictionJob, predict_files
    from ftkit.inference.uncertain_predictions import Uncertainty
    from ftkit.runs.model_card import card_digest
    from ftkit.uncertainty.feature_reference import read_reference
    from ftkit.uncertainty.novelty import measure_shift

    job = PredictionJob(bundle, device, precision, 1, batch_size, uncertainty=Uncertainty(novelty=rate))
    card, predictions = predict_files(job, images, console.warn, num_processes)
    novelty, confidence, failures = _columns(predictions)
    left_out = len(failures)
    if not novelty:
        raise RequestError("there is no image that can be read", "give other paths")
    import numpy as np

    assert card.reference is not None, "checked before the first prediction"
    sure = np.frombuffer(confidence) if len(confidence) == len(novelty) else None
    # The novelty is relative to a sample of the validation images where it depends on their features.
    features = read_reference(bundle, card_digest(bundle))
    reference = card.reference if features is None else replace(card.reference, images=int(features.images))
    found = measure_shift(np.frombuffer(novelty), sure, reference, rate)
    if json:
        console.print_json({"model": str(bundle), "left_out": left_out, **asdict(found)})
    else:
        for line in shift_lines(found, reference.images):
            console.print_text(line)
    if left_out:
        more = f"; and {left_out - NAMED:,} more" if left_out > NAMED else ""
        few = "; ".join(one_line(line) for line in failures[:NAMED])
        console.note(f"{left_out:,} of {plural(left_out + len(novelty), 'image')} left out: {few}{more}")
    if lines := list(skipped.lines()):
        console.note(one_line(f"skipped: {'; '.join(lines)}"))
    if left_out or skipped.suspicious:
        raise typer.Exit(1)


def _columns(predictions: Iterable[Prediction]) -> tuple[array[float], array[float], list[str]]:
    """The novelty and, with one class per image, the confidence of each image; and why others have no prediction."""
    novelty, confidence, failures = array("d"), array("d"), list[str]()
    for one in predictions:
        if one.novelty is None or one.probability is None:
            failures.append(f"{one.name}: {one.error or 'it has no prediction'}")
            continue
        novelty.append(one.novelty)
        if one.labels is None:
            confidence.append(one.probability)
    return novelty, confidence, failures


def shift_lines(found: Shift, reference: int) -> list[str]:
    """The comparison in words."""
    verdict = "they differ" if found.p < SIGNIFICANT else "no difference is shown"
    lines = [
        f"{plural(found.images, 'image')} compared with {reference:,} validation images: {verdict} "
        f"(Kolmogorov-Smirnov distance {found.distance:.3f}, p = {found.p:.2g})",
        f"unlike the validation images: {found.unlike:.1%} of the images, where {found.rate:.1%} are expected",
    ]
    if found.accuracy is not None and found.mean_confidence is not None:
        lines.append(
            f"estimated accuracy: {found.accuracy:.3f} by thresholded confidence, {found.mean_confidence:.3f} by mean "
            f"confidence; on the validation images {found.reference_accuracy:.3f}"
        )
    return lines
