"""Evaluates a trained model on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import CachedSplit, Note, find_cached_prefix, ignore_note, read_cached
from ftkit.data.loading.loader import Pixels, Samples
from ftkit.data.loading.order import Key
from ftkit.data.loading.read_failures import ReadFailure, raise_failures
from ftkit.errors import RequestError
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.files.cache_folder import CacheStore
from ftkit.inference.classifier import Classifier, inference_networks
from ftkit.inference.head_features import head_of, with_features
from ftkit.inference.streaming import Read, grouped, stream_outputs
from ftkit.metrics.bootstrap import Interval, intervals
from ftkit.metrics.finite_outputs import finite_rows, require_finite
from ftkit.metrics.outputs import Outputs
from ftkit.metrics.report import Evaluation, evaluate_outputs
from ftkit.models.bundle import Loaded
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import Label
from ftkit.parts.metric import Metric
from ftkit.transforms.pipeline import evaluation
from ftkit.transforms.view_choices import Tta
from ftkit.uncertainty.calibrated_network import calibrated_logits, calibrated_network


@dataclass(frozen=True)
class ComputeOptions:
    """Where and how to compute.

    Attributes:
        device, precision: See `load_bundle`.
        threads: Threads that read images and, on a CPU, compute; by default as many as torch uses.
        batch_size: Most images at a time.
        cache: Whether the activations of frozen layers that runs have cached may be used.
        tta: Test-time augmentation, the views of each image whose probabilities are averaged; see `transforms.views`.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    batch_size: int = 64
    cache: bool = True
    tta: Tta = "none"


@dataclass(frozen=True)
class Extras:
    """What a pass over a split gives besides the logits.

    Attributes:
        features: Turns what the head takes, `(b, ...)`, into features `(b, d)`; None for no features. Of a single
            network, seen as it is.
        pixels: Reads the pixels of an image, as `Samples` takes it, for those who look at them on the way.
        places: The positions of the images, ascending; by default all.
    """

    features: Callable[[Tensor], Tensor] | None = None
    pixels: Pixels | None = None
    places: Sequence[int] | None = None


NO_EXTRAS = Extras()


