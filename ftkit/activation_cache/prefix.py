"""Images put through the frozen prefix of a network."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.data.loading.loader import Batch, Samples, label_tensor
from ftkit.data.loading.order import Key
from ftkit.data.loading.read_failures import ReadFailure
from ftkit.files.cache_folder import CHUNK
from ftkit.inference.streaming import stream_outputs
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import cast_for_inference
from ftkit.transforms.preprocessing import Preprocessing


def fast_prefix(
    cut_finder: CutFinder, cuts: Sequence[str], compute: Compute, preprocessing: Preprocessing
) -> nn.Module:
    """The part of a network that computes the activations at some cuts, with weights in the run's precision."""
    return cast_for_inference(cut_finder.prefix(cuts), compute, preprocessing.channels, preprocessing.size)


def compute_rows(
    prefix: nn.Module,
    compute: Compute,
    size: int,
    samples: Samples,
    lists: Sequence[Sequence[Key]],
    threads: int | None = None,
) -> Generator[tuple[Sequence[Tensor], Batch]]:
    """For each list of keys the activations at each cut, and the batch without its images.

    A row's last digits depend on its place in its list alone: not on the process that computes it, nor on when. Where
    no image of a list can be read, there are no activations.

    Args:
        prefix: The result of `fast_prefix`; returns a tuple with the activations at each cut.
        size: Side of the images, in pixels.
        threads: See `stream_outputs`.
    """
    few = min(CHUNK, 2 * compute.inference_batch_size(size))
    pieces = (keys[start : start + few] for keys in lists for start in range(0, len(keys), few))
    results = stream_outputs(compute, prefix, pieces, samples.read, threads)
    for keys in lists:
        parts = [next(results) for _ in range(0, len(keys), few)]
        read = [one for rest, _ in parts for one in rest if not isinstance(one, ReadFailure)]
        failures = [one for rest, _ in parts for one in rest if isinstance(one, ReadFailure)]
        labels = label_tensor([label for label, _ in read], samples.num_classes)
        indices = torch.tensor([index for _, index in read], dtype=torch.int64)
        values = [torch.cat(rows) for rows in zip(*(rows for _, rows in parts if rows), strict=True)]
        yield values, Batch(torch.empty(0), labels, indices, tuple(failures))
