"""Evaluates a trained model on a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ftkit.activation_cache.cache_reader import Note, find_cached_prefix, ignore_note, read_cached
from ftkit.data.loading.loader import Samples, raise_failures
from ftkit.data.loading.order import Key
from ftkit.files.cache_folder import CacheStore
from ftkit.inference.streaming import grouped, stream_outputs
from ftkit.metrics.bootstrap import Interval, intervals
from ftkit.metrics.finite_outputs import finite_rows, require_finite
from ftkit.metrics.report import Evaluation, evaluate_outputs
from ftkit.models.bundle import Loaded
from ftkit.models.compute.memory_format import cast_for_inference
from ftkit.parts.dataset import Split
from ftkit.parts.metric import Metric
from ftkit.transforms.pipeline import evaluation


def evaluate_bundle(
    loaded: Loaded,
    split: Split,
    metrics: Mapping[str, Metric],
    batch_size: int = 64,
    threads: int | None = None,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> tuple[Evaluation, dict[str, Interval]]:
    """Metrics of a model on a split whose labels are in the order of the model's classes, and their intervals.

    Args:
        metrics: The metrics by name. The other args and errors are those of `compute_logits`.
    """
    logits = compute_logits(loaded, split, batch_size, threads, store, tell)
    return evaluate_logits(loaded, logits, loaded.task.targets(split.labels, len(loaded.card.classes)), metrics)


def evaluate_logits(
    loaded: Loaded, logits: Tensor, targets: Tensor, metrics: Mapping[str, Metric]
) -> tuple[Evaluation, dict[str, Interval]]:
    """Metrics of outputs that were computed before, and their intervals.

    Args:
        logits: Float `(n, classes)`, on the CPU.
        targets: The result of `Task.targets`.
    """
    outputs = loaded.task.outputs(logits, targets, loaded.card.classes, loaded.card.decision)
    found = evaluate_outputs(outputs, metrics)
    defined = {name: metric for name, metric in metrics.items() if found.values[name] is not None}
    return found, intervals(outputs, defined)


def compute_logits(
    loaded: Loaded,
    split: Split,
    batch_size: int = 64,
    threads: int | None = None,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> Tensor:
    """A model's logits for each image of a split, float32 `(n, classes)`, on the CPU.

    Args:
        batch_size: Most images at a time.
        threads: Threads that read images and, on a CPU, compute; by default as many as torch uses.
        store: Activations of frozen layers that runs have cached, to read from.
        tell: Called with a line on the cached activations that are used.

    Raises:
        FtkitError: An image can't be read, or the outputs for some images are not finite; the message names them.
    """
    preprocessing, compute = loaded.card.preprocessing, loaded.compute
    keys: Iterable[Key] = ((0, index, 0) for index in range(len(split)))
    groups = grouped(keys, min(batch_size, 2 * compute.inference_batch_size(preprocessing.size)))
    samples, parts = Samples(split, evaluation(preprocessing)), []
    with read_cached(find_cached_prefix(loaded, store), samples, store, tell, threads) as kept:
        shape = preprocessing.channels, preprocessing.size
        network = cast_for_inference(loaded.model, compute, *shape) if kept is None else kept.cut.eval_suffix
        read = samples.read if kept is None else kept.read
        for rest, outputs in stream_outputs(compute, network, groups, read, threads):
            raise_failures(rest)
            parts.append(outputs[0].float().cpu())
    logits = torch.cat(parts)
    require_finite(finite_rows(logits), split.names)
    return logits
