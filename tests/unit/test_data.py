"""Order and augmentation are functions of position; worker processes change nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ftkit.api import Preprocessing, Split, open_image
from ftkit.data.batch_sizes import Batches
from ftkit.data.loading.loader import Samples, evaluation_loader, require_readable, training_loader
from ftkit.data.loading.order import TrainingOrder
from ftkit.errors import FtkitError
from ftkit.transforms.augmentation import Standard
from ftkit.transforms.pipeline import evaluation, training

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
    loader = training_loader(Samples(split, training(PRE, Standard()), seed=5), order, workers)
    order.start(number, first)
    return [require_readable(b) for b in loader]


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


WEIGHTS = [0.5] * 90 + [4.5] * 10


def drawn_by_weight(number: int, rank: int = 0, world: int = 1) -> list[tuple[int, int, int]]:
    order = TrainingOrder(Batches(100, 16, world=world), 5, rank, WEIGHTS)
    order.start(number)
    return [key for batch in order for key in batch]


def test_weighted_draws_are_as_many_and_follow_the_weights() -> None:
    rare = [sum(index >= 90 for _, index, _ in drawn_by_weight(number)) for number in range(40)]
    assert {len(drawn_by_weight(number)) for number in range(40)} == {100}
    # Half of 4000 draws, give or take three standard deviations.
    assert 1900 < sum(rare) < 2100


def test_weighted_draws_are_of_the_epoch_and_shared_by_processes() -> None:
    assert drawn_by_weight(3) == drawn_by_weight(3)
    assert drawn_by_weight(3) != [(3, *rest) for _, *rest in drawn_by_weight(4)]
    shares = [drawn_by_weight(3, rank, 2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(drawn_by_weight(3))


def in_blocks(number: int, weights: list[float] | None = None) -> list[int]:
    order = TrainingOrder(Batches(2000, 50), 5, weights=weights, blocks=[i // 20 for i in range(2000)])
    order.start(number)
    return order.indices().tolist()


def test_images_of_a_block_come_close_together_and_mixed() -> None:
    order = in_blocks(0)
    assert sorted(order) == list(range(2000))
    # Of the 100 blocks, 16 are mixed at a time, and what is mixed is the whole of it.
    parts = [order[start : start + 320] for start in range(0, 2000, 320)]
    held = [{index // 20 for index in part} for part in parts]
    assert [len(blocks) for blocks in held] == [16] * 6 + [4]
    assert sum(map(len, held)) == len(set().union(*held))
    assert len({index // 20 for index in order[:32]}) > 8
    assert order != in_blocks(1)


def test_a_later_start_in_blocks_gives_the_rest_of_the_same_epoch() -> None:
    order = TrainingOrder(Batches(200, 10), 5, blocks=[i // 4 for i in range(200)])
    order.start(2)
    whole = list(order)
    order.start(2, 7)
    assert list(order) == whole[7:]


def test_weighted_draws_keep_to_the_blocks_too() -> None:
    order = in_blocks(0, [1.0] * 1000 + [9.0] * 1000)
    assert len(order) == 2000
    assert sum(index >= 1000 for index in order) > 1700
    seen = [index // 20 for index in order]
    spans = [2000 - seen[::-1].index(block) - seen.index(block) for block in set(seen)]
    assert max(spans) < 1000


def test_an_image_that_an_epoch_has_twice_is_changed_in_two_ways(tmp_path: Path) -> None:
    keys = drawn_by_weight(0)
    assert len(set(keys)) == len(keys)
    assert max(times for _, _, times in keys) > 2
    samples = Samples(drawn(tmp_path, 1), training(PRE, Standard()), seed=5)
    once, twice, again = (samples[0, 0, times] for times in (0, 1, 1))
    assert not torch.equal(once.image, twice.image)  # type: ignore[union-attr]
    assert torch.equal(twice.image, again.image)  # type: ignore[union-attr]


def test_processes_share_an_epoch_without_overlap(tmp_path: Path) -> None:
    split = drawn(tmp_path, 11)
    shares = [[i for b in epoch(split, 0, 0, rank=r, world=3) for i in b.indices.tolist()] for r in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    split = drawn(tmp_path, 6)
    (tmp_path / "003.png").write_bytes(b"not an image")
    with pytest.raises(FtkitError, match=r"003\.png: not an image"):
        [require_readable(b) for b in evaluation_loader(Samples(split, evaluation(PRE)), 2, workers)]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_process_that_ends_ends_its_workers(tmp_path: Path, workers: int) -> None:
    """They ignore the signals that stop a run, but must not be waited for when it is over."""
    drawn(tmp_path, 6)
    code = f"""
from pathlib import Path
from tests.unit.test_data import PRE, Files
from ftkit.data.loading.loader import Samples, evaluation_loader
from ftkit.transforms.pipeline import evaluation
from ftkit.parts.dataset import Split
paths = sorted(Path({str(tmp_path)!r}).glob("*.png"))
samples = Samples(Split([p.name for p in paths], [0] * 6, Files(paths)), evaluation(PRE))
loader = evaluation_loader(samples, 2, {workers})
print(len(list(loader)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout == "3\n"