def evaluate_bundle(
    loaded: Loaded,
    images: EvaluationData,
    metrics: Mapping[str, Metric],
    options: ComputeOptions | None = None,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> tuple[Evaluation, dict[str, Interval]]:
    """Metrics of a model on labelled images, and their intervals.

    Args:
        metrics: The metrics by name. The other args and errors are those of `logits_and_targets`.
    """
    return evaluate_with_intervals(bundle_outputs(loaded, images, options, store, tell), metrics)


def bundle_outputs(
    loaded: Loaded,
    images: EvaluationData,
    options: ComputeOptions | None = None,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> Outputs:
    """The outputs of a model for labelled images; args and errors as in `logits_and_targets`."""
    logits, targets = logits_and_targets(loaded, images, options or ComputeOptions(), store, tell)
    return loaded.task.outputs(logits, targets, loaded.card.classes, loaded.card.applied_decision)


def evaluate_with_intervals(outputs: Outputs, metrics: Mapping[str, Metric]) -> tuple[Evaluation, dict[str, Interval]]:
    """Metrics of outputs by name, and their intervals."""
    found = evaluate_outputs(outputs, metrics)
    defined = {name: metric for name, metric in metrics.items() if found.values[name] is not None}
    return found, intervals(outputs, defined)


def logits_and_targets(
    loaded: Loaded,
    images: EvaluationData,
    options: ComputeOptions,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> tuple[Tensor, Tensor]:
    """The calibrated logits of labelled images, and their targets: those of a run's stored outputs, else computed.

    Args and errors as in `compute_logits`.

    Raises:
        RequestError: Other views are requested of images whose outputs are stored.
    """
    stored = images.outputs
    if stored is None:
        logits = compute_logits(loaded, images.split, options, store, tell)
        return logits, loaded.task.targets(images.split.labels, len(loaded.card.classes))
    if options.tta != "none":
        raise RequestError(
            f"--tta {options.tta}: out-of-fold metrics come from stored outputs",
            "drop it, or evaluate a test split or other data",
        )
    return calibrated_logits(stored.logits, loaded.card.calibration), stored.targets


def compute_logits(
    loaded: Loaded,
    split: Split,
    options: ComputeOptions,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> Tensor:
    """A model's calibrated logits for each image of a split, float32 `(n, classes)`, on the CPU.

    Args:
        store: Activations of frozen layers that runs have cached, to read from; of images as they are, so that they
            aren't used for several views.
        tell: Called with a line on the cached activations that are used.

    Raises:
        FtkitError: An image can't be read, or the outputs for some images are not finite; the message names them.
    """
    logits, _ = outputs_of(loaded, split, options, store, tell)
    require_finite(finite_rows(logits), split.names)
    return logits


def outputs_of(
    loaded: Loaded,
    split: Split,
    options: ComputeOptions,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
    extras: Extras = NO_EXTRAS,
) -> tuple[Tensor, Tensor | None]:
    """A model's calibrated logits, float32 `(n, classes)`, and features, `(n, d)` or None, on the CPU, in one pass.

    Args:
        extras: What else to take from the pass. The other args are those of `compute_logits`.

    Raises:
        FtkitError: An image can't be read.
    """
    classifier = Classifier(inference_networks(loaded), loaded.task, options.tta)
    places = range(len(split)) if extras.places is None else extras.places
    keys: Iterable[Key] = ((0, index, 0) for index in places)
    groups = grouped(keys, classifier.group_size(options.batch_size))
    samples, logits, features = Samples(split, evaluation(loaded.card.preprocessing)), list[Tensor](), list[Tensor]()
    prefix = find_cached_prefix(loaded, store) if classifier.is_plain else None
    whole = extras.places is not None  # Of a sample alone, no other images should be computed.
    with read_cached(prefix, samples, store, tell, options.threads, whole) as kept, ExitStack() as hooks:
        network: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
        plain, read = _network_and_reader(loaded, classifier, split, kept, extras.pixels)
        network = plain
        if extras.features is not None:
            # The suffix of a cut is made of the model's own modules, and other networks of copies of them.
            inner = loaded.model if kept is not None else classifier.networks[0].network
            network = hooks.enter_context(with_features(plain, head_of(loaded, inner)))
        for rest, outputs in stream_outputs(classifier.compute, network, groups, read, options.threads):
            raise_failures(rest)
            logits.append(outputs[0].float().cpu())
            features += [extras.features(each.cpu()) for each in outputs[1:] if extras.features is not None]
    return torch.cat(logits), torch.cat(features) if features else None


def _network_and_reader(
    loaded: Loaded, classifier: Classifier, split: Split, kept: CachedSplit | None, pixels: Pixels | None
) -> tuple[Callable[[Tensor], Tensor], Callable[[Key], Read[tuple[Label, int] | ReadFailure]]]:
    """What computes the outputs, and what reads its inputs: images, or their cached activations."""
    if kept is None:
        return classifier, split_reader(classifier, split, pixels)
    network = calibrated_network(kept.cut.eval_suffix, loaded.card.calibration, loaded.compute.device)
    if pixels is None:
        return network, kept.read
    images = split_reader(classifier, split, pixels)

    def read(key: Key) -> Read[tuple[Label, int] | ReadFailure]:
        image, rest = images(key)
        return (None, rest) if image is None else kept.read(key)

    return network, read


def split_reader(
    classifier: Classifier, split: Split, pixels: Pixels | None = None
) -> Callable[[Key], Read[tuple[Label, int] | ReadFailure]]:
    """Reads an image of a split with its label and index, or the reason why it can't be read.

    Args:
        pixels: As `Samples` takes it.
    """
    samples = [Samples(split, transform, pixels=pixels) for transform in classifier.transforms]

    def read(key: Key) -> Read[tuple[Label, int] | ReadFailure]:
        images = list[Tensor]()
        for each in samples:
            image, rest = each.read(key)
            if image is None:
                return None, rest
            images.append(image)
        return classifier.joined(images), rest

    return read
