"""The features of a run's training images, stored beside its model for `predict --novelty`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ftkit.data.loading.loader import raise_failures
from ftkit.data.loading.order import Key
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.evaluation.evaluator import ComputeOptions, split_reader
from ftkit.evaluation.out_of_fold import read_out_of_fold
from ftkit.files.folder_swap import current_folder
from ftkit.inference.classifier import Classifier, inference_networks
from ftkit.inference.head_features import classifier_with_features, flat_features
from ftkit.inference.streaming import grouped, stream_outputs
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.parts.dataset import Split
from ftkit.planning.run_plan import Plan
from ftkit.runs.model_card import card_digest
from ftkit.runs.run_folder import RunFolder
from ftkit.uncertainty.calibrated_network import calibrated_logits
from ftkit.uncertainty.feature_reference import MOST_IMAGES, make_reference, most_images, write_reference
from ftkit.uncertainty.novelty import LEAST_IMAGES, energies


def store_features(plan: Plan, run: RunFolder) -> bool:
    """Store the features of training images beside a finished run's model, and what its validation images have of them.

    They are of a sample. Nothing is stored where a model has no `reference` outputs, as with few validation images.

    Returns:
        Whether they were stored.

    Raises:
        FtkitError: An image can't be read, or the file can't be written.
    """
    folder = current_folder(run.model)
    loaded = load_bundle(folder, plan.config.device, "auto", plan.resolved.registry)
    train = plan.splits.train
    if loaded.card.reference is None or loaded.backbone is None or train is None or len(train) < LEAST_IMAGES:
        return False
    val = plan.splits.val
    others = None if val is None else val.subset(_sample(len(val), MOST_IMAGES))
    own = train.subset(_sample(len(train), MOST_IMAGES))
    _, features = outputs_and_features(loaded, own)
    kept = _sample(len(own), most_images(features.shape[1]))
    features = features[kept]
    if others is not None:
        logits, compared = outputs_and_features(loaded, others)
    else:
        names = [own.names[place] for place in kept]
        logits, compared = _out_of_fold(loaded, run, names), None
    energy = energies(logits, loaded.task.exclusive).numpy()
    write_reference(Path(folder), card_digest(folder), make_reference(features, energy, compared))
    return True


def features_at_end(plan: Plan, run: RunFolder, warn: Callable[[str], None]) -> None:
    """Store the features of a run that has just ended, in the main process, if its config asks for them.

    The run is complete by then, so an error or an interrupt is only a warning.

    Args:
        warn: Called with a line on what is missing.
    """
    if not plan.config.novelty_features or launch_env.rank() > 0:
        return
    try:
        store_features(plan, run)
    except (Exception, KeyboardInterrupt) as error:
        reason = error.message if isinstance(error, FtkitError) else f"{type(error).__name__} {error}".strip()
        warn(f"no features of training images, so predict --novelty goes by the energy alone: {one_line(reason)}")


def _sample(count: int, most: int) -> list[int]:
    """Positions of at most so many images, drawn at random, ascending."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]
    found: list[int] = order.sort().values.tolist()
    return found


def _out_of_fold(loaded: Loaded, run: RunFolder, names: Sequence[str]) -> Tensor:
    """The calibrated out-of-fold logits of training images."""
    stored = read_out_of_fold(run.path)
    places = {name: place for place, name in enumerate(stored.names)}
    if not all(name in places for name in names):
        raise RequestError(f"{run.path}: its out-of-fold outputs are of other images")
    return calibrated_logits(stored.logits[[places[name] for name in names]], loaded.card.calibration)


def outputs_and_features(loaded: Loaded, split: Split) -> tuple[Tensor, Tensor]:
    """The calibrated logits, `(n, classes)`, and the inputs of the head, `(n, d)`, for each image, float32 on the CPU.

    Args:
        loaded: A single network.

    Raises:
        FtkitError: An image can't be read.
    """
    classifier = Classifier(inference_networks(loaded), loaded.task)
    keys: Iterable[Key] = ((0, index, 0) for index in range(len(split)))
    groups, logits, features = grouped(keys, classifier.group_size(ComputeOptions().batch_size)), [], []
    with classifier_with_features(loaded, classifier) as network:
        for rest, outputs in stream_outputs(classifier.compute, network, groups, split_reader(classifier, split)):
            raise_failures(rest)
            logits.append(outputs[0].float().cpu())
            features.append(flat_features(outputs[1]).cpu())
    return torch.cat(logits), torch.cat(features)
