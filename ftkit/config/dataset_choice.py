"""The dataset of commands that read no config file: options from a model card, from `--data` and from `--set`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.config.load import class_of, fill_choice
from ftkit.config.plugin_options import make
from ftkit.config.schema import Config
from ftkit.config.sources import from_flags, merge
from ftkit.config.yaml_file import Setting
from ftkit.errors import RequestError
from ftkit.parts.dataset import Dataset
from ftkit.plugins import Registry


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset with its options.

    Attributes:
        options: Those that were given, as YAML values, with absolute paths.
    """

    name: str
    options: Mapping[str, Any]
    dataset: Dataset


def choose_dataset(
    data: Mapping[str, str], sets: Sequence[str], registry: Registry, usual: Mapping[str, Any] | None = None
) -> DatasetChoice:
    """The dataset that is described by `--data` and `--set dataset.KEY=VALUE`.

    Args:
        data: Its name and the option with its path; empty without `--data`.
        sets: As given, `KEY=VALUE`.
        usual: Name and options that the others override; the options are for a dataset of that name only.

    Raises:
        RequestError: `--set` has another key, no dataset is named, or an option is unknown or invalid.
    """
    first = [Setting(("dataset", key), value, "the model card", Path.cwd()) for key, value in (usual or {}).items()]
    given = from_flags({"dataset": ("--data", data)} if data else {}, sets)
    for setting in given:
        if setting.key[0] != "dataset":
            raise RequestError(
                f"{setting.where}: only options of the dataset can be set here", "write it like --set dataset.KEY=VALUE"
            )
    if not any(setting.key == ("dataset", "name") for setting in (*first, *given)):
        raise RequestError(f"{given[0].where if given else '--set'}: no dataset is named", "give --data too")
    tree, marks = merge([first, given])
    sources = {".".join(key): setting.where for key, setting in marks.items()}
    section = type(Config.model_fields["dataset"].get_default())
    choice = fill_choice(("dataset",), section.model_validate(tree["dataset"]), registry, marks, sources)
    cls, values = class_of("dataset", choice.name, registry), choice.model_dump(mode="json")
    options = {key[1]: values[key[1]] for key in marks if len(key) > 1 and key[1] != "name"}
    return DatasetChoice(choice.name, options, make(cls, choice.options, "dataset", sources, registry))
