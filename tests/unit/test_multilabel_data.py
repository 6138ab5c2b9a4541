"""Several labels per image: read from CSV files, selected, sampled, checked and collated."""

from __future__ import annotations

import csv
import io
import pickle
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ftkit.api import (
    Dataset,
    LabelSets,
    Preprocessing,
    RequestError,
    Split,
    Splits,
    stratified_sample,
    stratified_split,
)
from ftkit.data.balance import class_weights, sampling_weights
from ftkit.data.class_selection import apply_training_classes, select_classes
from ftkit.data.loading.loader import Samples, evaluation_loader, label_tensor
from ftkit.data.plugin_checks import checked_splits
from ftkit.data.sampling import stratified_parts
from ftkit.data.scan.image_scan import scan_images
from ftkit.parts.label_sets import count_classes
from ftkit.training.preparation.open_run import write_splits
from ftkit.transforms.pipeline import evaluation
from tests.conftest import typed
from tests.models import part

TAGS = "path,label,split\n0.png,sky|sea,train\n1.png,sea,train\n2.png,,train\n3.png,city | sky,train\n4.png,sky,val\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = random.Random(0)
    for number in range(6):
        Image.frombytes("RGB", (24, 24), rng.randbytes(24 * 24 * 3)).save(tmp_path / f"{number}.png")
    return tmp_path


def load(folder: Path, text: str, **options: Any) -> Splits:
    (folder / "t.csv").write_text(text, encoding="utf-8")
    return checked_splits(part("datasets", "csv")(folder / "t.csv", **options).load())


def names_of(splits: Splits, split: Split | None) -> list[tuple[str, ...]]:
    assert split is not None
    assert isinstance(split.labels, LabelSets)
    return [tuple(splits.classes[label] for label in one) for one in split.labels]


