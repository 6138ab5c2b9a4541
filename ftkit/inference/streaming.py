"""Reads many images and computes a network's outputs for them, in order, with a few groups in memory.

For a GPU, threads read while it computes. On a CPU, each thread reads and computes groups on one core: threads that
read beside a network that uses all cores delay each of its layers (ResNet-18 in bf16 on two cores takes 1.7 times as
long).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_limit import InferenceInParts

T = TypeVar("T")
R = TypeVar("R")

READERS = 8
"""Most reading threads for a GPU."""
AHEAD = 2
"""Groups that are submitted ahead for each thread."""

Read = tuple[Tensor | None, R]
"""What is read of an item: its image, None where it can't be read, and further information."""


def stream_outputs(
    compute: Compute,
    network: Callable[[Tensor], Any],
    groups: Iterable[Sequence[T]],
    read: Callable[[T], Read[R]],
    threads: int | None = None,
) -> Iterator[tuple[list[R], tuple[Tensor, ...]]]:
    """The further information that was read for each group, and the network's outputs for its images.

    The outputs are empty where a group has no image.

    Args:
        network: Returns a tensor or several, with a row per image.
        read: Called in threads.
        threads: Number of threads; by default as many as torch computes with, for a GPU at most `READERS`.
    """

    infer = InferenceInParts(compute, network)

    def work(group: Sequence[T]) -> tuple[list[R], tuple[Tensor, ...]]:
        images, rest = gather(group)
        return rest, _outputs(compute, infer, images)

    def gather(group: Sequence[T]) -> tuple[Tensor | None, list[R]]:
        results = [read(item) for item in group]
        found = [image for image, _ in results if image is not None]
        images = torch.stack(found) if found else None
        if images is not None and compute.device.type == "cuda":
            images = images.pin_memory()  # copied to the device without waiting for it
        return images, [rest for _, rest in results]

    if compute.device.type != "cpu":
        for images, rest in _in_threads(gather, groups, threads or min(READERS, torch.get_num_threads())):
            yield rest, _outputs(compute, infer, images)
        return
    cores = torch.get_num_threads()
    try:
        yield from _in_threads(work, groups, threads or cores, lambda: torch.set_num_threads(1))
    finally:
        # This thread has kept its setting, but threads that torch starts from now on would inherit 1.
        torch.set_num_threads(cores)


def _outputs(compute: Compute, infer: InferenceInParts, images: Tensor | None) -> tuple[Tensor, ...]:
    if images is None:
        return ()
    # Not in inference mode: its tensors can't be used in training later.
    with torch.no_grad(), compute.autocast():
        parts = infer(images)
    if isinstance(parts[0], Tensor):
        return (torch.cat(parts),)
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def _in_threads(
    work: Callable[[T], R], items: Iterable[T], threads: int, ready: Callable[[], None] | None = None
) -> Iterator[R]:
    """`work(item)` of each item, in order, by threads that run a few items ahead."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ftkit-stream", initializer=ready) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
