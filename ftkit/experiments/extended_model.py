"""A trained model with further classes or images: its head solved again on features, its other layers unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ftkit
from ftkit.config.load import Resolved
from ftkit.data.sampling import stratified_sample
from ftkit.data_quality.label_queue.head_inputs import split_outputs
from ftkit.errors import RequestError, one_line, plural
from ftkit.evaluation.evaluation_data import choose_split
from ftkit.files.folder_swap import current_folder
from ftkit.models.bundle import Loaded, package_versions, save_bundle
from ftkit.models.surgery import build_network
from ftkit.models.weights.pretrained import restore_weights
from ftkit.parts.dataset import Dataset, Split, relabel
from ftkit.parts.label_sets import LabelSets, count_classes
from ftkit.planning.run_data.run_splits import load_checked, splits_of_run
from ftkit.planning.run_data.validation_images import is_cross_fitted
from ftkit.plugins import Registry
from ftkit.runs.model_card import ModelCard
from ftkit.training.preparation.probe import head_layer
from ftkit.uncertainty.calibrated_network import calibrated_logits

HELD_OUT = 0.2
"""The share of the further images that is evaluated where they have no validation or test split."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class FurtherImages:
    """Images to add.

    Attributes:
        source: The path, for messages.
    """

    dataset: Dataset
    source: str


@dataclass(frozen=True)
class Measured:
    """The accuracy on some images that neither head is fitted on; None where it has no value.

    Attributes:
        images: Number of images.
    """

    name: str
    images: int
    before: float | None
    after: float


@dataclass(frozen=True)
class Extension:
    """An extended model.

    Attributes:
        added: Names of the new classes.
        images: Training images by whether they are further ones.
        measured: Before and after; see `Measured`.
        forgotten: Recall of each old class before and after, those that have lost most first.
        strength: The inverse regularisation strength that was chosen.
    """

    card: ModelCard
    added: tuple[str, ...]
    images: tuple[int, int]
    measured: tuple[Measured, ...]
    forgotten: tuple[tuple[str, float, float], ...]
    strength: float


@dataclass(frozen=True)
class _Part:
    """Features and labels of some images, in the order of the extended classes."""

    features: Tensor
    labels: Tensor


def extend_model(loaded: Loaded, run: Resolved, more: FurtherImages, target: Path, tell: Tell) -> Extension:
    """Write the extended model into a new folder.

    The head is logistic regression on the features of the run's training images and of the further ones. Both heads are
    evaluated on images that neither is fitted on: the run's test or else validation images, and held-out further ones.

    Args:
        loaded: A single network with a linear head, for one class per image.
        run: The config of its run, whose data is read again.
        target: A new folder.
        tell: Called with a line before a step that takes long.

    Raises:
        RequestError: The model, the data or the folder can't be used.
        FtkitError: The folder can't be written.
    """
    _check(loaded, target)
    layer, old = _head(loaded.model, loaded), loaded.card.classes
    train, held = _old_images(run, old)
    further, further_held, classes = _further_images(more, old)
    parts = [
        _features(loaded, split, tell, name)
        for name, split in (
            ("training images of the run", train),
            ("evaluated images of the run", held),
            ("further images", further),
            ("evaluated further images", further_held),
        )
    ]
    features = torch.cat([parts[0].features, parts[2].features])
    labels = torch.cat([parts[0].labels, parts[2].labels])
    fit = loaded.task.fit_head(features, labels, len(classes), intercept=layer.bias is not None, seed=run.config.seed)
    heads = _old_head(loaded, layer), (fit.weight, fit.bias)
    measured = tuple(_measured(len(old), heads, parts[1], parts[3]))
    card = _card(loaded, classes, measured)
    save_bundle(target, _network(loaded, card, fit.weight, fit.bias), card)
    forgotten = _forgotten(old, heads, parts[1])
    return Extension(card, classes[len(old) :], (len(train), len(further)), measured, forgotten, fit.strength)


def _check(loaded: Loaded, target: Path) -> None:
    if loaded.members:
        raise RequestError(f"{loaded.folder} is an ensemble", "extend its members, and combine them again")
    if not loaded.task.exclusive:
        raise RequestError(
            f"{loaded.folder} is a model of task {loaded.task.name}: which of its images have a new label is unknown",
            "label all images anew, and train",
        )
    if loaded.card.origin:
        raise RequestError(
            f"{loaded.folder} was trained with classes or label_map, so further classes are ambiguous",
            "train with the selection that you want",
        )
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise RequestError(f"--to {target}: there is something already", "give a new folder")


def _head(network: nn.Module, loaded: Loaded) -> nn.Linear:
    assert loaded.backbone is not None, "of a single network"
    return head_layer(network, loaded.backbone.head[0])


