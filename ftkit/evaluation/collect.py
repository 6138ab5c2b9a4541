"""Outputs of a model in training for a whole split, each image exactly once, on one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ftkit.data.loading.loader import Batch, Samples, evaluation_loader, require_readable
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_limit import InferenceInParts
from ftkit.parts.dataset import Split
from ftkit.planning.run_plan import Plan
from ftkit.transforms.pipeline import evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator

CheckBatch = Callable[[Batch], Batch]
"""Returns a batch without the images that can't be read, or raises."""
OnBatch = Callable[[int], None]
"""Called after each batch with the number of its images, for progress and for signals."""


def evaluation_shard(plan: Plan, images: Split, workers: int, accelerator: Accelerator) -> Iterable[Any]:
    """Batches of this process's shard of a split, with the transform of evaluation."""
    return evaluation_loader(
        Samples(images, evaluation(plan.preprocessing)),
        plan.batches.batch_size,
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
    """Logits float32 `(n, classes)` and labels `(n,)` of a whole split, in its order, on the CPU of every process.

    The model is left in eval mode.

    Args:
        loader: This process's shard of the split, not prepared by accelerate, which would repeat images to pad it.
            Shards may differ in size and be empty.
        check_batch: Handles images that can't be read.
    """
    # A wrapped model synchronises its buffers at each call, and processes may have different numbers of batches.
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    logits, labels, indices = infer(bare, loader, compute, on_batch, check_batch)
    if accelerator.num_processes > 1:
        _call_for_missing_batches(loader, on_batch)
        logits, labels, indices = _gathered(accelerator, logits, labels, indices)
    order = indices.argsort()
    return logits[order], labels[order]


def _call_for_missing_batches(loader: Iterable[Any], on_batch: OnBatch | None) -> None:
    """Call `on_batch` as often as the process with the most batches does, since it may communicate."""
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
    in_parts = InferenceInParts(compute, model)
    parts: list[tuple[Tensor, Tensor, Tensor]] = [(torch.empty(0, 0), torch.empty(0).long(), torch.empty(0).long())]
    with torch.inference_mode(), compute.autocast():
        for batch in loader:
            found = check_batch(batch)
            labels, indices = found.labels, found.indices
            if not len(found):
                continue
            logits = torch.cat(in_parts(found.images_on(compute)))
            # Of the batch before: copying this one's would leave a GPU idle until the next one has arrived.
            parts[-1] = (parts[-1][0].cpu(), *parts[-1][1:])
            parts.append((logits.float(), labels, indices))
            if on_batch is not None:
                on_batch(len(labels))
    parts[-1] = (parts[-1][0].cpu(), *parts[-1][1:])
    logits, labels, indices = (torch.cat(tensors) for tensors in zip(*(parts[1:] or parts), strict=True))
    return logits, labels, indices


def _gathered(accelerator: Accelerator, logits: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes. Each is padded to the longest shard with rows of index -1, which are dropped again."""
    shapes = accelerator.gather(torch.tensor([(*logits.shape, labels.ndim)], device=accelerator.device))
    rows, columns, label_dims = shapes.amax(dim=0).tolist()
    if not len(labels) and label_dims == 2:
        labels = torch.empty(0, columns)
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
