"""A trained model exported by the name of a format: checked, written, and compared with what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftkit.config.load import Resolved, project_plugins, resolve
from ftkit.config.plugin_options import all_options, make
from ftkit.config.source_text import as_typed, written
from ftkit.config.sources import merge
from ftkit.config.yaml_file import Setting
from ftkit.data.loading.loader import Samples
from ftkit.errors import FtkitError, RequestError
from ftkit.evaluation.evaluation_data import choose_split
from ftkit.exporting.export_folder import check_target, describe_export, write_export
from ftkit.exporting.parity import BATCHES, Parity, random_images, reference_batches
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.parts.exporter import Exporter, TrainedModel
from ftkit.planning.run_data.run_splits import load_splits
from ftkit.plugins import Registry
from ftkit.plugins.optional_packages import is_installed
from ftkit.runs.run_lookup import run_of
from ftkit.transforms.pipeline import evaluation
from ftkit.transforms.preprocessing import Preprocessing

SECTION = "exporter"
"""What the keys of an exporter's options begin with, as those of a section of the config do."""
COUNT = sum(BATCHES)


@dataclass(frozen=True)
class Export:
    """A model that was exported.

    Attributes:
        folder: What was written.
        files: The names of the files in it.
        format: The exporter's name.
        model: The bundle that was exported.
        parity: How far the exported model is from the model.
        images: The data that images for the comparison were taken from, beside random ones; None where random ones
            alone were used.
        notes: Lines for people.
    """

    folder: Path
    files: tuple[str, ...]
    format: str
    model: Path
    parity: Parity
    images: str | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.model),
            "format": self.format,
            "folder": str(self.folder),
            "files": self.files,
            "parity": {**asdict(self.parity), "data": self.images},
            "notes": self.notes,
        }


def export_bundle(
    bundle: Path, format_name: str, target: Path, settings: Sequence[Setting] = (), replace_export: bool = False
) -> Export:
    """Export a model, and compare what was written with the model, on random images and on some of its run's data.

    Args:
        format_name: The name of an exporter.
        target: The folder to write.
        settings: The exporter's options, with `SECTION` before each key.
        replace_export: Write over an earlier export.

    Raises:
        RequestError: A name, an option or the target can't be used, or a package is missing.
        FtkitError: The exporter failed, or the exported model differs too much; nothing is left behind.
    """
    check_target(target, replace_export)
    run, notes = _run_config(bundle)
    # One registry, so that the exporter and the run's own network come from the same modules.
    registry = Registry(tuple(dict.fromkeys((*project_plugins(), *(map(Path, run.config.plugins) if run else ())))))
    exporter = make_exporter(format_name, settings, registry)
    loaded = load_bundle(bundle, "cpu", "fp32", registry)
    _require_one_preprocessing(loaded)
    source, images, more = _images_of_run(run and replace(run, registry=registry), loaded.card.preprocessing)
    model = _trained_model(loaded)
    batches = reference_batches(model, [random_images(model.preprocessing, COUNT), images])
    about = describe_export(format_name, exporter, all_options(exporter, {}), loaded.card)
    files, parity = write_export(target, format_name, exporter, model, batches, about)
    return Export(target, files, format_name, bundle, parity, source, (*notes, *loaded.notes, *more))


def make_exporter(name: str, settings: Sequence[Setting], registry: Registry) -> Exporter:
    """An exporter by name, with its options.

    Raises:
        RequestError: There is no such name, an option is wrong, or a package that it needs is missing.
    """
    cls = registry.exporters.get(name, "--format")
    tree, marks = merge([settings])
    given = tree.get(SECTION, {})
    options = as_typed(given, written(marks, (SECTION,), given), cls)
    sources = {".".join(key): setting.where for key, setting in marks.items()}
    exporter = make(cls, options, SECTION, sources, registry)
    require_packages(exporter, f"--format {name}")
    return exporter


def require_packages(exporter: Exporter, what: str) -> None:
    """Check that the packages of an exporter are installed.

    Args:
        what: The exporter in the message.

    Raises:
        RequestError: Names those that are missing, and the command that installs them.
    """
    missing = [package for package in exporter.packages if not is_installed(package)]
    if missing:
        raise RequestError(
            f"{what} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            f"pip install '{exporter.install}'" if exporter.install else f"pip install {' '.join(missing)}",
        )


def _run_config(bundle: Path) -> tuple[Resolved | None, tuple[str, ...]]:
    """The config of the run that a bundle lies in, where it is there and can still be used."""
    run = run_of(bundle)
    if run is None or not (run / "config.yaml").is_file():
        return None, ()
    try:
        return resolve(run / "config.yaml", {}, [], {}), ()
    except RequestError as error:
        return None, (_random_only(error),)


def _images_of_run(run: Resolved | None, preprocessing: Preprocessing) -> tuple[str | None, Tensor, tuple[str, ...]]:
    """Some images of a run's data as the network takes them: where they come from, the images, notes for people."""
    nothing = random_images(preprocessing, 0)
    if run is None:
        return None, nothing, ()
    source = f"dataset {run.config.dataset.name}"
    try:
        splits, _ = load_splits(run, for_training=False)
        name, split = choose_split(splits, None, ("test", "val", "train"), source)
        places = [number * len(split) // COUNT for number in range(min(COUNT, len(split)))]
        samples = Samples(split, evaluation(preprocessing))
        found = [image for place in places if (image := samples.read((0, place, 0))[0]) is not None]
    except FtkitError as error:
        return None, nothing, (_random_only(error),)
    if not found:
        return None, nothing, (f"compared on random images alone: none of {source} can be read",)
    return f"{source}, {name} split", torch.stack(found), ()


def _random_only(error: FtkitError) -> str:
    return f"compared on random images alone: the run's data can't be used: {error.message}"


def _require_one_preprocessing(loaded: Loaded) -> None:
    """Refuse an ensemble whose members take different images: an exported model has one input.

    Raises:
        RequestError: Names the members.
    """
    for number, (member, _) in enumerate(loaded.members, 1):
        if member.card.preprocessing != loaded.members[0][0].card.preprocessing:
            raise RequestError(
                f"{loaded.folder}: members 1 and {number} differ in preprocessing, and an export has one input",
                "export the members, or make an ensemble of models with one preprocessing",
            )


def _trained_model(loaded: Loaded) -> TrainedModel:
    network = loaded.calibrated.requires_grad_(False).to(memory_format=torch.contiguous_format)
    return TrainedModel(network, loaded.card.classes, loaded.card.preprocessing)
