"""Gathering outputs of processes: every image counts once."""

from __future__ import annotations

import threading
from typing import cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ftkit.data.loading.loader import Batch
from ftkit.evaluation.collect import collect_outputs
from ftkit.models.compute.devices import Compute

FP32 = Compute(torch.device("cpu"), "fp32")


class Ranks:
    """Gathers among threads, as accelerate does among processes."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world)
        self.slots: list[Tensor] = [torch.empty(0)] * world

    def gather(self, rank: int, tensor: Tensor) -> Tensor:
        self.slots[rank] = tensor
        self.barrier.wait(timeout=10)
        assert len({t.shape for t in self.slots}) == 1, "gather wants equal shapes"
        everything = torch.cat(self.slots)
        self.barrier.wait(timeout=10)
        return everything


class Rank:
    """The part of an Accelerator that `collect_outputs` uses."""

    def __init__(self, ranks: Ranks, rank: int) -> None:
        self.ranks, self.rank, self.num_processes = ranks, rank, ranks.world
        self.device = torch.device("cpu")

    def gather(self, tensor: Tensor) -> Tensor:
        return self.ranks.gather(self.rank, tensor)


def share(images: Tensor, labels: Tensor, rank: int, world: int) -> list[Batch]:
    """A rank's batches of two images."""
    mine = list(range(rank, len(images), world))
    parts = [torch.tensor(mine[start : start + 2]) for start in range(0, len(mine), 2)]
    return [Batch(images[part], labels[part], part) for part in parts]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 16, 17])
def test_every_image_counts_once_whatever_the_number_of_processes(world: int, size: int) -> None:
    torch.manual_seed(size)
    images, labels = torch.rand(size, 3), torch.randint(0, 5, (size,))
    model = nn.Linear(3, 5)
    ranks, results = Ranks(world), dict[int, tuple[Tensor, Tensor]]()

    def work(rank: int) -> None:
        accelerator = cast(Accelerator, Rank(ranks, rank))
        results[rank] = collect_outputs(model, share(images, labels, rank, world), accelerator, FP32)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == world
    for logits, found in results.values():
        assert torch.equal(found, labels)
        assert torch.allclose(logits, model(images), atol=1e-6)
        assert logits.dtype == torch.float32


def test_collect_evaluates_in_eval_mode_and_reports_progress() -> None:
    model, seen = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.9)), list[int]()
    images, labels = torch.rand(5, 3), torch.zeros(5, dtype=torch.long)
    accelerator = cast(Accelerator, Rank(Ranks(1), 0))
    logits, _ = collect_outputs(model, share(images, labels, 0, 1), accelerator, FP32, on_batch=seen.append)
    assert torch.allclose(logits, model[0](images), atol=1e-6)
    assert seen == [2, 2, 1]
    assert not logits.requires_grad