def _old_head(loaded: Loaded, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weights and biases of the head with the calibration of its outputs."""
    weight = layer.weight.detach().float().cpu()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().cpu()
    zeros = torch.zeros(1, len(weight))
    start = calibrated_logits(zeros, loaded.card.calibration)[0]
    scale = calibrated_logits(zeros + 1, loaded.card.calibration)[0] - start
    return weight * scale[:, None], bias * scale + start


def _old_images(run: Resolved, classes: Sequence[str]) -> tuple[Split, Split]:
    splits, _ = splits_of_run(run)
    source = f"dataset {run.config.dataset.name}"
    if splits.train is None:
        raise RequestError(f"{source} has no training images any more", "put them back")
    if is_cross_fitted(run.config) and splits.test is None:
        raise RequestError(
            f"{source} has no test split, and the run is cross-fitted: its model was trained on all images",
            "add a test split, on which forgetting is measured, or extend a run that was trained with --budget none",
        )
    _, held = choose_split(splits, None, ("test", "val"), source)
    train, held = (relabel(split, splits.classes, classes, source) for split in (splits.train, held))
    return train, held


def _further_images(more: FurtherImages, old: Sequence[str]) -> tuple[Split, Split, tuple[str, ...]]:
    """The further images to train on and to evaluate, and all classes: the old ones first, in their order."""
    splits = load_checked(more.dataset, more.source, for_training=False)
    if splits.multilabel:
        raise RequestError(f"{more.source}: images may have several labels each", "give one class for each image")
    train = splits.train
    if train is None or not len(train):
        raise RequestError(f"{more.source} has no training split", "give one, or unsplit images")
    used = set(count_classes(train.labels))
    new = [name for place, name in enumerate(splits.classes) if place in used and name not in set(old)]
    classes = (*old, *new)
    train = relabel(train, splits.classes, classes, more.source)
    held = next((split for split in (splits.test, splits.val) if split is not None and len(split)), None)
    if held is not None:
        return train, relabel(held, splits.classes, classes, more.source), classes
    assert not isinstance(train.labels, LabelSets), "refused above"
    single = [classes[label] for label, count in count_classes(train.labels).items() if count < 2]
    if single:
        raise RequestError(
            f"{more.source}: class {single[0]!r} has a single image, so none can be held out to evaluate it",
            "add images, or give a val split",
        )
    count = max(round(HELD_OUT * len(train)), len(set(train.labels)))
    places = stratified_sample(train.labels, count, 0)
    rest = sorted(set(range(len(train))) - set(places))
    return train.subset(rest), train.subset(places), classes


def _features(loaded: Loaded, split: Split, tell: Tell, name: str) -> _Part:
    tell(f"computing the features of {len(split):,} {name}")
    found = split_outputs(loaded, split, Registry(), 64)
    if found.failures:
        place, reason = next(iter(found.failures.items()))
        few = plural(len(found.failures), "image")
        raise RequestError(
            f"{few} of the {name} can't be used: {one_line(split.names[place])}: {reason}", "repair or remove them"
        )
    return _Part(found.features, torch.tensor(list(split.labels), dtype=torch.int64))


def _network(loaded: Loaded, card: ModelCard, weight: Tensor, bias: Tensor) -> nn.Module:
    """The network with the new head; all other weights are those of the model."""
    assert loaded.backbone is not None, "of a single network"
    with torch.random.fork_rng(devices=[]):
        network = build_network(loaded.backbone, len(card.classes), card.head, card.preprocessing.channels)
    ours = network.state_dict()
    same = {key: value for key, value in loaded.model.state_dict().items() if value.shape == ours[key].shape}
    restore_weights(network, same, strict=False)
    layer = _head(network, loaded)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias)
    return network.eval()


def _predicted(head: tuple[Tensor, Tensor], features: Tensor) -> Tensor:
    weight, bias = head
    return (features @ weight.T + bias).argmax(dim=1)


def _measured(
    old: int, heads: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], held: _Part, further: _Part
) -> list[Measured]:
    """The accuracy of both heads; the first knows the first `old` classes alone."""
    known = further.labels < old
    groups = (
        ("images of the run", held.features, held.labels, True),
        ("further images of its classes", further.features[known], further.labels[known], True),
        ("images of new classes", further.features[~known], further.labels[~known], False),
    )
    found = []
    for name, features, labels, is_known in groups:
        if len(labels):
            before, after = (float((_predicted(head, features) == labels).float().mean()) for head in heads)
            found.append(Measured(name, len(labels), before if is_known else None, after))
    return found


def _forgotten(
    classes: Sequence[str], heads: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], held: _Part
) -> tuple[tuple[str, float, float], ...]:
    """The recall of each old class by both heads, those that have lost most first."""
    labels = held.labels.numpy()
    support = np.bincount(labels, minlength=len(classes))
    rights = [(_predicted(head, held.features) == held.labels).numpy() for head in heads]
    before, after = (np.bincount(labels[right], minlength=len(classes)) / support.clip(min=1) for right in rights)
    order = np.argsort(after - before, kind="stable")
    return tuple((classes[place], float(before[place]), float(after[place])) for place in order if support[place])


def _card(loaded: Loaded, classes: tuple[str, ...], measured: Sequence[Measured]) -> ModelCard:
    count = sum(one.images for one in measured)
    metrics: Mapping[str, float | None] = {"accuracy": sum(one.after * one.images for one in measured) / count}
    return replace(
        loaded.card,
        classes=classes,
        weights=f"extended from {current_folder(loaded.folder)}",
        metrics=metrics,
        fingerprint="",
        average={},
        calibration=None,
        reference=None,
        teacher={},
        created="",
        versions=package_versions(),
        ftkit=ftkit.__version__,
    )
