"""Tables of images: found by their columns, checked row by row, mapped by class name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ftkit.builtin.datasets.csv_file import CsvFile
from ftkit.errors import RequestError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def table(folder: Path, text: str, **options: str | Path) -> CsvFile:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return CsvFile(path, **options)  # type: ignore[arg-type]


def test_a_table_without_splits_is_all_training(images: Path) -> None:
    splits = table(images, "path,label\n1.png,bees\n0.png,ants\n\n2.png,ants\n").load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert (splits.train.names, splits.train.labels) == (["0.png", "1.png", "2.png"], [0, 1, 0])
    assert splits.train[1][0].getpixel((0, 0)) == (1, 0, 0)
    assert splits.val is splits.test is None


@pytest.mark.parametrize("separator", [",", ";", "\t", " , "])
def test_separators_and_a_byte_order_mark(images: Path, separator: str) -> None:
    rows = [("label", "path", "split"), ("10", "0.png", "training"), ("9", "1.png", "Train"), ("10", "2.png", "valid")]
    splits = table(images, "\ufeff" + "\r\n".join(separator.join(row) for row in rows)).load()
    assert splits.classes == ("9", "10")
    assert [(name, split.names, split.labels) for name, split in splits.present()] == [
        ("train", ["0.png", "1.png"], [1, 0]),
        ("val", ["2.png"], [1]),
    ]


def test_columns_by_other_names_and_a_root(images: Path) -> None:
    (images / "tables").mkdir()
    dataset = table(
        images / "tables",
        "file,kind,fold\n0.png,a,train\n1.png,b,train\n3.png,a,testing\n",
        image_column="file",
        label_column="kind",
        split_column="fold",
        root=images,
    )
    splits = dataset.load()
    assert splits.test is not None
    assert splits.test.names == ["3.png"]


def test_absolute_paths_and_quotes(images: Path) -> None:
    splits = table(images, f'path,label\n"{images}/0.png","a, or b"\n./1.png,c\n').load()
    assert splits.classes == ("a, or b", "c")
    assert splits.train is not None
    assert splits.train.names == [f"{images}/0.png", "1.png"]
    assert splits.train[0][0].getpixel((0, 0)) == (0, 0, 0)


def test_repeats_and_leaks_are_noted(images: Path) -> None:
    text = "path,label,split\n0.png,a,train\n0.png,a,train\n1.png,b,train\n1.png,b,test\n"
    splits = table(images, text).load()
    assert splits.train is not None
    assert splits.train.names == ["0.png", "1.png"]
    assert splits.notes == (
        "labels.csv: 1 duplicate row is ignored",
        "labels.csv: 1 image is in more than one split",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "has a header but no rows"),
        ("file,label\n0.png,a\n", "has no column 'path', only file, label (name the column with --set dataset.image_"),
        ("path,labels\n0.png,a\n", "(name the column with --set dataset.label_column=labels)"),
        ("path,label\n0.png,a\nnope.png,b\n9.png,b\n", "labels.csv line 3: no file {}/nope.png (2 are missing)"),
        ("path,label\na\\0.png,a\n", "write / between folders"),
        ("path,label\n0.png,\n", "line 2: no value in column 'label' (label_column)"),
        ("path,label\n,a\n", "line 2: no value in column 'path' (image_column)"),
        ("path,label\n0.png\n", "line 2 has 1 values, but the header has 2"),
        ("path,label\n0.png,a,b\n", "line 2 has 3 values, but the header has 2"),
        ("path,label,split\n0.png,a,holdout\n", "line 2: split 'holdout' is not one of train, val, test"),
        ("path,label\n0.png,a\n0.png,b\n", "line 3: 0.png has label 'b', but 'a' on line 2"),
        ("path,label,split\n0.png,a,train\n1.png,wasp,val\n", "split val: class 'wasp' is not among the training"),
        ('path,label\n"0.png,a\n', "is not a table"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_place(images: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        table(images, text).load()
    assert str(caught.value).startswith(str(images / "labels.csv"))
    assert message.replace("{}", str(images)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_column_that_was_asked_for_must_be_there(images: Path) -> None:
    with pytest.raises(RequestError, match=r"no column 'fold', only path, label"):
        table(images, "path,label\n0.png,a\n", split_column="fold").load()


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nope\.csv: can't be read: No such file"):
        CsvFile(tmp_path / "nope.csv").load()
    with pytest.raises(RequestError, match="can't be read: Is a directory"):
        CsvFile(tmp_path).load()
    (tmp_path / "latin.csv").write_bytes("path,label\na.png,\u00e9\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"latin\.csv is not UTF-8 text: .*save it as UTF-8"):
        CsvFile(tmp_path / "latin.csv").load()
