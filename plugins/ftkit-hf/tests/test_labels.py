"""Labels as datasets of the hub have them: hidden, missing, of other kinds; on the disk and streamed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from ftkit_hf.dataset import HubDataset
from PIL import Image

import ftkit
from ftkit.api import LabelSets, RequestError, Splits

NAMES = datasets.ClassLabel(names=["ants", "bees"])
LISTS = datasets.Sequence(NAMES)
TEXT, WHOLE = datasets.Value("string"), datasets.Value("int64")


def write(folder: Path, split: str, labels: Sequence[Any], feature: Any = NAMES, column: str = "label") -> None:
    features = datasets.Features({"image": datasets.Image(), column: feature})
    pictures = [Image.new("RGB", (8, 8), (40 * place % 256, 0, 0)) for place in range(len(labels))]
    folder.mkdir(exist_ok=True)
    table = datasets.Dataset.from_dict({"image": pictures, column: list(labels)}, features)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture(params=[False, True], ids=["disk", "streamed"])
def streaming(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    found: bool = request.param
    return found


def load(folder: Path, streaming: bool, **options: Any) -> Splits:
    return HubDataset(str(folder), streaming=streaming, **options).load()


def test_a_test_split_with_hidden_labels_leaves_train_and_validation_usable(tmp_path: Path, streaming: bool) -> None:
    data = tmp_path / "data"
    write(data, "train", [0, 1] * 6)
    write(data, "validation", [0, 1])
    write(data, "test", [-1, -1, -1])
    dataset = {"name": "hf/dataset", "path": str(data), "streaming": streaming}
    plan = ftkit.plan(dataset=dataset, backbone="lenet", weights="none")
    assert {name: len(split) for name, split in plan.splits.present()} == {"train": 12, "val": 2}
    assert any("the test split is skipped: none of its 3 images has a label (3 are -1)" in note for note in plan.notes)


def test_rows_without_a_label_are_left_out_and_the_others_keep_their_images(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "data", "train", ["b", None, "a", "", "b"], TEXT)
    splits = load(tmp_path / "data", streaming)
    assert splits.train is not None
    assert (splits.classes, list(splits.train.labels)) == (("a", "b"), [1, 0, 1])
    assert [splits.train[place][0].getpixel((0, 0))[0] for place in range(3)] == [0, 80, 160]  # type: ignore[index]
    (note,) = splits.notes
    assert "the train split: 2 of 5 images have no label and are skipped (2 are missing)" in note


def test_splits_that_are_no_ones_and_columns_that_are_missing_are_named(tmp_path: Path, streaming: bool) -> None:
    write(tmp_path / "data", "train", [0, 1])
    write(tmp_path / "data", "test", [0, 1])
    table = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (8, 8))]}, datasets.Features({"image": datasets.Image()})
    )
    saved = datasets.DatasetDict(
        {"train": datasets.load_dataset("parquet", data_files=str(tmp_path / "data" / "train*"))["train"],
         "test": table, "unsupervised": table}
    )  # fmt: skip
    saved.save_to_disk(tmp_path / "saved")
    splits = load(tmp_path / "saved", False)
    assert splits.test is None
    assert splits.notes == (
        "splits passed over beside train, test: unsupervised",
        "the test split is left out: it has no column 'label'",
    )


def test_a_choice_between_columns_is_reported(tmp_path: Path, streaming: bool) -> None:
    features = datasets.Features({"image": datasets.Image(), "fine_label": NAMES, "coarse_label": NAMES})
    pictures = [Image.new("RGB", (8, 8))] * 2
    table = datasets.Dataset.from_dict({"image": pictures, "fine_label": [0, 1], "coarse_label": [1, 1]}, features)
    table.to_parquet(tmp_path / "t.parquet")
    (note,) = load(tmp_path / "t.parquet", streaming).notes
    assert note == "labels are column 'fine_label'; other candidates: coarse_label (dataset.label_column)"
    assert load(tmp_path / "t.parquet", streaming, label_column="fine_label").notes == ()


@pytest.mark.parametrize(
    ("labels", "feature", "said"),
    [
        ([["a"], ["b"]], datasets.Sequence(TEXT), "column 'label' of .* holds (List|Sequence), not classes"),
        ([None, [-1]], LISTS, "no image has labels"),
        ([0.25, 1.5], datasets.Value("float32"), "the label of train/0000000 is 0.25, not a whole number"),
        ([None, None], WHOLE, "none of 2 samples has a label"),
    ],
)
def test_labels_of_other_kinds_are_refused(
    labels: list[Any], feature: Any, said: str, tmp_path: Path, streaming: bool
) -> None:
    write(tmp_path / "data", "train", labels, feature)
    for options in ({}, {"label_column": "label"}):
        with pytest.raises(RequestError, match=said):
            load(tmp_path / "data", streaming, **options)


def test_a_column_of_lists_of_classes_is_several_labels_per_image(tmp_path: Path, streaming: bool) -> None:
    data = tmp_path / "data"
    write(data, "train", [[0], [1, 0], [], [1], None, [-1]] * 2, LISTS, "labels")
    write(data, "validation", [[1], [0, 1], []], LISTS, "labels")
    splits = load(data, streaming)
    assert (splits.classes, splits.multilabel) == (("ants", "bees"), True)
    assert splits.train is not None
    assert splits.val is not None
    assert splits.train.labels == LabelSets([(0,), (0, 1), (), (1,)] * 2, 2)
    assert splits.val.labels == LabelSets([(1,), (0, 1), ()], 2)
    assert [splits.train[place][0].getpixel((0, 0))[0] for place in (3, 4)] == [120, 240]  # type: ignore[index]
    assert splits.notes == ("the train split: 4 of 12 images have no labels and are skipped",)
    dataset = {"name": "hf/dataset", "path": str(data), "streaming": streaming}
    plan = ftkit.plan(dataset=dataset, backbone="lenet", weights="none")
    assert plan.task.name == "multilabel"
