"""Model bundles: `model.safetensors` and `model.json`, all that is needed to use a model, without pickle.

A SHA-256 checksum covers every byte of both files, and a bundle is written completely or not at all. The bundle of an
ensemble is a `model.json`, which has the checksums of its members, and their bundles; it is read by the same function.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import ftkit
from ftkit.config.load import project_plugins
from ftkit.errors import RequestError, one_line
from ftkit.files.durable import replace_folder, save_tensors
from ftkit.files.file_identity import file_sha256
from ftkit.files.folder_swap import current_folder
from ftkit.models.compute.devices import Compute, choose_device
from ftkit.models.compute.memory_format import choose_memory_format
from ftkit.models.compute.precision import evaluation_precision, traits_of
from ftkit.models.ensembles.ensemble_network import EnsembleNetwork, Reordered
from ftkit.models.identity import network_identity
from ftkit.models.surgery import build_network
from ftkit.models.weights.pretrained import restore_weights
from ftkit.parts.backbone import Backbone
from ftkit.parts.task import Task
from ftkit.plugins import BUILT_IN, Registry
from ftkit.runs.model_card import CARD, MEMBERS, WEIGHTS, BackboneId, ModelCard, damaged, read_card_and_digest
from ftkit.tasks.saved_task import saved_task
from ftkit.uncertainty.calibrated_network import calibrated_network


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to use: in eval mode, on its device.

    Attributes:
        model: Gives uncalibrated logits. Of an ensemble whose members differ in preprocessing, it can't be called.
        notes: Warnings for the user.
        members: The models of an ensemble with their weights, their outputs in the order of the ensemble's classes;
            they give calibrated logits, and their cards have no calibration.
        backbone: Describes the network; None for an ensemble.
    """

    model: nn.Module
    card: ModelCard
    folder: Path
    compute: Compute
    task: Task
    notes: tuple[str, ...] = ()
    members: tuple[tuple[Loaded, float], ...] = ()
    backbone: Backbone | None = None

    @property
    def calibrated(self) -> nn.Module:
        """The model with calibrated logits."""
        return calibrated_network(self.model, self.card.calibration, self.compute.device)

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`; where the members of an ensemble differ, all of theirs."""
        return ", ".join(sorted({one.compute.precision for one, _ in self.members} or {self.compute.precision}))


def backbone_id(registry: Registry, name: str) -> BackboneId:
    """The backbone and its package, as a card names them."""
    owner = registry.backbones.owner(name)
    return BackboneId(name, owner.name, owner.package, owner.version)


def save_bundle(
    folder: Path, model: nn.Module, card: ModelCard, beside: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a bundle, replacing an existing one.

    Versions and time that the card lacks are filled in.

    Args:
        beside: Writes further files into the folder.

    Raises:
        FtkitError: The folder can't be written; an existing bundle stays.
    """
    card = replace(
        card,
        ftkit=card.ftkit or ftkit.__version__,
        versions=card.versions or package_versions(),
        created=card.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )

    def write(place: Path) -> None:
        save_tensors(place / WEIGHTS, model.state_dict())
        beside(place)
        (place / CARD).write_bytes(card.encode(_sha256(place / WEIGHTS)))

    replace_folder(folder, write)


def load_bundle(
    folder: Path, device: str = "auto", precision: str = "auto", registry: Registry | None = None
) -> Loaded:
    """Check the files of a bundle, build its backbone and load the weights; the same for each member of an ensemble.

    Args:
        device: `auto`, `cuda`, `mps` or `cpu`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; `auto` is that of the model's validation where the device is fast
            at it, otherwise fp32.
        registry: The registry of backbones; by default the built-in and installed ones, and those in the plugin
            files of `./ftkit.yaml`. A model's folder never decides which code runs.

    Raises:
        RequestError: A file is missing, damaged or of a newer ftkit, or the backbone's plugin isn't installed.
    """
    folder = current_folder(folder)
    card, expected = read_card_and_digest(folder)
    if card.members:
        return _load_ensemble(folder, card, device, precision, registry)
    weights = folder / WEIGHTS
    if _sha256(weights) != expected:
        raise damaged(weights)
    registry = registry or _registry(card)
    backbone, task = _backbone(card, registry, folder), _task(card, registry, folder)
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{weights}: can't be read: {error}", "copy the bundle again, or train anew") from None
    model = _build(backbone, card, folder)
    notes = _code_notes(card, model)
    _fill(model, state, card, weights)
    preprocessing, found = card.preprocessing, choose_device(device)
    chosen, warning = evaluation_precision(precision, card.precision, found, lambda: traits_of(model))
    compute = Compute(torch.device(found), chosen)
    compute = choose_memory_format(model.eval(), compute, preprocessing.channels, preprocessing.size)
    notes = (*notes, warning) if warning else notes
    return Loaded(model, card, folder, compute, task, notes, backbone=backbone.for_size(preprocessing.size))


def _load_ensemble(folder: Path, card: ModelCard, device: str, precision: str, registry: Registry | None) -> Loaded:
    members, notes = list[tuple[Loaded, float]](), list[str]()
    for number, member in enumerate(card.members, 1):
        place = folder / MEMBERS / str(number)
        if _sha256(place / CARD) != member.card_sha256:
            raise damaged(place / CARD)
        loaded = load_bundle(place, device, precision, registry)
        if sorted(loaded.card.classes) != sorted(card.classes):
            raise RequestError(f"{folder / CARD}: member {number} has other classes", "make the ensemble again")
        places = class_places(card.classes, loaded.card.classes)
        model = loaded.calibrated
        model = model if places == sorted(places) else Reordered(model, places).to(loaded.compute.device)
        own = replace(loaded.card, calibration=None)
        members.append((replace(loaded, model=model, card=own), member.weight))
        notes += [f"member {number}: {line}" for line in loaded.notes]
    task, computes = _task(card, registry or _registry(members[0][0].card), folder), {m.compute for m, _ in members}
    found = members[0][0].compute
    compute = found if len(computes) == 1 else Compute(found.device, "fp32")
    network = EnsembleNetwork([one.model for one, _ in members], [weight for _, weight in members], task)
    return Loaded(network.to(compute.device).eval(), card, folder, compute, task, tuple(notes), tuple(members))


def class_places(classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Where each of `classes` is among `others`, which are the same names in any order."""
    known = {name: place for place, name in enumerate(others)}
    return [known[name] for name in classes]


def _registry(card: ModelCard) -> Registry:
    built_in = card.backbone.plugin == BUILT_IN
    return Registry() if built_in else Registry(project_plugins())


def _backbone(card: ModelCard, registry: Registry, folder: Path) -> Backbone:
    wanted = card.backbone
    if wanted.name in registry.backbones or registry.has_plugin(wanted.plugin):
        return registry.backbones.get(wanted.name, str(folder / CARD))
    raise RequestError(
        f"{folder / CARD}: backbone {wanted.name!r} comes from plugin {wanted.plugin!r}, which isn't here",
        f"work in the folder whose ftkit.yaml lists {wanted.package or wanted.plugin}"
        if wanted.is_own
        else f"pip install {wanted.package}",
    )


def _task(card: ModelCard, registry: Registry, folder: Path) -> Task:
    task = saved_task(card.task, registry, str(folder / CARD))
    try:
        task.check_decision(card.decision, len(card.classes))
    except RequestError as error:
        raise RequestError(f"{folder / CARD}: {error.message}", "train or export the model again") from None
    return task


def _build(backbone: Backbone, card: ModelCard, folder: Path) -> nn.Module:
    preprocessing = card.preprocessing
    try:
        # Building draws initial weights, which must not change a caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            return build_network(
                backbone.for_size(preprocessing.size), len(card.classes), card.head, preprocessing.channels
            )
    except (RuntimeError, ValueError, OverflowError, MemoryError, RequestError) as error:
        cause = error.message if isinstance(error, RequestError) else str(error)
        raise RequestError(
            f"{folder / CARD}: {card.backbone.name} can't be built: {one_line(cause)}", "copy the bundle again"
        ) from None


def _code_notes(card: ModelCard, network: nn.Module) -> tuple[str, ...]:
    """A warning where the code of a project's network has changed; with other versions of torch that is unknown."""
    known = card.backbone.code
    if not known or card.versions != package_versions() or known == network_identity(network):
        return ()
    return (
        f"the code or settings of {card.backbone.name} have changed since the model was trained: "
        "its weights may not fit the network",
    )


def _fill(model: nn.Module, state: Mapping[str, Tensor], card: ModelCard, weights: Path) -> None:
    try:
        restore_weights(model, state)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise RequestError(
            f"{weights} doesn't fit backbone {card.backbone.name!r} with {len(card.classes)} classes: {first.strip()}",
            f"the model was saved with {card.backbone.package or card.backbone.plugin} {card.backbone.version}".strip(),
        ) from None


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except FileNotFoundError:
        raise RequestError(f"{path} is missing", f"a model is {WEIGHTS} and {CARD}: copy both") from None
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error.strerror}") from None


def package_versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
    }
