"""Layouts of folders: the common ones are recognised and said, what can't be told is refused, none is guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from ftkit.builtin.datasets.image_folder import Folder
from ftkit.errors import RequestError
from tests.conftest import typed

PICTURE = Image.new("RGB", (8, 8), "red")


def made(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.save(path) if path.suffix in (".png", ".jpg") else path.write_text("x")
    return root


def split(train: str, *others: str, classes: Sequence[str] = ("cat", "dog")) -> list[str]:
    return [f"{folder}/{name}/1.png" for folder in (train, *others) for name in classes]


RECOGNISED: list[tuple[list[str], tuple[str, ...], str]] = [
    (split("training_set", "test_set"), ("train", "test"), "training_set, test_set are read as train, test"),
    (split("training_set/training_set", "test_set/test_set"), ("train", "test"), "training_set/training_set"),
    (split("train_set", "val_set"), ("train", "val"), "split folders train_set, val_set are read as train, val"),
    (split("trainset", "testset"), ("train", "test"), "are read as train, test"),
    (split("Training", "Testing"), ("train", "test"), ""),
    (split("TRAIN", "Test"), ("train", "test"), ""),
    (split("Training Images", "Test Images"), ("train", "test"), "are read as"),
    ([*split("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred/7.jpg"], ("train", "test"),
     "split folders seg_train/seg_train, seg_test/seg_test are read as train, test"),
    (split("train_data", "valid_data", "test_data"), ("train", "val", "test"), "are read as train, val, test"),
    (split("images/train", "images/val"), ("train", "val"), "read from the subfolder images"),
    (split("imgs/train", "imgs/val"), ("train", "val"), "read from the subfolder imgs"),
    (split("data/train", "data/test"), ("train", "test"), "read from the subfolder data"),
    (split("root/dataset/train", "root/dataset/val"), ("train", "val"), "read from the subfolder root/dataset"),
    (split("dataset"), ("train",), "read from the subfolder dataset"),
    (split("train/train", "val/val"), ("train", "val"), "train/train"),
    (split("train/images", "val/images"), ("train", "val"), "train/images"),
    (split("flowers_train", "flowers_test"), ("train", "test"), "are read as train, test"),
    (split("train2017", "val2017"), ("train", "val"), "are read as train, val"),
    ([*split("train", "valid", "test"), "README.roboflow.txt"], ("train", "val", "test"), ""),
    ([*split("chest/train", "chest/test"), "__MACOSX/chest/train/._x.png", "readme.md"], ("train", "test"), "chest"),
    ([*split("dataset/train", "dataset/val"), "code/main.py", "docs/a.txt"], ("train", "val"), "subfolder dataset"),
    (split("train", "test") + split("chest/train", "chest/test"), ("train", "test"), "1 entry beside"),
    (split("training-data/train", "training-data/test"), ("train", "test"), "the subfolder training-data"),
    (split("train_v2/dataset/training_set", "train_v2/dataset/test_set"), ("train", "test"), "train_v2/dataset"),
    (split("trainval", "test"), ("train", "test"), "trainval, test are read as train, test"),
    (split("train_val", "test"), ("train", "test"), "train_val, test are read as train, test"),
    (split("splits/train", "splits/test", "raw"), ("train", "test"), "1 entry beside splits ignored: raw"),
    ([*split("Training", "Test"), "test-multiple_fruits/1.jpg"], ("train", "test"), "beside Training"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "splits", "note"), RECOGNISED)
def test_common_layouts(tmp_path: Path, names: list[str], splits: tuple[str, ...], note: str) -> None:
    found = Folder(made(tmp_path, *names)).load()
    assert found.classes == ("cat", "dog")
    assert tuple(name for name, _ in found.present()) == splits
    assert all(len(one) == 2 for _, one in found.present())
    assert note in "; ".join(found.notes)
    if not note:
        assert found.notes in ((), ("1 entry beside train, valid, test ignored: README.roboflow.txt",))


REFUSED: list[tuple[list[str], str]] = [
    ([f"{c}/{s}/1.png" for c in ("cat", "dog") for s in ("train", "test")],
     "has splits in 2 folders: cat/{test, train}, dog/{test, train}"),
    (["images/1.jpg", "labels/1.txt"], "layout for detection or segmentation: images/, labels/"),
    (["images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt", "labels/val/1.txt"], "layout for detection"),
    (["train/images/1.jpg", "train/labels/1.txt", "valid/images/1.jpg"], "layout for detection"),
    (["JPEGImages/1.jpg", "Annotations/1.xml", "ImageSets/Main/train.txt"], "layout for detection"),
    ([f"train/{c}.{n}.jpg" for c in ("cat", "dog") for n in range(3)] + ["test1/1.jpg"],
     "6 images, but no class folders with images; their names start with cat, dog"),
    ([f"train/train/{c}.{n}.jpg" for c in ("cat", "dog") for n in range(3)], "their names start with cat, dog"),
    (["train/images/1.jpg", "val/images/1.jpg"], "no class folders with images"),
    (split("train/train", "train/val", "test"), "has splits inside splits: train/{train, val}, test/{cat, dog}"),
    (split("flowers", "flowers/flowers"), "flowers/flowers both have class folders cat, dog"),
    (split("train", "train/train", "val"), "train/train both have class folders cat, dog"),
    (split("learn", "test"), "seems to have splits, but only test has the name of one: learn/{cat, dog}"),
    (["training_set/cat/1.png", "train_set/cat/1.png", "test/cat/1.png"], "has two train folders"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "says"), REFUSED)
def test_what_is_no_layout_is_refused_in_a_line(tmp_path: Path, names: list[str], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Folder(made(tmp_path, *names)).load()
    assert says in caught.value.message
    assert caught.value.hint
    assert "CLASS" in caught.value.hint or "merge" in caught.value.hint


def test_classes_that_are_called_like_splits_stay_classes_and_are_named(tmp_path: Path) -> None:
    found = Folder(made(tmp_path, *(f"{name}/1.jpg" for name in ("bus", "car", "train", "test_set")))).load()
    assert found.classes == ("bus", "car", "test_set", "train")
    assert found.notes == (
        "folders train, test_set are classes, not splits, since there are other class folders beside it",
    )


def test_classes_with_folders_inside_stay_classes(tmp_path: Path) -> None:
    found = Folder(made(tmp_path, "a/2020/1.png", "a/2021/1.png", "b/train/1.png", "c/x/1.png")).load()
    assert found.classes == ("a", "b", "c")


def test_plan_and_init_say_what_was_recognised(tmp_path: Path) -> None:
    made(tmp_path / "d", *split("training_set", "test_set", classes=("a", "b", "c")),
         *(f"training_set/{c}/{n}.png" for c in "abc" for n in range(9)))  # fmt: skip
    done = typed(
        "plan", "--data", "d", "--backbone", "lenet", "--weights", "none", "--strategy", "scratch", cwd=tmp_path
    )
    assert "split folders training_set, test_set are read as train, test" in done.stdout + done.stderr
    assert "test_set" in (made_by := typed("init", "p", "--data", "d", cwd=tmp_path)).stdout + made_by.stderr


def test_splits_of_unknown_names_are_asked_about(tmp_path: Path) -> None:
    found = Folder(made(tmp_path, *split("learn", "holdout"))).load()
    assert found.classes == ("holdout", "learn")
    assert (
        "each contains folders cat, dog: if these are the classes, rename the outer folders to train, val and test"
        in found.notes[0]
    )


@pytest.mark.long
def test_a_folder_takes_time_by_its_classes_and_not_by_their_square(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "1.png")

    def seconds(classes: int) -> float:
        root = tmp_path / str(classes)
        for number in range(classes):
            (root / f"class {number}").mkdir(parents=True)
            (root / f"class {number}" / "1.png").hardlink_to(tmp_path / "1.png")
        started_at = time.process_time()
        assert len(Folder(root).load().classes) == classes
        return time.process_time() - started_at

    seconds(10)
    assert seconds(10_000) < 45 * seconds(500)
