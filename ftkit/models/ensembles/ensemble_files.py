"""Writes the folder of an ensemble: copies of trained models, and a card that makes them one model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import ftkit
from ftkit.config.load import project_plugins
from ftkit.errors import RequestError, one_line, plural
from ftkit.files.durable import replace_folder
from ftkit.files.file_identity import file_sha256
from ftkit.files.folder_swap import current_folder
from ftkit.models.bundle import class_places, package_versions
from ftkit.plugins import BUILT_IN, Registry
from ftkit.runs.model_card import (
    CARD,
    ENSEMBLE_FORMAT,
    MEMBERS,
    WEIGHTS,
    BackboneId,
    EnsembleMember,
    ModelCard,
    damaged,
    read_card_and_digest,
)
from ftkit.tasks.saved_task import saved_task

T = TypeVar("T")


@dataclass(frozen=True)
class _Source:
    """A model to copy: where it is, its card, and the digests of both files."""

    folder: Path
    card: ModelCard
    card_sha256: str
    weights_sha256: str


def make_ensemble(
    models: Sequence[Path], target: Path, weights: Sequence[float] | None = None, replace: bool = False
) -> ModelCard:
    """Write an ensemble of models into a folder, whole or not at all.

    Args:
        models: Folders of models.
        target: A new folder.
        weights: Of the models; they are divided by their sum. By default all are equal.
        replace: Replace an ensemble in that folder.

    Returns:
        Its card.

    Raises:
        RequestError: The models can't be combined, one is damaged, or the folder can't be used.
    """
    _check_target(target, replace)
    sources = [_source(folder) for folder in models]
    _check_alike(sources)
    card = _card(sources, _shares(weights, len(sources)))

    def write(place: Path) -> None:
        for number, source in enumerate(sources, 1):
            folder = place / MEMBERS / str(number)
            folder.mkdir(parents=True)
            for name, sha256 in ((WEIGHTS, source.weights_sha256), (CARD, source.card_sha256)):
                shutil.copyfile(source.folder / name, folder / name)
                if file_sha256(folder / name) != sha256:
                    raise damaged(source.folder / name)
        (place / CARD).write_bytes(card.encode(""))

    replace_folder(target, write)
    return card


def _check_target(target: Path, replace: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(f"--to {target}: it is not a folder", "give a new folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / CARD).is_file() or not (target / MEMBERS).is_dir():
        raise RequestError(f"--to {target}: the folder has other files", "give a new folder")
    if not replace:
        raise RequestError(f"--to {target}: there is an ensemble", "give --force to replace it")


def _source(folder: Path) -> _Source:
    folder = current_folder(folder)
    card, weights_sha256 = read_card_and_digest(folder)
    if card.members:
        raise RequestError(f"{folder} is an ensemble itself", f"give its members: {folder / MEMBERS}/*")
    if not (folder / WEIGHTS).is_file():
        raise RequestError(f"{folder / WEIGHTS} is missing", f"a model is {WEIGHTS} and {CARD}: copy both")
    return _Source(folder, card, file_sha256(folder / CARD), weights_sha256)


def _check_alike(sources: Sequence[_Source]) -> None:
    """Check that several models of one task and the same classes are given, none of them twice."""
    if len(sources) < 2:
        raise RequestError(f"an ensemble needs two models or more, not {len(sources)}", "give further runs or models")
    first = sources[0]
    for place, other in enumerate(sources[1:], 1):
        both = f"{first.folder} and {other.folder}"
        if dict(first.card.task) != dict(other.card.task):
            tasks = [_task_text(one.card.task) for one in (first, other)]
            raise RequestError(f"{both} differ in their task: {tasks[0]} and {tasks[1]}", "combine models of one task")
        differing = sorted(set(first.card.classes) ^ set(other.card.classes))
        if differing:
            owner = first if differing[0] in first.card.classes else other
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            which = f"{one_line(differing[0])}{more}, {'the first' if more else 'only'} of {owner.folder}"
            raise RequestError(f"{both} differ in their classes: {which}", "combine models of the same classes")
        if dict(first.card.origin) != dict(other.card.origin):
            raise RequestError(
                f"{both} were trained with different classes or label_map", "combine models of the same selection"
            )
        same = next((one for one in sources[:place] if one.weights_sha256 == other.weights_sha256), None)
        if same is not None:
            raise RequestError(
                f"{same.folder} and {other.folder} are the same model", "give it once, and with --weights count it more"
            )


def _task_text(task: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in task.items() if key != "name")
    return f"{task.get('name')}{f' ({options})' if options else ''}"


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise RequestError(
            f"--weights has {plural(len(given), 'number')} for {plural(count, 'model')}", "give one for each"
        )
    wrong = next((weight for weight in given if not (math.isfinite(weight) and weight > 0)), None)
    if wrong is not None:
        raise RequestError(f"--weights: {wrong:g} is not a positive number", "leave a model out to give it no weight")
    return [weight / sum(given) for weight in given]


def _card(sources: Sequence[_Source], shares: Sequence[float]) -> ModelCard:
    first, cards = sources[0].card, [source.card for source in sources]
    task = saved_task(first.task, Registry(project_plugins()), str(sources[0].folder / CARD))
    orders = [class_places(first.classes, card.classes) for card in cards]
    decisions = [task.reordered_decision(one.applied_decision, order) for one, order in zip(cards, orders, strict=True)]
    names = ", ".join(sorted({card.backbone.name for card in cards}))
    members = tuple(
        EnsembleMember(one.card_sha256, share, str(one.folder), one.card.backbone.name, one.card.metrics)
        for one, share in zip(sources, shares, strict=True)
    )
    return ModelCard(
        classes=first.classes,
        preprocessing=first.preprocessing,
        backbone=BackboneId(f"ensemble of {len(cards)}: {names}", BUILT_IN, BUILT_IN, ftkit.__version__),
        fingerprint=_common([card.fingerprint for card in cards], ""),
        versions=package_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        ftkit=ftkit.__version__,
        origin=first.origin,
        task=first.task,
        decision=task.averaged_decision(decisions, shares),
        dataset=_common([card.dataset for card in cards], {}),
        members=members,
        format=ENSEMBLE_FORMAT,
    )


def _common(values: Sequence[T], otherwise: T) -> T:
    """The value if all are equal."""
    return values[0] if all(value == values[0] for value in values) else otherwise
