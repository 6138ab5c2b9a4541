"""The images of a label audit: all splits as training would use them, with the features of a pretrained network."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import Note
from ftkit.config.load import Resolved, with_choice
from ftkit.data_quality.dataset_request import LoadedData, load_data
from ftkit.data_quality.duplicate_groups import DuplicateGroups, scan_data
from ftkit.errors import RequestError
from ftkit.experiments.recommend import FrozenFeatures, frozen_features
from ftkit.parts.dataset import Splits, merge_subsets
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_plan import Plan
from ftkit.training.preparation.probe import NoProbeError


@dataclass(frozen=True)
class AuditImages:
    """Images and their features, rows in the order of `LoadedData.samples`.

    Attributes:
        data: The readable images.
        features: float32 `(n, features)`; what the head of the network takes.
        targets: The result of `Task.targets` for all images.
        duplicates: Copies among the images.
        notes: Lines to report.
    """

    plan: Plan
    data: LoadedData
    features: Tensor
    targets: Tensor
    duplicates: DuplicateGroups
    notes: tuple[str, ...]


def audit_plan(resolved: Resolved, tell: Note) -> Plan:
    """The plan of a training on all images; only its network and its data are used.

    Unreadable images are left out, with a note. Validation images are held out as in training, since the activations
    that training has cached are those of its splits.

    Raises:
        RequestError: The data or the network can't be used, or has no pretrained weights.
        FtkitError: The weights can't be downloaded.
    """
    update = {"validation": "holdout", "fold": None, "train_samples": None, "on_bad_image": "skip", "scan": "full"}
    config = resolved.config.model_copy(update=update)
    plan = make_plan(with_choice(replace(resolved, config=config), "strategy", "full", {}, {}), tell, fetch=True)
    if plan.weights.kind == "none":
        raise RequestError(
            f"backbone {plan.backbone.name} has no pretrained weights, whose features the audit needs",
            "give --weights FILE, or another --backbone",
        )
    return plan


def audit_images(plan: Plan, tell: Note) -> AuditImages:
    """The images of a plan with their features; activations are read from the cache and stored there.

    Raises:
        RequestError: The network's head isn't a linear layer on features.
        FtkitError: An image can't be read any more.
    """
    tell(f"features of {plan.backbone.name}, weights {plan.weights.describe()}")
    found = list[FrozenFeatures]()
    try:
        for _, split in plan.splits.present():
            found.append(frozen_features(plan, split, tell))
    except NoProbeError as error:
        raise RequestError(error.message, "choose a backbone with one linear layer as its head") from None
    features, targets = torch.cat([one.values for one in found]), torch.cat([one.targets for one in found])
    loaded = load_data(plan.resolved)
    data = replace(loaded, splits=plan.splits)
    if loaded.splits.val is None and plan.splits.train is not None and plan.splits.val is not None:
        data = replace(
            data, splits=replace(plan.splits, train=merge_subsets(plan.splits.train, plan.splits.val), val=None)
        )
        order = _order(plan.splits, data.splits)
        features, targets = features[order], targets[order]
    scan = scan_data(data, tell)
    notes = (*plan.resolved.notes, *(note for note in plan.notes if "can't be read" in note))
    return AuditImages(plan, data, features, targets, DuplicateGroups.of(scan), notes)


def _order(splits: Splits, merged: Splits) -> list[int]:
    """The row in `splits` of each image of the same splits where the training images include the held-out ones."""
    assert splits.train is not None, "there are training images"
    assert merged.train is not None, "there are training images"
    held_out = () if splits.val is None else splits.val.names
    places = {name: place for place, name in enumerate((*splits.train.names, *held_out))}
    first = [places[name] for name in merged.train.names]
    rest = 0 if splits.test is None else len(splits.test)
    return [*first, *range(len(first), len(first) + rest)]
