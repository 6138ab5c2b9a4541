"""Classifies images with a model bundle, in constant memory, reading files while the network computes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ftkit.data.images import UnreadableImage, pixel_limit
from ftkit.errors import FtkitError, RequestError, one_line, plural
from ftkit.inference.classifier import Classifier, inference_networks
from ftkit.inference.image_inputs import ImageInput, Source, image_inputs, read_pixels
from ftkit.inference.streaming import Read, grouped, stream_outputs
from ftkit.inference.uncertain_predictions import Uncertainty, UncertaintyRule, uncertainty_rule
from ftkit.metrics.finite_outputs import NOT_FINITE, finite_rows
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.models.model_source import locate_model
from ftkit.plugins import Registry
from ftkit.runs.model_card import ModelCard
from ftkit.transforms.preprocessing import Preprocessing
from ftkit.transforms.view_choices import Tta

Ranked = tuple[tuple[str, float], ...]
"""Classes with their probabilities, best first."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        name: The path as it was given; for an image in memory, its file's name or its position, from 0.
        label: The likeliest class; None where there is an `error`, and where the model abstains.
        probability: Probability of that class, from 0 to 1.
        top: The likeliest classes with their probabilities, best first.
        labels: The classes above their thresholds with their probabilities, best first, for an image with several
            classes; None where each image has one class.
        prediction_set: The classes that include the true one as often as the `coverage` that was asked for says, with
            their probabilities, best first; None if none was.
        abstained: Whether there is no label because the likeliest class isn't probable enough.
        novelty: Part of the model's validation images that are at least as unlike them as this one; None unless it was
            asked for.
        unlike: Whether that part is at most the rate that was asked for.
        error: Why there is no prediction, or None: the image can't be read, or the model's outputs are not finite.
    """

    name: str
    label: str | None
    probability: float | None
    top: Ranked = ()
    error: str | None = None
    labels: Ranked | None = None
    prediction_set: Ranked | None = None
    abstained: bool = False
    novelty: float | None = None
    unlike: bool = False


class Predictor:
    """A trained model with its classes and its preprocessing; `ftkit.load` makes one."""

    def __init__(self, loaded: Loaded) -> None:
        self.card: ModelCard = loaded.card
        self.folder: Path = loaded.folder
        self._compute, self._precision = loaded.compute, loaded.precision
        self._model = loaded.calibrated
        self._task = loaded.task
        self._decision = loaded.card.applied_decision
        self._networks = inference_networks(loaded)

    @property
    def device(self) -> torch.device:
        return self._compute.device

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`; where the members of an ensemble differ, all of theirs."""
        return self._precision

    @property
    def network(self) -> torch.nn.Module:
        """The network, in eval mode; `(batch, channels, size, size)` gives `(batch, classes)` calibrated logits.

        Raises:
            RequestError: It is an ensemble whose members take different images.
        """
        if len({network.preprocessing for network in self._networks}) > 1:
            raise RequestError(
                f"{self.folder}: the members of the ensemble differ in preprocessing, so it isn't one network",
                "use predict, or load a member",
            )
        return self._model

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """Of an ensemble, that of its first member; `predict` uses each one's own."""
        return self.card.preprocessing

    def predict(
        self,
        images: Source | Iterable[Source],
        top_k: int = 1,
        batch_size: int = 32,
        tta: Tta = "none",
        uncertainty: Uncertainty | None = None,
    ) -> list[Prediction]:
        """Classify one image or several, in order.

        An image is a path, the bytes of an image file, a binary file object, a PIL image, a uint8 array `(h, w)`,
        `(h, w, 3)` or `(h, w, 4)`, or a uint8 tensor `(3, h, w)`. An array or tensor of four dimensions is several.

        Args:
            batch_size: Most images at a time.
            tta: Test-time augmentation, the views of each image whose probabilities are averaged: `none`, `flip` (the
                image and its mirror image) or `crops` (the image, its four corners, and the mirror images of these).
            uncertainty: Prediction sets and rejection.

        Raises:
            UnreadableImage: An image can't be read, or has another type; `iter_predict` continues instead.
            FtkitError: The model's outputs for an image are not finite; `iter_predict` continues instead.
            RequestError: `top_k` or `batch_size` is out of bounds, `tta` is unknown, or the model can't give that
                `uncertainty`.
        """
        predictions = []
        for position, prediction in enumerate(self.iter_predict(images, top_k, batch_size, tta, uncertainty)):
            if prediction.error == NOT_FINITE:
                raise FtkitError(one_line(f"{prediction.name}: {NOT_FINITE}"), "try another precision, or train anew")
            if prediction.error is not None:
                in_memory = "image " * (prediction.name == str(position))
                raise UnreadableImage(f"{in_memory}{prediction.name}: {prediction.error}")
            predictions.append(prediction)
        return predictions

    def iter_predict(
        self,
        images: Source | Iterable[Source],
        top_k: int = 1,
        batch_size: int = 32,
        tta: Tta = "none",
        uncertainty: Uncertainty | None = None,
    ) -> Iterator[Prediction]:
        """Classify images, as in `predict`, in order, with a few batches in memory.

        An image that can't be read, or for which the outputs are not finite, gives a prediction with an `error`.

        Raises:
            RequestError: As in `predict`. It is raised by the call, not by the iteration.
        """
        check_bounds(self.classes, top_k, batch_size)
        pixel_limit()
        asked = uncertainty or Uncertainty()
        if asked.novelty is not None and tta != "none":
            raise RequestError(f"novelty isn't known with tta {tta}: means of probabilities have no energy", "drop one")
        rule = uncertainty_rule(asked, self.folder, self.card, self._task.exclusive)
        decode = partial(self._with_novelty, top_k, rule)
        return self._stream(images, batch_size, Classifier(self._networks, self._task, tta), decode)

    def _stream(
        self,
        images: Source | Iterable[Source],
        batch_size: int,
        classifier: Classifier,
        decode: Callable[[Tensor], Iterable[Prediction]],
    ) -> Iterator[Prediction]:
        groups = grouped(image_inputs(images), classifier.group_size(batch_size))
        read = partial(_read, classifier)
        for group, outputs in stream_outputs(classifier.compute, classifier, groups, read):
            found = iter(decode(outputs[0]) if outputs else ())
            for name, error in group:
                yield replace(next(found), name=name) if error is None else Prediction(name, None, None, error=error)

    def _with_novelty(self, top_k: int, rule: UncertaintyRule, logits: Tensor) -> list[Prediction]:
        found, novelty = self._decoded(top_k, rule, logits), rule.novelty(logits)
        if novelty is None:
            return found
        return [
            one if one.error else replace(one, novelty=value, unlike=value <= rule.rate)
            for one, value in zip(found, novelty, strict=True)
        ]

    def _decoded(self, top_k: int, rule: UncertaintyRule, logits: Tensor) -> list[Prediction]:
        """The predictions of images, yet without a name, from their logits `(b, classes)`."""
        scores = self._task.scores(logits.float())
        values, indices = scores.topk(top_k, dim=1)
        rows = zip(finite_rows(logits).tolist(), indices.tolist(), values.tolist(), strict=True)
        tops = [self._named(order, probabilities) if usable else () for usable, order, probabilities in rows]
        if self._task.exclusive:
            sets = rule.sets(logits)
            if sets is None:
                return [self._exclusive(top, rule) for top in tops]
            each = zip(tops, sets, scores.tolist(), strict=True)
            return [
                replace(self._exclusive(top, rule), prediction_set=self._named(members, [own[i] for i in members]))
                if top
                else self._exclusive(top, rule)
                for top, members, own in each
            ]
        chosen = [(row, self._task.predicted(row, self._decision)) for row in scores.tolist()]
        labels = [self._named(order, [row[i] for i in order]) for row, order in chosen]
        return [
            Prediction("", *top[0], top, labels=own) if top else Prediction("", None, None, error=NOT_FINITE)
            for top, own in zip(tops, labels, strict=True)
        ]

    def _exclusive(self, top: Ranked, rule: UncertaintyRule) -> Prediction:
        """The prediction of an image that has one class; without likeliest classes its outputs are not finite."""
        if not top:
            return Prediction("", None, None, error=NOT_FINITE)
        (label, probability), *_ = top
        abstained = rule.threshold is not None and probability < rule.threshold
        return Prediction("", None if abstained else label, probability, top, abstained=abstained)

    def _named(self, indices: Sequence[int], probabilities: Sequence[float]) -> Ranked:
        return tuple((self.classes[index], p) for index, p in zip(indices, probabilities, strict=True))


def _read(classifier: Classifier, image: ImageInput) -> Read[tuple[str, str | None]]:
    """An image with its name, or the name with the reason why it can't be read."""
    try:
        views = [each(read_pixels(image, each.channels, each.value_range)) for each in classifier.transforms]
        return classifier.joined(views), (image.name, None)
    except UnreadableImage as error:
        return None, (image.name, error.message)
    except RequestError:
        raise
    except Exception as error:
        # Whatever is wrong with one image, the others must still be classified.
        return None, (image.name, one_line(f"can't be read: {error or type(error).__name__}"))


def check_bounds(classes: Sequence[str], top_k: int, batch_size: int) -> None:
    """Check `top_k` and `batch_size`.

    Raises:
        RequestError: One is out of bounds; the message has the bounds.
    """
    if not 1 <= top_k <= len(classes):
        raise RequestError(
            f"top-k is {top_k}, but the model has {plural(len(classes), 'class')}", f"give 1 to {len(classes)}"
        )
    if batch_size < 1:
        raise RequestError(f"batch-size is {batch_size}", "give 1 or more")


def load(
    path: str | os.PathLike[str], device: str = "auto", registry: Registry | None = None, precision: str = "auto"
) -> Predictor:
    """Load a trained model: a bundle, a run folder, the name of a run under `runs/`, or `PLUGIN/ADDRESS`.

    Warns where the code of a project's own backbone has changed since the model was trained. `load(outcome.run)` loads
    the best model of a run that `train` has returned.

    Args:
        device: `auto`, `cuda`, `mps` or `cpu`.
        registry: The plugins that backbones are looked up in; by default the built-in and installed ones.
        precision: `auto`, `fp32`, `bf16` or `fp16`; `auto` is bf16 where the hardware multiplies in it.

    Raises:
        RequestError: The model is missing, damaged, or can't be used on this machine.
    """
    if not isinstance(path, str | os.PathLike):
        raise RequestError(f"load takes the path or name of a model, not {type(path).__name__}", "give outcome.run")
    loaded = load_bundle(locate_model(os.fspath(path), Path("runs"), registry), device, precision, registry)
    for line in loaded.notes:
        warnings.warn(f"{loaded.folder}: {line}", stacklevel=2)
    return Predictor(loaded)
