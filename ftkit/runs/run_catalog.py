"""Runs and model bundles on disk: where they are, and the card that says what a model is.

A bundle is a folder with `model.safetensors` and `model.json`, the card. Reading one needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ftkit.errors import RequestError, one_line, shell_word, unknown
from ftkit.files.folder_swap import current_folder
from ftkit.files.json_text import dump_json
from ftkit.parts.backbone import Head
from ftkit.transforms.preprocessing import Preprocessing

FORMAT = 1
CARD = "model.json"
WEIGHTS = "model.safetensors"
MODEL = "model"
"""The bundle's folder inside a run folder."""

CHECKPOINTS = "checkpoints"
_RUN_MARKS = ("config.yaml", "plan.json", CHECKPOINTS)
_OWN_SUM = re.compile(rb'"sha256": "([0-9a-f]{64})"')


@dataclass(frozen=True)
class BackboneId:
    """Which backbone a model has, and which package must be installed to build it.

    Attributes:
        plugin: The plugin's name; `ftkit` for built-in ones.
        package: What `pip install` takes, or the path of a project's own plugin file.
        version: The plugin's version when the model was saved.
        code: Digits for the code and settings of the network, where it is a project's own; otherwise empty.
    """

    name: str
    plugin: str
    package: str
    version: str
    code: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it comes from a project's own file, whose code may change while its version doesn't."""
        return not self.package or "/" in self.package


@dataclass(frozen=True)
class Card:
    """All that is needed to use a model, and where it came from.

    Attributes:
        classes: Class names in the order of the model's outputs.
        weights: Where training started from, for people.
        strategy: Its name and options.
        metrics: Metrics on the validation split; None for one that isn't a number.
        epoch: Whole epochs that the weights were trained for.
        fingerprint: `Splits.fingerprint` of the data.
        versions: Of python, torch and torchvision.
        created: Date and time, ISO 8601, UTC.
        ftkit: The version that wrote the bundle.
        head: What the classifier is made of.
        origin: Where classes were chosen or mapped: by class of the training data, which of `classes` it
            counts as, None where its images weren't used.
        format: The version of the bundle's layout.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    backbone: BackboneId
    weights: str = ""
    strategy: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    epoch: int = 0
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    ftkit: str = ""
    head: Head = field(default_factory=Head)
    origin: Mapping[str, str | None] = field(default_factory=dict)
    format: int = FORMAT

    def encode(self, weights_sha256: str) -> bytes:
        """The card as `model.json`, with the sum of the weights' file and its own.

        Its own sum is taken with the sum's digits as zeros, so that it covers every byte of both files.
        """
        content = {"format": self.format, "sha256": "0" * 64, "weights_sha256": weights_sha256, **asdict(self)}
        blank = dump_json(content, indent=2).encode() + b"\n"
        return blank.replace(b'"' + b"0" * 64 + b'"', f'"{hashlib.sha256(blank).hexdigest()}"'.encode(), 1)


def read_card(folder: Path) -> Card:
    """The card of a bundle, checked against its own sum.

    Raises:
        RequestError: It is missing, damaged, or of a newer ftkit.
    """
    return read_sealed(folder)[0]


def read_sealed(folder: Path) -> tuple[Card, str]:
    """The card of a bundle, and the sum that the weights' file must have; errors as in `read_card`."""
    path = current_folder(folder) / CARD
    raw = _read(path)
    try:
        content = json.loads(raw)
        layout = content["format"]
    except (ValueError, KeyError, TypeError):
        raise damaged(path) from None
    whole = _is_whole(raw)
    if isinstance(layout, int) and layout > FORMAT:
        cause = f"written by a newer ftkit (format {layout})"
        raise RequestError(f"{path}: {cause if whole else cause + ', or damaged'}", "upgrade ftkit")
    if not whole:
        raise damaged(path)
    try:
        return _decode(content), str(content["weights_sha256"])
    except (KeyError, ValueError, RequestError) as error:
        raise RequestError(
            f"{path}: not a card that ftkit wrote: {first_fault(error)}", "train or export the model again"
        ) from None


def damaged(path: Path) -> RequestError:
    """The error for a file of a bundle whose bytes aren't those that were written."""
    return RequestError(
        f"{path}: the file is damaged: it isn't what ftkit wrote", "copy the bundle again, or train anew"
    )


