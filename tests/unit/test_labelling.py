"""From a table's column of labels to splits: no label is left out with a count, what can't be one is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from ftkit.api import Labelled, RequestError, Split, SplitName, Splits, label_splits, relabel


def rows(values: Sequence[object], classes: Sequence[str] | None = None) -> Labelled:
    names = [f"row{place}" for place in range(len(values))]
    return Labelled(Split(names, [0] * len(names), lambda index: None), values, classes)  # type: ignore[arg-type,return-value]


def labelled(**tables: Any) -> Splits:
    found: dict[SplitName, Labelled] = tables  # type: ignore[assignment]
    return label_splits(found, {name: f"photos, split {name}" for name in found})


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None], [math.nan, math.nan], ["", " "], [-1, None]])
@pytest.mark.parametrize("classes", [("ants", "bees"), None])
def test_a_split_whose_labels_were_kept_back_is_left_out(hidden: list[object], classes: Sequence[str] | None) -> None:
    declared = classes if "" not in hidden else None
    splits = labelled(train=rows([0, 1, 0, 1], declared), val=rows([1, 0], declared), test=rows(hidden, declared))
    assert splits.test is None
    assert splits.val is not None
    assert list(splits.val.labels) == [1, 0]
    (note,) = splits.notes
    assert "the test split is skipped: none of its 2 images has a label" in note


@pytest.mark.parametrize("hidden", [["None", "nan"], ["-1", "-1"], ["N/A", None]])
def test_words_for_what_is_missing_are_no_classes_beside_numbers_or_in_other_splits(hidden: list[object]) -> None:
    splits = labelled(train=rows(["0", "1", *hidden]), test=rows(hidden))
    assert (splits.classes, splits.test) == (("0", "1"), None)
    splits = labelled(train=rows(["cat", "dog", "None"]), val=rows(["cat", *hidden]), test=rows(["None", "dog"]))
    assert splits.classes == ("None", "cat", "dog"), "a class may be called so"
    assert splits.test is not None
    assert len(splits.test) == 2
    declared = labelled(train=rows(["cat", "dog"], ("cat", "dog")), test=rows(hidden, ("cat", "dog")))
    assert declared.test is None


def test_single_samples_without_a_label_are_left_out_and_counted() -> None:
    splits = labelled(train=rows([0, None, 1, math.nan, -1, 0, 1], ("ants", "bees")))
    assert splits.train is not None
    assert list(splits.train.labels) == [0, 1, 0, 1]
    assert list(splits.train.names) == ["row0", "row2", "row5", "row6"]
    assert splits.notes == (
        "the train split: 3 of 7 images have no label and are skipped (2 are missing, 1 is -1): row1, row3, row4",
    )


@pytest.mark.parametrize(
    ("values", "classes", "labels"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, 9], ("9", "10"), [1, 0, 0]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([1, -1, 1], ("-1", "1"), [1, 0, 1]),
        (["None", "nan", "null"], ("None", "nan", "null"), [0, 1, 2]),
        (["01", "1", "01"], ("01", "1"), [0, 1, 0]),
    ],
)
def test_names_of_classes_are_what_stands_there(
    values: list[object], classes: tuple[str, ...], labels: list[int]
) -> None:
    splits = labelled(train=rows(values))
    assert (splits.classes, splits.notes) == (classes, ())
    assert splits.train is not None
    assert list(splits.train.labels) == labels


def test_minus_one_beside_numbers_from_0_is_no_class() -> None:
    splits = labelled(train=rows([0, 1, -1, 2]), val=rows([1, -1]))
    assert splits.classes == ("0", "1", "2")
    assert [len(split) for _, split in splits.present()] == [3, 1]
    assert len(splits.notes) == 2


def test_splits_with_and_without_declared_names_meet_by_name() -> None:
    splits = labelled(train=rows([0, 1], ("ants", "bees")), val=rows(["bees", "ants"]))
    assert splits.val is not None
    assert list(splits.val.labels) == [1, 0]


@pytest.mark.parametrize(
    ("values", "classes", "printed"),
    [
        ([0, 7], ("a", "b"), "photos, split train: the label of row1 is 7, and there are 2 class names, for 0 to 1"),
        ([0, -2], ("a", "b"), "the label of row1 is -2"),
        (["a", "c"], ("a", "b"), "the label of row1 is 'c', which isn't among the 2 class names"),
        ([0.5, 1.0], None, "the label of row0 is 0.5, not a whole number"),
        ([math.inf, 1.0], None, "the label of row0 is inf, not a whole number"),
        ([[0, 1], [1]], None, "the label of row0 is a list"),
        ([{"a": 1}], None, "the label of row0 is a dict"),
        ([b"a"], None, "the label of row0 is a bytes"),
        ([None, math.nan], None, "photos, split train: none of 2 samples has a label"),
        ([-1, -1], None, "photos, split train: none of 2 samples has a label"),
        ([], None, "photos, split train: none of 0 samples has a label"),
    ],
)
def test_what_can_be_no_label_is_refused(values: list[object], classes: Sequence[str] | None, printed: str) -> None:
    with pytest.raises(RequestError) as refused:
        labelled(train=rows(values, classes))
    assert printed in str(refused.value)


def test_a_label_out_of_range_is_never_counted_from_the_end() -> None:
    split = Split(["x", "y"], [0, -1], lambda index: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(RequestError, match="the label of y is -1, but labels are 0 to 1"):
        relabel(split, ("a", "b"), ("a", "b"), "photos")
