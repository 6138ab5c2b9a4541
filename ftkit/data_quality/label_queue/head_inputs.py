"""What the head of a trained model takes, and the scores of the model, for image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftkit.data.images import ImageFiles
from ftkit.data.loading.loader import Samples
from ftkit.data.loading.order import Key
from ftkit.data.loading.read_failures import ReadFailure, raise_failures
from ftkit.errors import RequestError
from ftkit.inference.head_features import with_features
from ftkit.inference.streaming import grouped, stream_outputs
from ftkit.metrics.finite_outputs import finite_rows
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Split
from ftkit.plugins import Registry
from ftkit.training.preparation.probe import NoProbeError, head_layer
from ftkit.transforms.pipeline import evaluation
from ftkit.uncertainty.calibrated_network import calibrated_logits


@dataclass(frozen=True)
class ModelOutputs:
    """The outputs of a model for images.

    Attributes:
        places: Positions of the images that could be read and whose outputs are finite, ascending.
        features: float32 `(n, d)`, a row for each place, as the next one.
        scores: The calibrated scores, float32 `(n, classes)`.
        failures: Reasons by position of the others.
    """

    places: tuple[int, ...]
    features: Tensor
    scores: Tensor
    failures: dict[int, str]


def file_outputs(loaded: Loaded, files: Sequence[Path], registry: Registry, batch_size: int) -> ModelOutputs:
    """The outputs for image files; unreadable ones are counted in `failures`.

    Raises:
        RequestError: The model is an ensemble, or its head isn't a linear layer on features.
    """
    names = [str(file.absolute()) for file in files]
    return split_outputs(loaded, Split(names, [0] * len(names), ImageFiles(Path("/"), names)), registry, batch_size)


def split_outputs(loaded: Loaded, split: Split, registry: Registry, batch_size: int) -> ModelOutputs:
    """The same for the images of a split."""
    if loaded.members:
        raise RequestError(
            f"{loaded.folder} is an ensemble, which has no features of its own", "give one of its members"
        )
    samples = Samples(split, evaluation(loaded.card.preprocessing))
    keys: Iterable[Key] = ((0, index, 0) for index in range(len(split)))
    places, features, logits, failures = list[int](), list[Tensor](), list[Tensor](), dict[int, str]()
    try:
        head = head_layer(loaded.model, registry.backbones.get(loaded.card.backbone.name).head[0])
        with with_features(loaded.model, head) as network:
            for rest, outputs in stream_outputs(loaded.compute, network, grouped(keys, batch_size), _reader(samples)):
                raise_failures(one for _, one in rest if isinstance(one, ReadFailure) and not one.skippable)
                failures |= {index: one.reason for index, one in rest if isinstance(one, ReadFailure)}
                places += [index for index, one in rest if not isinstance(one, ReadFailure)]
                if outputs:
                    logits.append(outputs[0].float().cpu())
                    features.append(_rows(outputs[1]))
    except NoProbeError as error:
        raise RequestError(error.message, "the queue needs a model whose head is one linear layer") from None
    if not places:
        return ModelOutputs((), torch.empty(0, 1), torch.empty(0, len(loaded.card.classes)), failures)
    found = torch.cat(logits)
    usable = finite_rows(found)
    failures |= {
        place: "the outputs of the model aren't finite" for place, ok in zip(places, usable, strict=True) if not ok
    }
    kept = tuple(place for place, ok in zip(places, usable, strict=True) if ok)
    return ModelOutputs(kept, torch.cat(features)[usable], _scores(loaded, found[usable]), failures)


def _scores(loaded: Loaded, logits: Tensor) -> Tensor:
    return loaded.task.scores(calibrated_logits(logits, loaded.card.calibration))


def _reader(samples: Samples) -> Any:
    def read(key: Key) -> tuple[Tensor | None, tuple[int, object]]:
        image, rest = samples.read(key)
        return image, (key[1], rest)

    return read


def _rows(features: Tensor) -> Tensor:
    """One row of features for each image, float32.

    Raises:
        NoProbeError: There is more.
    """
    if features.ndim != 2:
        raise NoProbeError("the network's head doesn't take one row of features for each image")
    return features.float().cpu()
