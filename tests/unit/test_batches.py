"""The cut of an epoch: every image once, in even parts."""

from __future__ import annotations

import itertools

import pytest

from ftkit.data.batch_sizes import Batches
from ftkit.errors import RequestError


def test_a_remainder_is_spread_instead_of_left_as_a_tiny_batch() -> None:
    batches = Batches(images=65, batch_size=32)
    assert [len(batches.step(k)) for k in range(batches.steps)] == [21, 22, 22]


def test_a_fitting_count_gives_full_batches() -> None:
    batches = Batches(images=64, batch_size=32)
    assert [list(batches.step(k))[:2] for k in range(batches.steps)] == [[0, 1], [32, 33]]


@pytest.mark.parametrize("images", [1, 2, 7, 31, 32, 33, 64, 65, 199, 200])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_each_image_is_seen_once_an_epoch_by_one_process(images: int, world: int, accumulate: int) -> None:
    batches = Batches(images, batch_size=8, accumulate=accumulate, world=world)
    seen = [
        position
        for step in range(batches.steps)
        for part in range(accumulate)
        for rank in range(world)
        for position in batches.batch(step, part, rank)
    ]
    assert seen == list(range(images))


def test_no_batch_is_larger_than_asked_for() -> None:
    batches = Batches(images=199, batch_size=8, accumulate=2, world=3)
    sizes = {len(batches.batch(s, p, r)) for s in range(batches.steps) for p in range(2) for r in range(3)}
    assert max(sizes) <= 8
    assert min(sizes) == batches.smallest


def test_no_images_is_refused() -> None:
    with pytest.raises(RequestError, match="no training images"):
        Batches(images=0, batch_size=8)


def test_parts_may_be_empty_and_cover_each_image_once() -> None:
    for images, size, parts, world in itertools.product((1, 2, 9), (1, 2), (1, 7), (1, 3)):
        batches = Batches(images, size, parts, world)
        cut = [
            position
            for step, part, rank in itertools.product(range(batches.steps), range(parts), range(world))
            for position in batches.batch(step, part, rank)
        ]
        assert sorted(cut) == list(range(images))
