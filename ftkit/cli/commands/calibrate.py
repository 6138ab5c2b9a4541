"""`ftkit calibrate`: store a model's outputs for calibration images, for prediction sets and rejection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ftkit.cli.commands.evaluate import Data, Model, Sets, Workers, evaluation_images, run_config
from ftkit.cli.commands.predict import model_folder
from ftkit.cli.options import DeviceChoice, Json, PrecisionChoice, RunsFolder
from ftkit.cli.output import console
from ftkit.cli.output.evaluating.uncertainty_tables import calibration_table
from ftkit.errors import shell_word
from ftkit.parts.dataset import SplitName

if TYPE_CHECKING:
    from ftkit.uncertainty.calibration_scores import CalibrationScores

app = typer.Typer()


@app.command(
    epilog="Examples:\n"
    "  ftkit calibrate runs/ants --split test\n"
    "  ftkit calibrate runs/ants --data more-photos     labelled images that the model has never seen\n"
    "  ftkit predict photos --model runs/ants --coverage 0.95"
)
def calibrate(
    model: Model = None,
    split: Annotated[SplitName | None, typer.Option("--split", help="Split; by default test.")] = None,
    data: Data = None,
    sets: Sets = None,
    json: Json = False,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images per batch.")] = 64,
    device: DeviceChoice = "auto",
    precision: PrecisionChoice = "auto",
    workers: Workers = None,
    output: RunsFolder = None,
) -> None:
    """Prepare a model for prediction sets and rejection."""
    bundle = model_folder(model, output)
    run = run_config(bundle)
    images = evaluation_images(bundle, data, sets or [], split, run)
    from ftkit.evaluation.calibration_images import CROSS_FITTED, require_calibration_images, store_scores
    from ftkit.evaluation.evaluator import ComputeOptions, bundle_outputs
    from ftkit.models.bundle import load_bundle

    notes = require_calibration_images(images, run, data is None and not sets)
    loaded = load_bundle(bundle, device, precision, run.registry if run else None)
    for line in (*images.notes, *notes, *loaded.notes):
        console.note(f"note: {line}")
    options = ComputeOptions(threads=None if workers is None else max(1, workers), batch_size=batch_size)
    outputs = bundle_outputs(loaded, images, options)
    cross_fitted = images.outputs is not None
    source = CROSS_FITTED if cross_fitted else f"{images.source}, {images.name} split"
    scores = store_scores(bundle, outputs, source, cross_fitted)
    if json:
        console.print_json({"model": str(bundle), **facts_of(scores)})
    else:
        calibration_table(scores)
        console.print_text(
            f"predict with sets:  ftkit predict IMAGE_OR_FOLDER --model {shell_word(bundle)} --coverage 0.95"
        )


def facts_of(scores: CalibrationScores) -> dict[str, object]:
    """What was stored, as JSON values."""
    return {"source": scores.source, "images": len(scores), "cross_fitted": scores.cross_fitted}
