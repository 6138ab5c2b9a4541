"""The folder of an exported model: its files, and `export.json`, which describes them. Written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ftkit
from ftkit.errors import FtkitError, RequestError
from ftkit.exporting.parity import TRACED, Batch, InvalidExport, Parity, compare_logits, random_images
from ftkit.files.durable import replace_folder
from ftkit.files.json_text import dump_json
from ftkit.parts.exporter import Exporter, TrainedModel
from ftkit.plugin_errors import describe_exception, is_out_of_memory, plugin_error_for, plugin_of
from ftkit.runs.model_card import ModelCard

FORMAT = 1
DESCRIPTION = "export.json"
REMEDY = "choose another --format; if the exporter is yours, fix it"


def check_target(target: Path, replace: bool) -> None:
    """Refuse to write over anything that isn't an earlier export, and over that unless asked to.

    Raises:
        RequestError: Names what is there.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise RequestError(f"--to {target}: it is not a folder", "give a new folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / DESCRIPTION).is_file():
        raise RequestError(f"--to {target}: the folder has other files", "give a new folder")
    if not replace:
        raise RequestError(f"--to {target}: there is an exported model", "give --force to replace it")


def write_export(
    target: Path, name: str, exporter: Exporter, model: TrainedModel, batches: Sequence[Batch], about: Mapping[str, Any]
) -> tuple[tuple[str, ...], Parity]:
    """Export a model into a folder, and compare it with the model.

    Args:
        target: A folder that `check_target` allows.
        name: The exporter's, for messages.
        batches: What to compare.
        about: What `export.json` has beside the files and the comparison.

    Returns:
        The names of the files in the folder, and the comparison.

    Raises:
        FtkitError: The exporter failed, or the exported model differs too much; nothing is left behind.
    """
    done: list[tuple[tuple[str, ...], Parity]] = []

    def write(folder: Path) -> None:
        files = _export(folder, name, exporter, model)
        parity = _compare(folder, name, exporter, batches)
        content = {**about, "files": files, "parity": asdict(parity)}
        (folder / DESCRIPTION).write_text(dump_json(content, indent=2) + "\n", encoding="utf-8")
        done.append(((*files, DESCRIPTION), parity))

    with _removing_new_parents(target):
        replace_folder(target, write)
    return done[0]


def describe_export(name: str, exporter: Exporter, options: Mapping[str, Any], card: ModelCard) -> dict[str, Any]:
    """What `export.json` has beside the files and the comparison: all that is needed to use the exported model."""
    preprocessing = card.preprocessing
    size = preprocessing.size
    return {
        "format": FORMAT,
        "ftkit": ftkit.__version__,
        "exporter": {"name": name, "options": dict(options)},
        "input": {"shape": ["batch", preprocessing.channels, size, size], "dtype": "float32"},
        "output": {"shape": ["batch", len(card.classes)], "dtype": "float32", "values": "logits"},
        "classes": card.classes,
        "task": card.task,
        "decision": card.applied_decision,
        "calibration": None if card.calibration is None else asdict(card.calibration),
        "preprocessing": {
            **asdict(preprocessing),
            "channels": preprocessing.channels,
            "resize": preprocessing.resize if preprocessing.fit == "crop" else None,
            "antialias": True,
        },
        "model": {
            "backbone": card.backbone.name,
            "metrics": card.metrics,
            "epoch": card.epoch,
            "average": card.average,
            "fingerprint": card.fingerprint,
            "created": card.created,
            "versions": card.versions,
        },
    }


def _export(folder: Path, name: str, exporter: Exporter, model: TrainedModel) -> tuple[str, ...]:
    with exporter_errors(name, exporter, "export"):
        returned = exporter.export(model, random_images(model.preprocessing, TRACED), folder)
        _check_files(folder, returned)
    return tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()))


def _check_files(folder: Path, returned: object) -> None:
    """Refuse an export that wrote nothing, or something that wouldn't come along with the folder."""
    if isinstance(returned, str | bytes) or not isinstance(returned, Sequence):
        raise InvalidExport(f"it returned {type(returned).__name__}, not a list of paths")
    paths = [Path(path) for path in returned]
    if not paths:
        raise InvalidExport("it returned no file")
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidExport(f"it returned {path}, which is outside of the folder that it was given")
        if not path.exists():
            raise InvalidExport(f"it returned {path.name}, which it didn't write")
    if (folder / DESCRIPTION).exists():
        raise InvalidExport(f"it wrote {DESCRIPTION}, which is the name of ftkit's own file")
    link = next((path for path in folder.rglob("*") if path.is_symlink()), None)
    if link is not None:
        raise InvalidExport(f"it wrote the symbolic link {link.name}")
    if not any(path.is_file() for path in folder.rglob("*")):
        raise InvalidExport("it wrote no file")


def _compare(folder: Path, name: str, exporter: Exporter, batches: Sequence[Batch]) -> Parity:
    with exporter_errors(name, exporter, "load"):
        parity = compare_logits(exporter.load(folder), batches, exporter.tolerance)
    if not parity.holds:
        raise FtkitError(
            f"{_who(name, exporter)}: a logit of the exported model differs by {parity.largest_difference:.2g} "
            f"from the model's, more than the tolerance of {parity.tolerance:.2g}; nothing was written",
            REMEDY,
        )
    return parity


@contextmanager
def exporter_errors(name: str, exporter: Exporter, method: str) -> Iterator[None]:
    """While an exporter's code runs: what it raises becomes one line that names its plugin and the exporter.

    Errors that are meant for users pass; so do Ctrl-C, memory that runs out, and a disk that a built-in exporter can't
    write to.
    """
    try:
        yield
    except (FtkitError, KeyboardInterrupt, GeneratorExit):
        raise
    except InvalidExport as error:
        raise FtkitError(f"{_who(name, exporter)}: {error}", REMEDY) from None
    except BaseException as error:
        if is_out_of_memory(error) or (isinstance(error, OSError) and plugin_of(exporter) is None):
            raise
        raise _failure(name, exporter, method, error) from error


def _failure(name: str, exporter: Exporter, method: str, error: BaseException) -> FtkitError:
    return plugin_error_for(error, f"{method}() of exporter {name!r}", exporter) or FtkitError(
        f"exporter {name!r} failed in {method}(): {describe_exception(error)}",
        "choose another --format; --debug shows the traceback",
    )


def _who(name: str, exporter: Exporter) -> str:
    plugin = plugin_of(exporter)
    return f"plugin {plugin!r}, exporter {name!r}" if plugin else f"exporter {name!r}"


@contextmanager
def _removing_new_parents(target: Path) -> Iterator[None]:
    """Remove the folders above a target that didn't exist before, if what makes the target fails."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise
