"""Classifies images with a model bundle, in constant memory, reading files while the network computes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ftkit.data.images import UnreadableImage, pixel_limit
from ftkit.errors import FtkitError, RequestError, one_line, plural, unknown
from ftkit.explanation.grad_cam import ExplainedNetwork
from ftkit.inference.classifier import Classifier, inference_networks
from ftkit.inference.head_features import classifier_with_features
from ftkit.inference.heat_maps import BATCH, HeatMap, MappedImage, explained_networks, read_views, stream_heat_maps
from ftkit.inference.image_inputs import ImageInput, Source, image_inputs, try_read
from ftkit.inference.predictions import Decoder, Prediction
from ftkit.inference.streaming import Read, grouped, stream_outputs
from ftkit.inference.uncertain_predictions import Uncertainty, UncertaintyRule, uncertainty_rule
from ftkit.metrics.finite_outputs import NOT_FINITE
from ftkit.models.bundle import Loaded, load_bundle
from ftkit.models.model_source import locate_model
from ftkit.plugins import Registry
from ftkit.runs.model_card import ModelCard
from ftkit.transforms.preprocessing import Preprocessing
from ftkit.transforms.view_choices import Tta


class Predictor:
    """A trained model with its classes and its preprocessing; `ftkit.load` makes one."""

    def __init__(self, loaded: Loaded) -> None:
        self.card: ModelCard = loaded.card
        self.folder: Path = loaded.folder
        self._compute, self._precision = loaded.compute, loaded.precision
        self._task = loaded.task
        self._loaded, self._networks = loaded, inference_networks(loaded)

    @property
    def device(self) -> torch.device:
        return self._compute.device

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`; where the members of an ensemble differ, all of theirs."""
        return self._precision

    @property
    def network(self) -> torch.nn.Module:
        """The network, in eval mode; `(batch, channels, size, size)` gives `(batch, classes)` logits.

        They aren't calibrated; of an ensemble, its members' are.

        Raises:
            RequestError: It is an ensemble whose members take different images.
        """
        self._require_one_network()
        return self._loaded.model

    @property
    def calibrated_network(self) -> torch.nn.Module:
        """The network followed by the model's calibration: the logits that `predict` makes probabilities of.

        Raises:
            RequestError: As for `network`.
        """
        self._require_one_network()
        return self._loaded.calibrated

    def _require_one_network(self) -> None:
        if len({network.preprocessing for network in self._networks}) > 1:
            raise RequestError(
                f"{self.folder}: the members of the ensemble differ in preprocessing, so it isn't one network",
                "use predict, or load a member",
            )

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
            _require(prediction, position)
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
        decode = Decoder(self._loaded, top_k, rule)
        return self._stream(images, batch_size, Classifier(self._networks, self._task, tta), decode)

    def explain(self, image: Source, class_name: str | None = None) -> NDArray[np.float32]:
        """Which parts of an image raise the score of a class: a heat map by Grad-CAM.

        Args:
            image: As in `predict`.
            class_name: By default the predicted class; where there may be several, the likeliest.

        Returns:
            Float32 `(height, width)` of the upright image, with a largest value of 1; 0 everywhere where no part raises
            the score. It is 0 where preprocessing cuts the image off. Of an ensemble it is the mean over its members.

        Raises:
            UnreadableImage: The image can't be read, or has another type.
            FtkitError: The model's outputs are not finite.
            RequestError: The class is unknown, or the network has no layer with a value for each part of the image.
        """
        found = next(iter(self.iter_explain([image], class_name)))
        _require(found.prediction, 0)
        assert found.values is not None, "there is no error"
        return found.values

    def iter_explain(
        self,
        images: Source | Iterable[Source],
        class_name: str | None = None,
        top_k: int = 1,
        batch_size: int = BATCH,
        max_side: int | None = None,
    ) -> Iterator[HeatMap]:
        """Predictions of images with heat maps, in order, with a few batches in memory.

        Args:
            class_name: As in `explain`.
            top_k, batch_size: As in `iter_predict`.
            max_side: Images with a longer side than this, in pixels, are reduced to it, with their maps.

        Raises:
            RequestError: As `iter_predict` and `explain`; it is raised by the call, not by the iteration.
        """
        check_bounds(self.classes, top_k, batch_size)
        if class_name is not None and class_name not in self.classes:
            raise unknown("class", class_name, self.classes)
        label = None if class_name is None else self.classes.index(class_name)
        pixel_limit()
        explained, classifier = self._explained, Classifier(self._networks, self._task)
        inputs = image_inputs(images)
        mapped = stream_heat_maps(classifier, explained, inputs, label, max_side, batch_size)
        return (self._heat_map(one, top_k) for one in mapped)

    @cached_property
    def _explained(self) -> tuple[ExplainedNetwork, ...]:
        return explained_networks(self._loaded, self._networks)

    def _heat_map(self, one: MappedImage, top_k: int) -> HeatMap:
        if one.logits is None:
            return HeatMap(Prediction(one.name, None, None, error=one.error))
        (prediction,) = Decoder(self._loaded, top_k, UncertaintyRule())(one.logits)
        prediction = replace(prediction, name=one.name)
        if prediction.error is not None:
            return HeatMap(prediction)
        return HeatMap(prediction, self.classes[one.label], one.values, one.image)

    def _stream(
        self,
        images: Source | Iterable[Source],
        batch_size: int,
        classifier: Classifier,
        decode: Decoder,
    ) -> Iterator[Prediction]:
        groups = grouped(image_inputs(images), classifier.group_size(batch_size))
        read = partial(_read, classifier)
        plain = nullcontext(classifier)
        with plain if decode.rule.features is None else classifier_with_features(self._loaded, classifier) as network:
            for group, outputs in stream_outputs(classifier.compute, network, groups, read):
                found = iter(decode(*outputs) if outputs else ())
                for name, error in group:
                    failed = Prediction(name, None, None, error=error)
                    yield replace(next(found), name=name) if error is None else failed


def _require(prediction: Prediction, position: int) -> None:
    """Raise the error of a prediction, where it has one.

    Args:
        position: Of the image among those given.
    """
    if prediction.error == NOT_FINITE:
        raise FtkitError(one_line(f"{prediction.name}: {NOT_FINITE}"), "try another precision, or train anew")
    if prediction.error is not None:
        in_memory = "image " * (prediction.name == str(position))
        raise UnreadableImage(f"{in_memory}{prediction.name}: {prediction.error}")


def _read(classifier: Classifier, image: ImageInput) -> Read[tuple[str, str | None]]:
    """An image with its name, or the name with the reason why it can't be read."""
    found, error = try_read(partial(read_views, classifier), image)
    return None if found is None else found[1], (image.name, error)


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
