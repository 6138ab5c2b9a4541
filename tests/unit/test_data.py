"""Order and augmentation are functions of position; worker processes change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ftkit.engine.data import Samples, TrainingOrder, checked, evaluation_loader, training_loader
from ftkit.engine.transforms import evaluation, training
from ftkit.errors import FtkitError
from ftkit.images import open_image
from ftkit.spec.batches import Batches
from ftkit.spec.dataset import Split
from ftkit.spec.preprocessing import Preprocessing

PRE = Preprocessing(size=8, crop_pct=1.0)


class Files:
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __call__(self, index: int) -> Image.Image:
        return open_image(self.paths[index])


def drawn(folder: Path, count: int) -> Split:
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        noise = torch.randint(0, 255, (12, 10, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(path)
    return Split([p.name for p in paths], [i % 2 for i in range(count)], Files(paths))


def epoch(split: Split, workers: int, number: int, first: int = 0, rank: int = 0, world: int = 1) -> list[Any]:
    order = TrainingOrder(Batches(len(split), 4, world=world), seed=5, rank=rank)
    loader = training_loader(Samples(split, training(PRE, "standard"), seed=5), order, workers)
    order.start(number, first)
    return [checked(b) for b in loader]


def test_workers_give_identical_batches(tmp_path: Path) -> None:
    split = drawn(tmp_path, 10)
    alone = epoch(split, 0, number=1)
    for workers in (1, 2):
        shared = epoch(split, workers, number=1)
        assert all(torch.equal(a.images, b.images) for a, b in zip(alone, shared, strict=True))


def test_a_later_start_gives_the_rest_of_the_same_epoch(tmp_path: Path) -> None:
    split = drawn(tmp_path, 10)
    whole, rest = epoch(split, 0, number=2), epoch(split, 0, number=2, first=1)
    assert [b.indices.tolist() for b in whole[1:]] == [b.indices.tolist() for b in rest]
    assert torch.equal(whole[-1].images, rest[-1].images)


def test_epochs_differ_in_order_and_in_augmentation(tmp_path: Path) -> None:
    split = drawn(tmp_path, 10)
    one, two = epoch(split, 0, number=0), epoch(split, 0, number=1)
    assert [b.indices.tolist() for b in one] != [b.indices.tolist() for b in two]
    by_index = [
        {int(i): image for b in run for i, image in zip(b.indices, b.images, strict=True)} for run in (one, two)
    ]
    assert any(not torch.equal(by_index[0][i], by_index[1][i]) for i in range(10))


def test_processes_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    split = drawn(tmp_path, 11)
    shares = [[i for b in epoch(split, 0, 0, rank=r, world=3) for i in b.indices.tolist()] for r in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    split = drawn(tmp_path, 6)
    (tmp_path / "003.png").write_bytes(b"not an image")
    with pytest.raises(FtkitError, match=r"003\.png: not an image"):
        [checked(b) for b in evaluation_loader(split, evaluation(PRE), 2, workers)]
