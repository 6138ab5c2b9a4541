"""Calibration images of a model: which images may be, and the scores of them that are stored beside the model."""

from __future__ import annotations

from pathlib import Path

from ftkit.config.load import Resolved
from ftkit.data.scan.content_digests import UNREADABLE, image_digests
from ftkit.errors import FtkitError, RequestError, one_line, plural
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.files.folder_swap import current_folder
from ftkit.metrics.multiclass_outputs import MulticlassOutputs
from ftkit.metrics.outputs import Outputs
from ftkit.parts.dataset import Split
from ftkit.planning.run_data.run_splits import splits_of_run
from ftkit.runs.model_card import card_digest
from ftkit.uncertainty.calibration_scores import CalibrationScores, scores_of, write_scores

CROSS_FITTED = "the out-of-fold outputs"


def require_calibration_images(images: EvaluationData, run: Resolved | None, own: bool) -> tuple[str, ...]:
    """Refuse images that the model was trained or selected on; returns notes.

    Args:
        run: The config of the model's run, if it is known.
        own: Whether the images are a split of the run's own data.

    Raises:
        RequestError: Some of the images are training or validation images of the run.
    """
    remedy = "give images that neither trained the model nor chose its epoch: --split test, or others with --data"
    if images.outputs is not None:
        return ()
    if own and images.name != "test":
        used = "trained it" if images.name == "train" else "chose its epoch"
        raise RequestError(f"the {images.name} images of the run {used}, so that its outputs are too good", remedy)
    if run is None:
        return ("the model's run isn't known: whether it was trained on these images isn't checked",)
    try:
        splits, _ = splits_of_run(run)
    except FtkitError as error:
        return (one_line(f"whether the model was trained on these images isn't checked: {error.message}"),)
    for name, used_split in splits.present():
        if name != "test" and (shared := _shared(images.split, used_split)):
            count = plural(len(shared), "image")
            raise RequestError(
                one_line(f"{count} of {images.source} are {name} images of the run, such as {shared[0]}"), remedy
            )
    return ()


def _shared(images: Split, used: Split) -> list[str]:
    """Names of images whose content is that of an image of the other split; none where files can't be compared."""
    known = set(image_digests(used).contents()) - {UNREADABLE}
    return [
        name for name, digest in zip(images.names, image_digests(images).contents(), strict=False) if digest in known
    ]


def store_scores(folder: Path, outputs: Outputs, source: str, cross_fitted: bool) -> CalibrationScores:
    """Store the scores of calibration images beside a model.

    Args:
        folder: The model's.
        outputs: Its calibrated outputs for the images, finite for each.
        source: What the images are.
        cross_fitted: See `CalibrationScores`.

    Raises:
        RequestError: An image may have several labels.
        FtkitError: The file can't be written.
    """
    if not isinstance(outputs, MulticlassOutputs):
        raise RequestError(f"prediction sets and rejection are for one class per image, not for task {outputs.task}")
    scores, place = scores_of(outputs, source, cross_fitted), current_folder(folder)
    try:
        write_scores(place, card_digest(place), scores)
    except OSError as error:
        raise FtkitError(f"{place}: can't be written to: {error.strerror or error}") from None
    return scores