def refusal(folder: Path, text: str, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        load(folder, text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_several_labels_in_a_cell(images: Path) -> None:
    splits = load(images, TAGS, separator="|")
    assert splits.multilabel
    assert splits.classes == ("city", "sea", "sky")
    assert names_of(splits, splits.train) == [("sea", "sky"), ("sea",), (), ("city", "sky")]
    assert names_of(splits, splits.val) == [("sky",)]
    assert splits.train is not None
    assert splits.train[3][1] == (0, 2)


def test_labels_separated_by_spaces(images: Path) -> None:
    splits = load(images, "path,label\n0.png,haze  primary\n1.png,clear\n", separator=" ")
    assert names_of(splits, splits.train) == [("haze", "primary"), ("clear",)]


def test_a_separator_that_is_in_no_value_or_seems_to_be_missing_is_noted(images: Path) -> None:
    text = "path,label\n0.png,sea;sky\n1.png,sea\n"
    assert load(images, text, separator="|").notes == (
        "t.csv: no image has several labels: separator '|' is in no value",
    )
    assert load(images, text, separator=";").notes == ()
    notes = load(images, text.replace(";", "|")).notes
    assert notes == ("t.csv: labels contain '|': --set 'dataset.separator=|' reads them as several",)


def test_labels_separated_by_tabs_may_have_spaces(images: Path) -> None:
    splits = load(images, "path,label\n0.png,red car\t\tsea\n1.png,sea\n", separator="\t")
    assert names_of(splits, splits.train) == [("red car", "sea"), ("sea",)]


@pytest.mark.parametrize("columns", [("is_sea", "is_sky"), "is_*", ("is_*",)])
def test_a_column_for_each_class(images: Path, columns: tuple[str, ...] | str) -> None:
    text = "path,is_sky,is_sea,split,other\n0.png,1,0,train,x\n1.png,TRUE,true,train,y\n2.png,False,0,test,z\n"
    splits = load(images, text, class_columns=columns)
    assert splits.classes == ("is_sky", "is_sea"), "in the order of the columns"
    assert names_of(splits, splits.train) == [("is_sky",), ("is_sky", "is_sea")]
    assert names_of(splits, splits.test) == [()]


def test_a_pattern_leaves_out_the_columns_of_paths_and_splits(images: Path) -> None:
    splits = load(images, "path,a,b,split\n0.png,1,0,train\n1.png,0,1,train\n", class_columns="*")
    assert splits.classes == ("a", "b")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,a,b\n0.png,1,2\n", {"class_columns": ("a", "b")}, "t.csv line 2: '2' in class column 'b' is not 0, 1"),
        ("path,a,b\n0.png,1,\n", {"class_columns": "[ab]"}, "line 2: '' in class column 'b' is not 0, 1"),
        ("path,a\n0.png,1\n", {"class_columns": ("a", "c")}, "has no column 'c', only path, a"),
        ("path,a\n0.png,1\n", {"class_columns": "is_*"}, "has no column 'is_*', only path, a"),
        ("path,a,a\n0.png,1,1\n", {"class_columns": ("a",)}, "has 2 columns 'a'"),
        ("path,label\n0.png,a||b\n", {"separator": "|"}, "line 2: an empty label in column 'label': 'a||b'"),
        ("path,label\n0.png,a|b\n0.png,a\n", {"separator": "|"}, "0.png has label 'a', but 'a' and 'b' on line 2"),
        ("path,label\n0.png,a\n", {"separator": ""}, '(give the text between labels; YAML needs quotes: "|")'),
        ("path,a\n0.png,1\n", {"separator": "|", "class_columns": "a"}, "dataset.separator has no effect"),
        ("path,label,split\n0.png,a,train\n1.png,a|z,val\n", {"separator": "|"}, "class 'z' is not among the"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(images: Path, text: str, options: dict[str, Any], message: str) -> None:
    assert message in refusal(images, text, **options)


def test_the_command_line_sets_the_options(images: Path) -> None:
    (images / "t.csv").write_text("path,is_a,is_b\n0.png,1,2\n", encoding="utf-8")
    for value in ("is_*", "[is_a, is_b]"):
        done = typed("plan", "--dataset", "csv", "--set", "dataset.path=t.csv", "--set",
                     f"dataset.class_columns={value}", cwd=images)  # fmt: skip
        assert done.returncode == 2
        assert "t.csv line 2: '2' in class column 'is_b' is not 0, 1, false or true" in done.stderr


def test_label_sets_are_a_sequence_of_ascending_tuples() -> None:
    labels = LabelSets([[2, 0, 2], [], (1,)], 3)
    assert list(labels) == [(0, 2), (), (1,)]
    assert (labels[-1], len(labels), labels[1:]) == ((1,), 3, LabelSets([[], [1]], 3))
    assert pickle.loads(pickle.dumps(labels)) == labels
    assert list(labels.mapped([1, None, 0], 2)) == [(0, 1), (), ()]
    with pytest.raises(IndexError):
        labels[3]
    assert len(pickle.dumps(LabelSets(((i % 50,) for i in range(100_000)), 50))) < 1_300_000


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(0,), (0, 3)], "train split: the label of b is 3, which is not an index of the 3 classes"),
        ([(0,), 1], "the label of b is 1, but the first one is a set of labels"),
        ([(0,), (True,)], "the label of b is True, which is not an index"),
        ([0, (1,)], "the label of b is (1,), which is not an index"),
        (LabelSets([[0], [5]], 6), "the label of b is 5, which is not an index of the 3 classes"),
    ],
)
def test_labels_of_plugins_are_checked(labels: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        checked_splits(Splits(("x", "y", "z"), Split(["a", "b"], labels, _nothing)))
    assert message in str(caught.value)


def test_lists_and_sets_of_a_plugin_become_label_sets() -> None:
    for labels in ([[1, 0], []], [{0, 1}, set()], [(1, 0), ()]):
        given: Any = labels
        found = checked_splits(Splits(("x", "y"), Split(["a", "b"], given, _nothing)))
        assert found.train is not None
        assert found.train.labels == LabelSets([[0, 1], []], 2)


def test_splits_of_two_kinds_are_refused() -> None:
    train, val = Split(["a"], LabelSets([[0]], 2), _nothing), Split(["b"], [1], _nothing)
    with pytest.raises(RequestError, match="the train split has several labels per image, but the val split has one"):
        checked_splits(Splits(("x", "y"), train, val))


def test_the_fingerprint_changes_with_a_label() -> None:
    def fingerprint(*sets: Sequence[int]) -> str:
        return Splits(("x", "y", "z"), Split(["a", "b"], LabelSets(sets, 3), _nothing)).fingerprint()

    assert fingerprint([0, 1], []) == fingerprint([1, 0], [])
    assert len({fingerprint([0, 1], []), fingerprint([0], [1]), fingerprint([0, 2], []), fingerprint([], [0, 1])}) == 4


def test_selected_classes_keep_all_images(images: Path) -> None:
    splits = select_classes(load(images, TAGS, separator="|"), ("sky", "city"), None)
    assert splits.classes == ("sky", "city")
    assert names_of(splits, splits.train) == [("sky",), (), (), ("sky", "city")]
    assert splits.notes == ("classes: 2 of 3 are used, 3 of 5 images have a label",)


def test_one_class_is_enough(images: Path) -> None:
    splits = select_classes(load(images, TAGS, separator="|"), ("sea",), None)
    assert names_of(splits, splits.train) == [("sea",), ("sea",), (), ()]


def test_mapped_classes_merge(images: Path) -> None:
    loaded = load(images, TAGS, separator="|")
    splits = select_classes(loaded, None, {"sky": "nature", "sea": "nature", "city": "city"})
    assert splits.classes == ("city", "nature") or splits.classes == ("nature", "city")
    assert sorted(names_of(splits, splits.train)[3]) == ["city", "nature"]
    assert names_of(splits, splits.train)[0] == ("nature",)
    other = apply_training_classes(loaded, splits.class_mapping, splits.classes, "data")
    assert names_of(other, other.val) == [("nature",)]


def many(count: int, classes: int, seed: int = 0) -> LabelSets:
    rng = random.Random(seed)
    popular = [1 / (label + 1) for label in range(classes)]
    sizes = (0, 1, 1, 2, 3, 4, 8)
    return LabelSets((rng.choices(range(classes), popular, k=rng.choice(sizes)) for _ in range(count)), classes)


def test_a_stratified_split_has_the_same_fraction_of_each_class() -> None:
    labels = many(3000, 40)
    kept, taken = stratified_split(labels, 0.2, seed=1)
    assert sorted([*kept, *taken]) == list(range(3000))
    assert (kept, taken) == stratified_split(labels, 0.2, seed=1)
    assert (kept, taken) != stratified_split(labels, 0.2, seed=2)
    counts, part = count_classes(labels), count_classes(labels.take(taken))
    assert all(abs(part[label] - 0.2 * count) <= 1 for label, count in counts.items())
    negatives = [index for index, one in enumerate(labels) if not one]
    assert abs(len(set(negatives) & set(taken)) - 0.2 * len(negatives)) <= 1


def test_with_one_label_each_it_is_the_split_of_one_label() -> None:
    single = random.Random(3).choices(range(7), [1, 2, 3, 4, 5, 60, 9], k=2000)
    labels = LabelSets(((label,) for label in single), 7)
    for fraction in (0.1, 0.25, 0.37):
        assert stratified_split(single, fraction, 5) == stratified_split(labels, fraction, 5)


def test_each_class_is_on_both_sides_where_that_is_possible() -> None:
    for seed in range(20):
        labels = LabelSets([[0, 1], [0, 2], [1, 3], [2, 3], [0], [1], [2], [3], []], 4)
        kept, taken = stratified_split(labels, 0.2, seed)
        assert set(count_classes(labels.take(taken))) == set(count_classes(labels.take(kept))) == {0, 1, 2, 3}


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(RequestError, match="class 'z': a single image can't be in both train and val"):
        stratified_split(LabelSets([[0], [0, 1], [1, 2]], 3), 0.5, 0, ("x", "y", "z"))


def test_samples_are_nested_proportional_and_cover_all_classes() -> None:
    labels = many(4000, 50)
    draws = [stratified_sample(labels, count, seed=4) for count in (100, 400, 1500, 4000)]
    assert [len(draw) for draw in draws] == [100, 400, 1500, 4000]
    assert all(set(few) < set(more) for few, more in pairwise(draws))
    assert set(count_classes(labels.take(draws[0]))) == set(range(50))
    counts, part = count_classes(labels), count_classes(labels.take(draws[2]))
    assert all(abs(part[label] / count - 1500 / 4000) < 0.1 for label, count in counts.items())


def test_samples_too_small_for_all_classes_are_refused() -> None:
    with pytest.raises(RequestError, match="train_samples is 1, too few to include all classes") as caught:
        stratified_sample(LabelSets([[0, 1], [2], [2]], 3), 1, 0)
    assert caught.value.hint == "set train_samples to 2 or more"
    assert len(stratified_sample(LabelSets([[0, 1], [2], [2]], 3), 2, 0)) == 2
    with pytest.raises(RequestError, match="train_samples is 9, but there are 3 training images"):
        stratified_sample(LabelSets([[0, 1], [2], [2]], 3), 9, 0)


def test_a_hundred_thousand_images_are_sampled_in_seconds() -> None:
    labels = many(100_000, 300)
    start = time.perf_counter()
    stratified_split(labels, 0.2, 0)
    stratified_sample(labels, 20_000, 0)
    assert time.perf_counter() - start < 20, "about 2 seconds on two cores"


def test_weights_by_class() -> None:
    labels = LabelSets([[0], [0, 1], [0], []], 3)
    assert class_weights(labels, 3) == pytest.approx((4 / 6, 2.0, 0.0))
    assert sampling_weights(labels, 3) == pytest.approx([4 / 6, 2.0, 4 / 6, 1.0])


def test_copies_with_other_labels_contradict_each_other(images: Path) -> None:
    (images / "copy.png").write_bytes((images / "0.png").read_bytes())
    (images / "same.png").write_bytes((images / "1.png").read_bytes())
    text = "path,label\n0.png,sea|sky\ncopy.png,sky\n1.png,sea|sky\nsame.png,sky|sea\n"
    found = scan_images(load(images, text, separator="|"), "error").findings.duplicates
    assert [(one.label, one.other_label) for one in found] == [("sky", "sea|sky")]


def test_a_class_whose_images_cannot_be_read_is_named(images: Path) -> None:
    (images / "3.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match="train split: no image of class 'city' can be read"):
        scan_images(load(images, TAGS, separator="|"), "skip")
    (images / "2.png").write_bytes(b"no image")
    left = scan_images(load(images, TAGS.replace("city | ", ""), separator="|"), "skip").splits
    assert names_of(left, left.train) == [("sea", "sky"), ("sea",)]


def test_the_list_of_splits_joins_labels(images: Path) -> None:
    file = io.StringIO(newline="")
    write_splits(file, load(images, TAGS, separator="|"))
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["label"] for row in rows] == ["sea|sky", "sea", "", "city|sky", "sky"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_a_row_of_classes_for_each_image(images: Path, workers: int) -> None:
    split = load(images, TAGS, separator="|").train
    assert split is not None
    batches = list(evaluation_loader(Samples(split, evaluation(Preprocessing(size=24))), 3, workers))
    assert [batch.labels.tolist() for batch in batches] == [[[0, 1, 1], [0, 1, 0], [0, 0, 0]], [[1, 0, 1]]]
    assert batches[0].labels.dtype == torch.float32
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2], [3]]


