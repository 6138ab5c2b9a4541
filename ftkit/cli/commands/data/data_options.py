"""The options that name the data of `ftkit data`, and the config that they give."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftkit.cli.flags import dataset_at
from ftkit.cli.options import warn_of_faults
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from ftkit.config.load import Resolved

DataPath = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATH]",
        help="Folder of images, CSV file, archive or URL, or a run for its data; by default the data of ./ftkit.yaml.",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Option of the data, such as dataset.label_column=breed."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Config file whose data is read.")
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="COLUMN|REGEX|parent",
        help="Group of each image, such as its patient: a CSV column, a regular expression with one (group) that is "
        "searched in its path, or parent for its folder.",
    ),
]

DATA_KEYS = ("dataset", "classes", "label_map")
"""Sections of the config that describe data."""


def resolve_data(
    path: str | None,
    config: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] | None = None,
    keys: Sequence[str] = DATA_KEYS,
) -> Resolved:
    """The config that names the data of a command.

    Args:
        path: Data or a run; None for the data of a config file.
        flags: Further flags by dotted config key, with their spelling and value.
        keys: First parts of the keys that `--set` may have.

    Raises:
        RequestError: No data is named, or `--set` has another key.
    """
    from ftkit.config import DEFAULT_FILE
    from ftkit.config.load import resolve

    for item in sets:
        first = item.partition("=")[0].strip().partition(".")[0]
        if first not in keys:
            raise RequestError(f"--set {item}: only {', '.join(keys)} can be set here", "drop it")
    run = run_config(path)
    if run is not None and config is not None:
        raise RequestError(f"--config has no effect with the run {path}", "drop one of them")
    if path is None and config is None and not DEFAULT_FILE.is_file() and not any(_names_data(item) for item in sets):
        raise RequestError("no data is named", "give a folder of images, a CSV file, an archive or a run")
    given = dict(flags or {})
    if path is not None and run is None:
        given["dataset"] = ("PATH", dataset_at(path))
    resolved = resolve(run or config, given, sets, {} if run is not None else os.environ)
    warn_of_faults(resolved.registry)
    return resolved


def run_config(path: str | None) -> Path | None:
    """The config file of a run folder, or None for a path that isn't one."""
    if path is None or not (Path(path) / "config.yaml").is_file() or not (Path(path) / "plan.json").is_file():
        return None
    return Path(path) / "config.yaml"


def _names_data(item: str) -> bool:
    return item.partition("=")[0].strip() in ("dataset", "dataset.name")
