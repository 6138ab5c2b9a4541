"""The model card: `model.json`, which describes the weights in `model.safetensors` beside it. Needs no torch.

The card of an ensemble describes members instead, which are models in `members/1`, `members/2` and so on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ftkit.config.choices import Precision as PrecisionName
from ftkit.errors import RequestError, one_line
from ftkit.files.folder_swap import current_folder
from ftkit.files.json_text import dump_json
from ftkit.parts.backbone import Head
from ftkit.transforms.preprocessing import Preprocessing
from ftkit.uncertainty.calibration import Calibration, calibrated_decision
from ftkit.uncertainty.reference_outputs import ReferenceOutputs

FORMAT = 1
ENSEMBLE_FORMAT = 2
"""Of the card of an ensemble, which versions of ftkit without ensembles refuse by it."""
CARD = "model.json"
WEIGHTS = "model.safetensors"
MEMBERS = "members"
"""The folder of an ensemble's members."""

_OWN_SUM = re.compile(rb'"sha256": "([0-9a-f]{64})"')


@dataclass(frozen=True)
class BackboneId:
    """The backbone of a model, and the package that is needed to build it.

    Attributes:
        plugin: The plugin's name; `ftkit` for built-in ones.
        package: Name for `pip install`, or the path of a project's own plugin file.
        version: The plugin's version when the model was saved.
        code: Digest of the network's code and settings, if it is a project's own; otherwise empty.
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
class EnsembleMember:
    """A model of an ensemble; the n-th one, from 1, is the folder `members/n`.

    Attributes:
        card_sha256: Digest of its `model.json`, which has the digest of its weights.
        weight: Its part of the mean of the probabilities; the weights of all members have the sum 1.
        source: The run or model that it was copied from.
        backbone: Name of its backbone.
        metrics: Metrics on its own validation split.
    """

    card_sha256: str
    weight: float
    source: str
    backbone: str
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard:
    """What is needed to use a model, and its origin.

    Attributes:
        classes: Class names in the order of the model's outputs.
        weights: Description of the first weights.
        strategy: Its name and options.
        metrics: Metrics on the validation split; None for one that isn't a number.
        epoch: Whole epochs that the weights were trained for.
        fingerprint: `Splits.fingerprint` of the data.
        versions: The versions of python, torch and torchvision.
        created: Date and time, ISO 8601, UTC.
        ftkit: The version that wrote the bundle.
        head: Layers of the classifier.
        origin: Where classes were chosen or mapped: by class of the training data, which of `classes` it
            counts as, None where its images weren't used.
        task: Its name and options.
        decision: What turns scores into predictions, as `Task.fit_decision` gave it, for uncalibrated ones.
        precision: Numeric precision of the validation, in which the model is evaluated; `auto` if it isn't known.
        dataset: The name of the training data's dataset, and its `layout_options`; empty in cards of early versions.
        average: Where the weights are an average of those of several epochs: which `epochs`, and the `share` of the
            way from the first to the last of them, None for the mean. Empty for the weights of one epoch.
        members: The models of an ensemble, whose `preprocessing` is that of the first one; empty for a single network.
        calibration: What is done to the logits before they become probabilities; None if none was fitted.
        reference: What is known of the outputs for validation images, to compare other images with; None if nothing is.
        teacher: The `model` whose outputs were learned, its `backbone` and the digest of its weights; empty for none.
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
    task: Mapping[str, Any] = field(default_factory=lambda: {"name": "multiclass"})
    decision: Mapping[str, Any] = field(default_factory=dict)
    precision: PrecisionName = "auto"
    dataset: Mapping[str, Any] = field(default_factory=dict)
    average: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[EnsembleMember, ...] = ()
    teacher: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    reference: ReferenceOutputs | None = None
    format: int = FORMAT

    @property
    def applied_decision(self) -> Mapping[str, Any]:
        """What turns calibrated scores into predictions."""
        return calibrated_decision(self.decision, self.calibration, len(self.classes))

    def encode(self, weights_sha256: str) -> bytes:
        """The card as `model.json`, with the digest of the weights' file, empty for an ensemble, and its own.

        Its own digest is computed with zeros in its place, so that the two cover every byte of both files.
        """
        content = {"format": self.format, "sha256": "0" * 64, "weights_sha256": weights_sha256, **asdict(self)}
        if not self.members:
            del content["members"]
        blank = dump_json(content, indent=2).encode() + b"\n"
        return blank.replace(b'"' + b"0" * 64 + b'"', f'"{hashlib.sha256(blank).hexdigest()}"'.encode(), 1)


def read_card(folder: Path) -> ModelCard:
    """The card of a model, checked against its own digest.

    Raises:
        RequestError: It is missing, damaged, or of a newer ftkit.
    """
    return read_card_and_digest(folder)[0]


def read_card_and_digest(folder: Path) -> tuple[ModelCard, str]:
    """The card of a model, and the digest of its weights' file; errors as in `read_card`."""
    path = current_folder(folder) / CARD
    raw = _read(path)
    try:
        content = json.loads(raw)
        layout = content["format"]
    except (ValueError, KeyError, TypeError):
        raise damaged(path) from None
    whole = _is_whole(raw)
    if isinstance(layout, int) and layout > ENSEMBLE_FORMAT:
        cause = f"written by a newer ftkit (format {layout})"
        raise RequestError(f"{path}: {cause if whole else cause + ', or damaged'}", "upgrade ftkit")
    if not whole:
        raise damaged(path)
    try:
        return _decode(content), str(content["weights_sha256"])
    except (KeyError, ValueError, RequestError) as error:
        raise RequestError(
            f"{path}: not a card that ftkit wrote: {first_validation_error(error)}", "train or export the model again"
        ) from None


def card_digest(folder: Path) -> str:
    """The digest of a model's card, by which files beside it refer to the model."""
    return hashlib.sha256(_read(current_folder(folder) / CARD)).hexdigest()


def damaged(path: Path) -> RequestError:
    """The error for a file of a model whose bytes have changed since it was written."""
    return RequestError(
        f"{path}: the file is damaged: it isn't what ftkit wrote", "copy the bundle again, or train anew"
    )


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


def _decode(content: Mapping[str, Any]) -> ModelCard:
    """The card from its JSON, each value checked by its type: a right digest doesn't prove that ftkit wrote it."""
    from pydantic import TypeAdapter

    # Early cards have none of these; only ensembles have members, and only distilled models a teacher.
    optional: dict[str, Any] = {
        "reference": None,
        "precision": "auto",
        "dataset": {},
        "average": {},
        "members": [],
        "teacher": {},
        "calibration": None,
    }
    content = {**optional, **content}
    card = TypeAdapter(ModelCard).validate_python({f.name: content[f.name] for f in fields(ModelCard)})
    faults = {
        "calibration": card.calibration.check(len(card.classes)) if card.calibration is not None else "",
        "reference": card.reference.check() if card.reference is not None else "",
    }
    for name, fault in faults.items():
        if fault:
            raise ValueError(f"{name}: {fault}")
    return card


def first_validation_error(error: Exception) -> str:
    """One line on the first invalid value."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return one_line(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return one_line(error.message if isinstance(error, RequestError) else str(error))
