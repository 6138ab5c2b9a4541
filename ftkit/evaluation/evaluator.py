"""How good a model is on a split: its outputs for every image, each exactly once, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ftkit.activation_cache.cache_reader import Note, find_cached_prefix, ignore_note, read_cached
from ftkit.config.load import Resolved
from ftkit.data.class_selection import apply_training_classes
from ftkit.data.loading.loader import Batch, Samples, evaluation_loader, raise_failures, require_readable
from ftkit.data.loading.order import Key
from ftkit.errors import RequestError, one_line, plural
from ftkit.files.cache_folder import CacheStore
from ftkit.inference.streaming import computed, grouped
from ftkit.metrics.bootstrap import Interval, intervals
from ftkit.metrics.classification import Evaluation, evaluate_outputs
from ftkit.metrics.finite_outputs import NAMED, require_finite, finite_rows
from ftkit.models.bundle import Loaded
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import cast
from ftkit.parts.dataset import Dataset, Split, SplitName, Splits, relabel
from ftkit.planning.run_plan import Plan
from ftkit.planning.run_splits import load_checked, splits_of_run
from ftkit.runs.model_card import ModelCard
from ftkit.transforms.image_transforms import evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator

CheckBatch = Callable[[Batch], Batch]

OnBatch = Callable[[int], None]
"""Called after each batch with the number of its images, for progress and for signals."""


@dataclass(frozen=True)
class EvaluationData:
    """Images to judge a model by, with labels in the order of its classes.

    Attributes:
        source: Where they come from, for people.
        name: The split that they are.
        changed: Whether the data isn't any more what the model was trained on.
        notes: Lines worth telling, such as files passed over.
    """

    source: str
    name: SplitName
    split: Split
    changed: bool = False
    notes: tuple[str, ...] = ()


def split_of_run(resolved: Resolved, card: ModelCard, split: SplitName | None) -> EvaluationData:
    """A split of a run's own data, cut as in the run; by default test, else val.

    Raises:
        RequestError: The data is gone, has no such split, or has classes that the model lacks.
    """
    splits, notes = splits_of_run(resolved)
    source = f"dataset {resolved.config.dataset.name}"
    name, chosen = choose_split(splits, split, ("test", "val"), source)
    chosen = relabel(chosen, splits.classes, card.classes, f"{source}, {name} split")
    notes = (*notes, *_absent_note(chosen, card.classes))
    return EvaluationData(source, name, chosen, splits.fingerprint() != card.fingerprint, notes)


def split_of_dataset(dataset: Dataset, source: str, card: ModelCard, split: SplitName | None) -> EvaluationData:
    """A split of data that the model wasn't trained on.

    Args:
        source: Where it comes from, for people.
        split: By default test, else val, else train, which is all of it where nothing is split.

    Raises:
        RequestError: It isn't there, has no such split, or has classes that the model lacks.
    """
    loaded = load_checked(dataset, source, for_training=False)
    splits = apply_training_classes(loaded, card.origin, card.classes, source)
    name, chosen = choose_split(splits, split, ("test", "val", "train"), source)
    chosen = relabel(chosen, splits.classes, card.classes, source)
    return EvaluationData(source, name, chosen, notes=(*splits.notes, *_absent_note(chosen, card.classes)))


def _absent_note(split: Split, classes: Sequence[str]) -> tuple[str, ...]:
    """That the images are of fewer classes than the model knows, where they are."""
    there = set(split.labels)
    absent = [name for label, name in enumerate(classes) if label not in there]
    if not absent:
        return ()
    few = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
    return (one_line(f"no image is of {len(absent):,} of the model's {plural(len(classes), 'class')}: {few}"),)


def choose_split(
    splits: Splits, wanted: SplitName | None, order: Sequence[SplitName], source: str
) -> tuple[SplitName, Split]:
    """The split that was asked for, or the first of `order` that there is.

    Raises:
        RequestError: There is none, or it has no image.
    """
    there = {name: split for name, split in splits.present() if len(split)}
    for name in (wanted,) if wanted else order:
        if name in there:
            return name, there[name]
    raise RequestError(
        f"{source} has no {wanted or ' or '.join(order)} split",
        f"it has {', '.join(there)}: give --split {next(iter(there))}" if there else "give other data with --data",
    )


def evaluate_bundle(
    loaded: Loaded,
    split: Split,
    batch_size: int = 64,
    threads: int | None = None,
    store: CacheStore | None = None,
    tell: Note = ignore_note,
) -> tuple[Evaluation, dict[str, Interval]]:
    """The metrics of a model on a split whose labels are in the order of the model's classes, and where they lie.

    Args and errors as in `compute_logits`.
    """
    logits = compute_logits(loaded, split, batch_size, threads, store, tell)
    labels = torch.tensor(split.labels, dtype=torch.int64)
    return evaluate_outputs(logits, labels, loaded.card.classes), intervals(logits, labels)


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
        threads: That read images, and on a CPU compute; by default as the cores have it.
        store: Of what runs have kept of their frozen layers' activations.
        tell: Called with a line for people on what was taken from there.

    Raises:
        FtkitError: An image can't be read, or the model's outputs for some are not finite; the message names them.
    """
    preprocessing, compute = loaded.card.preprocessing, loaded.compute
    keys: Iterable[Key] = ((0, index, 0) for index in range(len(split)))
    groups = grouped(keys, min(batch_size, 2 * compute.few(preprocessing.size)))
    samples, parts = Samples(split, evaluation(preprocessing)), []
    with read_cached(find_cached_prefix(loaded, store), samples, store, tell, threads) as kept:
        shape = preprocessing.channels, preprocessing.size
        network = cast(loaded.model, compute, *shape) if kept is None else kept.cut.eval_suffix
        read = samples.read if kept is None else kept.read
        for rest, outputs in computed(compute, network, groups, read, threads):
            raise_failures(rest)
            parts.append(outputs[0].float().cpu())
    logits = torch.cat(parts)
    require_finite(finite_rows(logits), split.names)
    return logits


