"""Draws are by class, fixed by the seed, and the same on every machine."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ftkit.api import stratified_sample, stratified_split
from ftkit.data.balance import balance_notes, class_weights
from ftkit.data.sampling import stratified_parts
from ftkit.errors import RequestError


def test_a_split_takes_the_same_part_of_each_class() -> None:
    labels = [0] * 10 + [1] * 20 + [2] * 50
    kept, taken = stratified_split(labels, 0.2, seed=0)
    assert [sum(labels[i] == c for i in taken) for c in range(3)] == [2, 4, 10]
    assert sorted(kept + taken) == list(range(80))
    assert kept == sorted(kept)
    assert taken == sorted(taken)


def test_a_seed_gives_these_positions_for_ever() -> None:
    labels = [0, 1] * 5
    # Random(0) gives .84 .76 .42 .26 .51 .41 .78 .30 .48 .58: the lowest two of each class are taken.
    assert stratified_split(labels, 0.4, seed=0) == ([0, 1, 4, 5, 6, 9], [2, 3, 7, 8])
    assert stratified_split(labels, 0.4, seed=7) == ([0, 2, 4, 5, 7, 9], [1, 3, 6, 8])
    assert stratified_sample(labels, 4, seed=0) == [2, 3, 7, 8]


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, [1, 1]), (0.5, [1, 2]), (0.99, [1, 2])])
def test_each_class_has_at_least_one_on_each_side(fraction: float, expected: list[int]) -> None:
    labels = [0, 0, 1, 1, 1]
    _, taken = stratified_split(labels, fraction, seed=3)
    assert [sum(labels[i] == c for i in taken) for c in range(2)] == expected


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(RequestError, match=r"^class 'wasps': a single image can't be in both train and val \(add"):
        stratified_split([0, 0, 1], 0.2, 0, ["ants", "wasps"])
    with pytest.raises(RequestError, match=r"^classes 'a', 'b', 'c', 'd', 'e' and 2 more: "):
        stratified_split(range(7), 0.2, 0, "abcdefg")


def test_a_sample_is_in_proportion_with_one_of_each() -> None:
    labels = [0] * 1000 + [1] * 100 + [2] * 2
    for count, expected in ((3, [1, 1, 1]), (12, [10, 1, 1]), (112, [101, 10, 1]), (1102, [1000, 100, 2])):
        drawn = stratified_sample(labels, count, seed=1)
        assert [sum(labels[i] == c for i in drawn) for c in range(3)] == expected
        assert drawn == sorted(set(drawn))


def test_a_larger_sample_holds_the_smaller_one() -> None:
    labels = [i % 7 for i in range(100)] + [3] * 40
    drawn = [set(stratified_sample(labels, count, seed=5)) for count in range(7, 141)]
    assert all(smaller < larger for smaller, larger in pairwise(drawn))
    assert drawn[-1] == set(range(140))


def test_seeds_differ() -> None:
    labels = [0] * 50 + [1] * 50
    assert stratified_sample(labels, 20, seed=0) != stratified_sample(labels, 20, seed=1)
    assert stratified_split(labels, 0.2, seed=0) != stratified_split(labels, 0.2, seed=1)


def test_counts_that_cannot_be() -> None:
    with pytest.raises(
        RequestError, match=r"^train_samples is 2, fewer than the 3 classes \(set train_samples to 3 or"
    ):
        stratified_sample([0, 1, 2, 2], 2, 0)
    with pytest.raises(
        RequestError, match=r"^train_samples is 5, but there are 4 training images \(set train_samples to 4"
    ):
        stratified_sample([0, 1, 2, 2], 5, 0)


@pytest.mark.parametrize("parts", [2, 3, 5, 7])
def test_parts_cover_every_position_once_with_each_class_in_proportion(parts: int) -> None:
    labels = [0] * 11 + [1] * 20 + [2] * 50 + [3] * 2
    found = stratified_parts(labels, parts, seed=1)
    assert sorted(place for part in found for place in part) == list(range(83))
    assert all(part == sorted(part) for part in found)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    for label, size in enumerate((11, 20, 50, 2)):
        counts = [sum(labels[i] == label for i in part) for part in found]
        assert max(counts) - min(counts) <= 1
        assert max(counts) < size, "each class is outside each part too"
    assert found == stratified_parts(labels, parts, seed=1)
    assert found != stratified_parts(labels, parts, seed=2)


def test_parts_that_cannot_be() -> None:
    with pytest.raises(RequestError, match="3 training images can't be divided into 4 parts"):
        stratified_parts([0, 0, 1], 4, seed=0)
    with pytest.raises(RequestError, match="class 'b'"):
        stratified_parts([0, 0, 1], 2, seed=0, classes=("a", "b"))


def test_class_weights_let_classes_count_the_same_and_images_one_on_average() -> None:
    assert class_weights([0] * 6 + [1] * 2 + [3] * 1, 4) == (0.5, 1.5, 0.0, 3.0)


def test_balance_without_effect_is_noted() -> None:
    assert balance_notes("weights", [0, 0, 1, 1])[0].startswith("balance weights has no effect")
    assert balance_notes("sampler", [0, 1])[0].startswith("balance sampler has no benefit")
    assert balance_notes("none", [0, 1]) == balance_notes("weights", [0, 0, 1]) == ()