def test_a_batch_without_a_readable_image_has_the_width_of_the_classes(images: Path) -> None:
    split = load(images, TAGS, separator="|").train
    assert split is not None
    assert Samples(split, evaluation(Preprocessing(size=24))).num_classes == 3
    assert label_tensor([], 3).shape == (0, 3)
    assert label_tensor([1, 2]).dtype == torch.int64


@dataclass(frozen=True)
class _Nothing:
    def __call__(self, index: int) -> Image.Image:
        raise NotImplementedError


_nothing = _Nothing()


def test_a_dataset_may_declare_label_sets() -> None:
    class Tags(Dataset):
        def load(self) -> Splits:
            return Splits(("x", "y"), Split(["a"], LabelSets([[1]], 2), _nothing))

    assert checked_splits(Tags().load()).multilabel


def test_parts_of_label_sets_cover_every_position_once() -> None:
    labels = LabelSets([(), (0,), (0, 1), (1,), (1, 2), (0, 2)] * 5, 3)
    found = stratified_parts(labels, 4, seed=0)
    assert sorted(place for part in found for place in part) == list(range(30))
    for label, size in enumerate((15, 15, 10)):
        counts = [sum(label in labels[i] for i in part) for part in found]
        assert all(size / 4 - 2 < count < size / 4 + 2 for count in counts)