def evaluation_shard(plan: Plan, images: Split, workers: int, accelerator: Accelerator) -> Iterable[Any]:
    """This process's part of some images, as evaluation sees them, in batches."""
    return evaluation_loader(
        images,
        evaluation(plan.preprocessing),
        plan.config.batch_size,
        workers,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device.type == "cuda",
    )


def collect_outputs(
    model: nn.Module,
    loader: Iterable[Any],
    accelerator: Accelerator,
    compute: Compute,
    on_batch: OnBatch | None = None,
    check_batch: CheckBatch = require_readable,
) -> tuple[Tensor, Tensor]:
    """Logits float32 `(n, classes)` and labels `(n,)` of a whole split, in its order, on every process's CPU.

    Args:
        loader: This process's share of the split, not prepared by accelerate, which would pad it with
            images that count twice. Shares may differ in size and be empty.
        usable: What becomes of batches with files that can't be read.

    The model is left in eval mode.
    """
    # A wrapped model synchronises its buffers at each call, and ranks may have different numbers of batches.
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    logits, labels, indices = infer(bare, loader, compute, on_batch, check_batch)
    if accelerator.num_processes > 1:
        _keep_step(loader, on_batch)
        logits, labels, indices = _gathered(accelerator, logits, labels, indices)
    order = indices.argsort()
    return logits[order], labels[order]


def _keep_step(loader: Iterable[Any], on_batch: OnBatch | None) -> None:
    """Call `on_batch` as often as the process with most batches does, so that all can agree on something there."""
    order = getattr(loader, "batch_sampler", None)
    if on_batch is not None and order is not None:
        for _ in range(order.rounds - len(order)):
            on_batch(0)


def infer(
    model: nn.Module,
    loader: Iterable[Any],
    compute: Compute,
    on_batch: OnBatch | None = None,
    check_batch: CheckBatch = require_readable,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits float32 `(n, classes)`, labels and indices `(n,)` of a loader's batches, on the CPU.

    A loader without a batch gives logits of the shape `(0, 0)`.
    """
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = [(torch.empty(0, 0), torch.empty(0).long(), torch.empty(0).long())]
    with torch.inference_mode(), compute.autocast():
        for batch in loader:
            found = check_batch(batch)
            labels, indices = found.labels, found.indices
            if not len(found):
                continue
            logits = torch.cat([model(part) for part in compute.parts(found.images_on(compute))])
            parts.append((logits.float().cpu(), labels, indices))
            if on_batch is not None:
                on_batch(len(labels))
    logits, labels, indices = (torch.cat(tensors) for tensors in zip(*(parts[1:] or parts), strict=True))
    return logits, labels, indices


def _gathered(accelerator: Accelerator, logits: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """All processes' rows: each is padded to the longest share, with index -1, which is dropped again."""
    shapes = accelerator.gather(torch.tensor([logits.shape], device=accelerator.device))
    rows, columns = shapes.amax(dim=0).tolist()
    padded = (
        _padded(logits if len(labels) else logits.new_empty(0, columns), rows, 0.0),
        _padded(labels, rows, 0),
        _padded(indices, rows, -1),
    )
    everything = [accelerator.gather(part.to(accelerator.device)).cpu() for part in padded]
    real = everything[2] >= 0
    return tuple(part[real] for part in everything)


def _padded(tensor: Tensor, rows: int, value: float) -> Tensor:
    missing = tensor.new_full((rows - len(tensor), *tensor.shape[1:]), value)
    return torch.cat([tensor, missing])
