"""The teacher of a run: a trained model whose outputs the network learns, beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.config.load import Resolved
from ftkit.data.plugin_checks import error_prefix
from ftkit.errors import RequestError
from ftkit.models.weights.head_classes import class_places
from ftkit.parts.dataset import Splits
from ftkit.runs.model_card import ModelCard, read_card_and_digest
from ftkit.runs.run_lookup import find_model


@dataclass(frozen=True)
class Teacher:
    """A model that is there, with the classes of the run.

    Attributes:
        folder: The folder of the model.
        sha256: The digest of its weights.
        places: For each class of the run, its index among the model's outputs.
    """

    folder: Path
    card: ModelCard
    sha256: str
    places: tuple[int, ...]

    @property
    def config_update(self) -> Mapping[str, str]:
        """The config key with the folder in place of a run's name, for runs with another output folder."""
        return {"teacher": str(self.folder)}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the card of a model says of its teacher."""
        return {"model": str(self.folder), "backbone": self.card.backbone.name, "sha256": self.sha256}


def find_teacher(resolved: Resolved, splits: Splits) -> Teacher | None:
    """The teacher that a config names; None without one.

    Raises:
        RequestError: It isn't there, is of other classes or another task, or a setting would have no effect.
    """
    config, where = resolved.config, resolved.where("teacher")
    if config.teacher is None:
        idle = next(
            (key for key in resolved.sources if key.startswith("distillation") and resolved.is_requested(key)), None
        )
        if idle is not None:
            raise RequestError(f"{resolved.where(idle)} has no effect without a teacher", "give --teacher RUN too")
        return None
    if not config.epochs:
        raise RequestError(f"{where} has no effect: the run trains no epochs", "drop it, or train some")
    with error_prefix(where):
        folder = find_model(config.teacher, Path(config.output))
        card, sha256 = read_card_and_digest(folder)
    if card.task.get("name") != config.task.name:
        raise RequestError(
            f"{where}: the task of {folder} is {card.task.get('name')}, and that of the run {config.task.name}",
            "give a teacher of the same task",
        )
    places = class_places(card.classes, splits.classes, f"{where}: {folder} is", "give a teacher of the same classes")
    return Teacher(folder.absolute(), card, sha256, places)