def find_model(spec: str | None, runs_dir: Path) -> Path:
    """The bundle that a person means.

    Args:
        spec: A bundle, a file in it, a run folder, or a run's name; None is the latest run with a model.
        runs_dir: The folder that run folders are made in.

    Returns:
        A folder that exists; whether its content is whole, loading it tells.

    Raises:
        RequestError: Nothing there, or a run that has no model yet.
    """
    if spec is None:
        return _latest(runs_dir)
    places = (Path(spec), runs_dir / spec)
    for place in places:
        refuse_run_part(place)
        folder = place.parent if place.name in (CARD, WEIGHTS) else place
        for bundle in (current_folder(folder), current_folder(folder / MODEL)):
            if _is_bundle(bundle):
                return bundle
    stopped = next((place for place in places if _is_run(place)), None)
    if stopped is not None:
        raise RequestError(
            f"{stopped}: the run has no model yet: it is still training, or was stopped",
            f"ftkit train --resume {shell_word(stopped)}",
        )
    names = [run.name for run in run_folders(runs_dir)]
    if Path(spec).exists() or not names:
        what = "is neither a run nor a model" if Path(spec).exists() else "isn't there"
        raise RequestError(f"{spec} {what}", "give a run's folder or name, or a model folder; ftkit train makes one")
    raise unknown("run", spec, names, str(runs_dir))


def refuse_run_part(path: Path) -> None:
    """Refuse what of a run's folder holds weights and is no model: a checkpoint, and the weights it is measured from.

    Args:
        path: A folder, or a file in it.

    Raises:
        RequestError: It is one of them; names the run's model.
    """
    folder = path if path.is_dir() else path.parent
    run, what = folder.parent, "a run's first weights, without its buffers"
    if (folder / "state.json").is_file() and (folder / "optimizer.safetensors").is_file():
        run, what = run.parent, "a checkpoint to resume from, which keeps frozen layers in another file"
    elif path.is_dir() and folder.name == CHECKPOINTS and (folder / "LATEST").is_file():
        what = "the checkpoints that a run resumes from"
    elif folder.name != "first" or not (run / "plan.json").is_file():
        return
    has_model = _is_bundle(current_folder(run / MODEL))
    raise RequestError(
        f"{path} is not a model: it is {what}",
        f"give {run / MODEL}" if has_model else f"finish the run first: ftkit train --resume {run}",
    )


def find_run(spec: str, runs_dir: Path) -> Path:
    """The run folder that a person means by its path or its name.

    Raises:
        RequestError: There is no such run.
    """
    for place in (Path(spec), runs_dir / spec):
        if _is_run(place):
            return place
    if Path(spec).exists():
        raise RequestError(f"{spec} is not a run", "give a run's folder or name; ftkit runs list shows them")
    names = [run.name for run in run_folders(runs_dir)]
    if not names:
        raise RequestError(f"no run {spec}, nor any other in {runs_dir}", "ftkit train makes one")
    raise unknown("run", spec, names, str(runs_dir))


def run_of(bundle: Path) -> Path | None:
    """The run folder that a bundle lies in, or None for a bundle on its own."""
    return bundle.parent if _is_run(bundle.parent) else None


def _latest(runs_dir: Path) -> Path:
    runs = run_folders(runs_dir)
    bundles = [bundle for run in runs if _is_bundle(bundle := current_folder(run / MODEL))]
    if bundles:
        return max(bundles, key=lambda bundle: bundle.stat().st_mtime_ns)
    if runs:
        newest = max(runs, key=lambda run: run.stat().st_mtime_ns)
        raise RequestError(f"no run in {runs_dir} has a model yet", f"ftkit train --resume {shell_word(newest)}")
    raise RequestError(f"no trained run in {runs_dir}", "ftkit train makes one; or give a model with --model")


def run_folders(runs_dir: Path) -> list[Path]:
    """The run folders in a folder, by name."""
    return sorted(place for place in runs_dir.iterdir() if _is_run(place)) if runs_dir.is_dir() else []


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _RUN_MARKS)


def _is_bundle(folder: Path) -> bool:
    # One of the two files is enough: which one is missing is worth saying, and loading says it.
    return (folder / CARD).is_file() or (folder / WEIGHTS).is_file()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path} is missing", "a model is model.safetensors and model.json: copy both") from None
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error.strerror}") from None


def _is_whole(raw: bytes) -> bool:
    found = _OWN_SUM.search(raw)
    if found is None:
        return False
    blank = raw[: found.start(1)] + b"0" * 64 + raw[found.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode() == found[1]


def _decode(content: Mapping[str, Any]) -> Card:
    """The card of its JSON, each value of its type: a sum is right for whatever somebody wrote under it."""
    from pydantic import TypeAdapter

    return TypeAdapter(Card).validate_python({f.name: content[f.name] for f in fields(Card)})


def first_fault(error: Exception) -> str:
    """What is wrong, in a line, with a value that has another shape than it should."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return one_line(error.message if isinstance(error, RequestError) else str(error))
