"""The labelling queue of a folder of images for a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ftkit.config.load import resolve
from ftkit.data.sampling import stratified_sample
from ftkit.data_quality.label_queue.head_inputs import ModelOutputs, file_outputs, split_outputs
from ftkit.data_quality.label_queue.query_order import (
    Queue,
    Strategy,
    choose_strategy,
    margins,
    typical,
    uncertain_and_diverse,
)
from ftkit.data_quality.label_queue.queue_files import QueuedImage
from ftkit.errors import FtkitError, RequestError, plural
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.parts.dataset import Split
from ftkit.planning.run_data.run_splits import splits_of_run
from ftkit.plugins import Registry
from ftkit.runs.run_lookup import run_of

MOST_LABELLED = 2000
"""Labelled images whose features are computed, to choose typical images unlike them."""


@dataclass(frozen=True)
class QueueRequest:
    """What to queue.

    Attributes:
        count: Number of images.
        strategy: None chooses by the number of labelled images.
        seed: Chooses among equally good images.
        batch_size: Images per batch.
        device, precision: See `load_bundle`.
    """

    count: int
    strategy: Strategy | None = None
    seed: int = 0
    batch_size: int = 32
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class LabellingQueue:
    """Images to label, the most useful first.

    Attributes:
        strategy: How they were chosen.
        reason: Why.
        exclusive: Whether an image has exactly one class.
        candidates: Number of images that could be read.
        failures: Reasons of the others by file.
    """

    strategy: Strategy
    reason: str
    images: tuple[QueuedImage, ...]
    exclusive: bool
    candidates: int
    failures: dict[str, str]


def labelling_queue(
    bundle: Path, root: Path, files: Sequence[Path], request: QueueRequest, tell: Callable[[str], None]
) -> LabellingQueue:
    """The images of a folder that it is most useful to label.

    Args:
        bundle: The model.
        root: The folder, which names are relative to.
        files: Its images.
        tell: Called with notes.

    Raises:
        RequestError: The model can't be used.
        FtkitError: No image can be read.
    """
    registry, train = _training_images(bundle, tell)
    loaded = load_bundle(bundle, request.device, request.precision, registry)
    outputs = file_outputs(loaded, files, registry, request.batch_size)
    failures = {str(files[place]): reason for place, reason in sorted(outputs.failures.items())}
    if not outputs.places:
        raise FtkitError(f"{root}: none of {plural(len(files), 'image')} can be read", "see ftkit data check")
    classes = len(loaded.card.classes)
    strategy, reason = _chosen(request.strategy, train, classes)
    queue = _queue(loaded, outputs, strategy, train, request, registry)
    images = tuple(_queued(loaded, outputs, queue, row, root, files) for row in queue.rows.tolist())
    return LabellingQueue(strategy, reason, images, loaded.task.exclusive, len(outputs.places), failures)


def _training_images(bundle: Path, tell: Callable[[str], None]) -> tuple[Registry, Split | None]:
    """The registry of a model's run, and its training images; None for a model without a run or whose data is gone."""
    run = run_of(bundle)
    if run is None or not (run / "config.yaml").is_file():
        from ftkit.config.load import project_plugins

        return Registry(project_plugins()), None
    resolved = resolve(run / "config.yaml", {}, [], {})
    try:
        return resolved.registry, splits_of_run(resolved)[0].train
    except RequestError as error:
        tell(f"note: the training images of {run} aren't used: {error.message}")
        return resolved.registry, None


def _chosen(wanted: Strategy | None, train: Split | None, classes: int) -> tuple[Strategy, str]:
    if wanted is not None:
        return wanted, "as requested"
    if train is None:
        return "uncertain", "the number of labelled images is unknown, since the model has no run with its data"
    per_class = len(train) / max(classes, 1)
    return choose_strategy(len(train), classes), f"the model was trained on {per_class:.3g} images per class"


def _queue(
    loaded: Loaded,
    outputs: ModelOutputs,
    strategy: Strategy,
    train: Split | None,
    request: QueueRequest,
    registry: Registry,
) -> Queue:
    margin = margins(outputs.scores, loaded.task.exclusive)
    count = min(request.count, len(outputs.places))
    if strategy == "uncertain":
        return Queue(strategy, uncertain_and_diverse(outputs.features, margin, count, request.seed), margin)
    labelled = _labelled_features(loaded, train, request, registry, outputs.features.shape[1])
    return Queue(strategy, typical(outputs.features, labelled, count, request.seed), margin)


def _labelled_features(
    loaded: Loaded, train: Split | None, request: QueueRequest, registry: Registry, width: int
) -> Tensor:
    if train is None or not len(train):
        return torch.empty(0, width)
    count = max(MOST_LABELLED, len(loaded.card.classes) + 1)
    sample = train if len(train) <= count else train.subset(stratified_sample(train.labels, count, request.seed))
    return split_outputs(loaded, sample, registry, request.batch_size).features


def _queued(
    loaded: Loaded, outputs: ModelOutputs, queue: Queue, row: int, root: Path, files: Sequence[Path]
) -> QueuedImage:
    scores = outputs.scores[row].tolist()
    predicted = loaded.task.predicted(scores, loaded.card.decision)
    names = tuple(loaded.card.classes[index] for index in predicted)
    name = files[outputs.places[row]].relative_to(root).as_posix()
    return QueuedImage(name, names, max(scores), float(queue.margins[row]))
