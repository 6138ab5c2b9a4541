"""The features of a run's training images, stored beside its model for `predict --novelty`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import store_of
from ftkit.errors import RequestError
from ftkit.evaluation.evaluator import ComputeOptions, Extras, outputs_of
from ftkit.evaluation.out_of_fold import read_out_of_fold
from ftkit.files.cache_folder import CacheStore
from ftkit.inference.head_features import flat_features
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Split
from ftkit.planning.run_plan import Plan
from ftkit.runs.model_card import card_digest
from ftkit.runs.run_folder import RunFolder
from ftkit.uncertainty.calibrated_network import calibrated_logits
from ftkit.uncertainty.feature_reference import MOST_IMAGES, make_reference, most_images, write_reference
from ftkit.uncertainty.novelty import LEAST_IMAGES, energies


def store_features(plan: Plan, run: RunFolder, loaded: Loaded) -> bool:
    """Store the features of training images beside a finished run's model, and what its validation images have of them.

    They are of a sample. Nothing is stored where a model has no `reference` outputs, as with few validation images.

    Args:
        loaded: The run's model.

    Returns:
        Whether they were stored.

    Raises:
        FtkitError: An image can't be read, or the file can't be written.
    """
    folder, train = loaded.folder, plan.splits.train
    if loaded.card.reference is None or loaded.backbone is None or train is None or len(train) < LEAST_IMAGES:
        return False
    val, store = plan.splits.val, store_of(plan.config.cache)
    own = _sample(len(train), MOST_IMAGES)
    _, features = _sampled_outputs(loaded, train, own, store)
    kept = _sample(len(own), most_images(features.shape[1]))
    features = features[kept]
    if val is not None:
        logits, compared = _sampled_outputs(loaded, val, _sample(len(val), MOST_IMAGES), store)
    else:
        names = [train.names[own[place]] for place in kept]
        logits, compared = _out_of_fold(loaded, run, names), None
    energy = energies(logits, loaded.task.exclusive).numpy()
    write_reference(folder, card_digest(folder), make_reference(features, energy, compared))
    return True


def _sampled_outputs(
    loaded: Loaded, split: Split, places: Sequence[int], store: CacheStore | None
) -> tuple[Tensor, Tensor]:
    """The calibrated logits, `(n, classes)`, and the features, `(n, d)`, of some images of a split."""
    extras = Extras(flat_features, places=places)
    logits, features = outputs_of(loaded, split, ComputeOptions(), store, extras=extras)
    assert features is not None, "they are wanted"
    return logits, features


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
