"""Many items read and put through a network in eval mode, in order, a few groups of them in memory.

A GPU computes while threads read for it. On a CPU each thread reads and computes groups of its own, on one core:
threads that read beside a network that uses all cores hold up every one of its layers (ResNet-18 in bf16 on two cores:
1.7 times as long).
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

T = TypeVar("T")
R = TypeVar("R")

READERS = 8
"""Most threads that read for a GPU."""
AHEAD = 2
"""Groups that wait for each thread."""

Read = tuple[Tensor | None, R]
"""What an item becomes: its image, where it can be read, and what else there is to know of it."""


def computed(
    compute: Compute,
    network: Callable[[Tensor], Any],
    groups: Iterable[Sequence[T]],
    read: Callable[[T], Read[R]],
    threads: int | None = None,
) -> Iterator[tuple[list[R], tuple[Tensor, ...]]]:
    """For each group what was read, and the network's outputs for the images of it; none where it has no image.

    Args:
        network: Gives a tensor or several, with a row an image.
        read: Called in threads.
        threads: How many; by default as many as torch computes with on a CPU, `READERS` at most for a GPU.
    """

    def work(group: Sequence[T]) -> tuple[list[R], tuple[Tensor, ...]]:
        images, rest = gather(group)
        return rest, _outputs(compute, network, images)

    def gather(group: Sequence[T]) -> tuple[list[Tensor], list[R]]:
        results = [read(item) for item in group]
        return [image for image, _ in results if image is not None], [rest for _, rest in results]

    if compute.device.type != "cpu":
        for images, rest in _in_threads(gather, groups, threads or min(READERS, torch.get_num_threads())):
            yield rest, _outputs(compute, network, images)
        return
    cores = torch.get_num_threads()
    try:
        yield from _in_threads(work, groups, threads or cores, lambda: torch.set_num_threads(1))
    finally:
        # This thread has kept its number, but those that torch starts from now on would have one too.
        torch.set_num_threads(cores)


def _outputs(compute: Compute, network: Callable[[Tensor], Any], images: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not images:
        return ()
    # Not in inference mode, whose tensors no gradient may pass later.
    with torch.no_grad(), compute.autocast():
        parts = [network(part) for part in compute.parts(torch.stack(list(images)))]
    if isinstance(parts[0], Tensor):
        return (torch.cat(parts),)
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def _in_threads(
    work: Callable[[T], R], items: Iterable[T], threads: int, ready: Callable[[], None] | None = None
) -> Iterator[R]:
    """`work` of each item, in their order, by threads that are a little ahead of whoever takes the results."""
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
    """The items in lists of so many, the last one shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
