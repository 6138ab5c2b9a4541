"""A new run folder, with the plan, the config and the splits of its run."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TextIO, cast

from ftkit.config.load import to_yaml
from ftkit.config.schema import Config
from ftkit.distributed import launch_env
from ftkit.errors import FtkitError
from ftkit.files.json_text import dump_json, escape_undecodable
from ftkit.parts.dataset import Splits
from ftkit.parts.label_sets import Label, label_text
from ftkit.planning.run_plan import Plan
from ftkit.runs.run_folder import RunFolder, create_run

MOST_LINES = 100_000
"""Images that `splits.csv` lists; with more the list is compressed, which makes it about a tenth as large."""


def open_run(plan: Plan, others: Mapping[str, str] = MappingProxyType({})) -> RunFolder:
    """Create a run folder with the plan and the config; one for all processes.

    Args:
        others: Further files to write, by name.
    """
    if launch_env.world() == 1:
        return _create(plan, others)
    from ftkit.distributed.processes import run_on_main
    from ftkit.models.compute.devices import join_processes

    join_processes(plan.config)
    return RunFolder(Path(run_on_main(lambda: str(_create(replace(plan, world_size=launch_env.world()), others).path))))


def _create(plan: Plan, others: Mapping[str, str]) -> RunFolder:
    config: Config = plan.config
    folder = create_run(Path(config.output), config.name, config.backbone, config.strategy.name)
    packed = sum(len(split) for _, split in plan.splits.present()) > MOST_LINES
    try:
        _put(folder.packed_splits if packed else folder.splits, lambda file: write_splits(file, plan.splits))
        folder.append_list(folder.bad_images, plan.findings.bad)
        folder.append_list(folder.duplicates, plan.findings.duplicates)
        for name, text in others.items():
            _write(folder.path / name, text)
        write_request(folder, plan)
    except BaseException:
        folder.discard()
        raise
    return folder


def write_request(folder: RunFolder, plan: Plan) -> None:
    """Write a run's plan, with the parameters counted, and its config into its folder.

    The config is written last: a folder that has one can be resumed.

    Raises:
        FtkitError: They can't be written.
    """
    from ftkit.models.build import with_parameter_counts

    _write(folder.plan, dump_json(with_parameter_counts(plan).to_json(), indent=1))
    write_config(folder, plan.config)


def write_config(folder: RunFolder, config: Config) -> None:
    """Write a run's config into its folder; errors as in `write_request`.

    The file keeps the time of its first writing, which is that of the run's start.
    """
    begun = folder.config.stat() if folder.config.exists() else None
    # A run that is started from this config is another run with another name.
    _write(folder.config, to_yaml(config.model_copy(update={"name": None})))
    if begun is not None:
        os.utime(folder.config, ns=(begun.st_atime_ns, begun.st_mtime_ns))


def write_splits(file: TextIO, splits: Splits) -> None:
    """A line for each image: split, name and class, or classes joined by `|`, in the order of the run."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(("split", "name", "label"))
    for name, split in splits.present():
        labels: Sequence[Label] = split.labels
        for sample, label in zip(split.names, labels, strict=True):
            writer.writerow((name, escape_undecodable(sample), label_text(label, splits.classes)))


def _write(path: Path, text: str) -> None:
    _put(path, lambda file: file.write(text))


def _put(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a file of a run, whole or not at all; compressed if its name ends with .gz.

    Raises:
        FtkitError: It can't be written.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with _opened(temporary, path.suffix == ".gz") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise FtkitError(f"{path} can't be written: {error.strerror or error}", "free disk space there") from error


def _opened(path: Path, compressed: bool) -> TextIO:
    if compressed:
        # The fastest level: paths that are alike become a tenth as large with any.
        return cast(TextIO, gzip.open(path, "wt", compresslevel=1, encoding="utf-8", newline=""))
    return path.open("w", encoding="utf-8", newline="")
