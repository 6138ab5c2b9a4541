"""Images put through the beginning of a network, for tables of activations."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cut import CutFinder
from ftkit.data.loading.loader import Batch, ReadFailure, Samples
from ftkit.data.loading.order import Key
from ftkit.files.cache_folder import CHUNK
from ftkit.inference.streaming import computed
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import cast
from ftkit.transforms.preprocessing import Preprocessing


def fast_prefix(
    cut_finder: CutFinder, cuts: Sequence[str], compute: Compute, preprocessing: Preprocessing
) -> nn.Module:
    """The beginning of a network that gives the values at some cuts, in the form that is quickest to compute."""
    return cast(cut_finder.prefix(cuts), compute, preprocessing.channels, preprocessing.size)


def compute_rows(
    prefix: nn.Module,
    compute: Compute,
    preprocessing: Preprocessing,
    samples: Samples,
    lists: Sequence[Sequence[Key]],
    threads: int | None = None,
) -> Generator[tuple[Sequence[Tensor], Batch]]:
    """For each list of keys the values at some cuts, none where it has no image, and a batch without its images.

    A row's last digits depend on its place in its list, and on nothing else: not on who computes it, nor when.

    Args:
        beginning: As `quick` makes it; gives a tuple with the values at each cut.
        threads: As in `computed`.
    """
    size = min(CHUNK, 2 * compute.few(preprocessing.size))
    pieces = (keys[start : start + size] for keys in lists for start in range(0, len(keys), size))
    results = computed(compute, prefix, pieces, samples.read, threads)
    for keys in lists:
        parts = [next(results) for _ in range(0, len(keys), size)]
        there = [one for rest, _ in parts for one in rest if not isinstance(one, ReadFailure)]
        faults = [one for rest, _ in parts for one in rest if isinstance(one, ReadFailure)]
        labels, indices = (torch.tensor([one[n] for one in there], dtype=torch.int64) for n in (0, 1))
        values = [torch.cat(rows) for rows in zip(*(rows for _, rows in parts if rows), strict=True)]
        yield values, Batch(torch.empty(0), labels, indices, tuple(faults))
