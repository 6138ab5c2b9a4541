"""Folders of images: both layouts, what is passed over, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ftkit.api import Split, class_order, relabel
from ftkit.builtin.datasets.image_folder import Folder
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from tests.conftest import MakeFolder


def load_error(root: Path) -> str:
    with pytest.raises(RequestError) as caught:
        Folder(root).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dot(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), "red").save(path)
    return path


def test_folders_a_split(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path / "data", {"train": {"bees": 2, "ants": 3}, "val": {"ants": 1, "bees": 1}})
    splits = Folder(root).load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert splits.val is not None
    assert splits.test is None
    assert splits.train.names == [
        "train/ants/0000.jpg",
        "train/ants/0001.png",
        "train/ants/0002.jpg",
        "train/bees/0000.jpg",
        "train/bees/0001.png",
    ]
    assert splits.train.labels == [0, 0, 0, 1, 1]
    assert splits.val.labels == [0, 1]
    assert splits.train[4][0].size == (40, 32)
    assert splits.notes == ()


def test_one_folder_of_classes_is_all_training(tmp_path: Path, image_folder: MakeFolder) -> None:
    splits = Folder(image_folder(tmp_path, {"ants": 2, "bees": 1})).load()
    assert splits.train is not None
    assert splits.train.names == ["ants/0000.jpg", "ants/0001.png", "bees/0000.jpg"]
    assert splits.val is splits.test is None


@pytest.mark.parametrize(
    "names", [("Training", "dev", "TESTING"), ("train", "valid", "test"), ("train", "Validation", "test")]
)
def test_split_folders_go_by_the_names_people_use(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name in names:
        dot(tmp_path / name / "a" / "1.png")
    present = Folder(tmp_path).load().present()
    assert [(split, samples.names) for split, samples in present] == [
        (split, [f"{name}/a/1.png"]) for split, name in zip(("train", "val", "test"), names, strict=True)
    ]


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        dot(tmp_path / name / "a" / "1.png")
    assert "has two val folders: val, valid" in load_error(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path, image_folder: MakeFolder) -> None:
    splits = Folder(image_folder(tmp_path, {"bus": 1, "car": 1, "train": 2})).load()
    assert splits.classes == ("bus", "car", "train")


def test_a_test_folder_alone_can_be_evaluated(tmp_path: Path, image_folder: MakeFolder) -> None:
    splits = Folder(image_folder(tmp_path, {"test": {"ants": 2}})).load()
    assert splits.train is None
    assert splits.test is not None
    assert len(splits.test) == 2


def test_images_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("a/2/x.png", "a/1.png", "a/2/deep/er/y.PNG", "b/z.png"):
        dot(tmp_path / name)
    splits = Folder(tmp_path).load()
    assert splits.train is not None
    assert splits.train.names == ["a/1.png", "a/2/deep/er/y.PNG", "a/2/x.png", "b/z.png"]


def test_numbered_classes_are_in_numeric_order(tmp_path: Path) -> None:
    for name in ("10", "9", "1"):
        dot(tmp_path / name / "x.png")
    splits = Folder(tmp_path).load()
    assert splits.classes == ("1", "9", "10")
    assert splits.train is not None
    assert splits.train.names == ["1/x.png", "9/x.png", "10/x.png"]
    assert class_order(["10", "9", "b"]) == ("10", "9", "b")


def test_other_splits_are_mapped_by_class_name(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path, {"train": {"ants": 1, "bees": 1, "wasps": 1}, "val": {"wasps": 2, "bees": 1}})
    splits = Folder(root).load()
    assert splits.val is not None
    assert splits.val.labels == [1, 2, 2]


def test_a_class_that_training_lacks_is_named_with_its_split(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path, {"train": {"ants": 1, "bees": 0}, "valid": {"ants": 1, "bee": 1}})
    assert load_error(root) == (
        f"{root}/valid: class 'bee' is not among the training classes: ants "
        "(add training images of this class, or remove it)"
    )


def test_what_is_passed_over_is_noted(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path / "d", {"train": {"ants": 1, "bees": 1, "wasps": 0}, "test": {"ants": 1}})
    for name in ("train/.DS_Store", "train/ants/Thumbs.db", "train/ants/.ipynb_checkpoints/0000-checkpoint.jpg",
                 "__MACOSX/train/ants/._0.jpg", "train/@eaDir/ants/0.jpg", "train/ants/notes.txt", "train/readme.md",
                 "train/stray.jpg", "classes.txt", "test/.thumbs/1.jpg"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    splits = Folder(root).load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert splits.train.names == ["train/ants/0000.jpg", "train/bees/0000.jpg"]
    assert splits.notes == (
        "train: class folder 'wasps' has no images",
        "train: 1 image is in no class folder: train/stray.jpg",
        "train: 4 hidden or system files and folders are skipped: train/.DS_Store, train/@eaDir, "
        "train/ants/.ipynb_checkpoints, ...",
        "train: 2 files are not images: train/ants/notes.txt, train/readme.md",
        "test: 1 hidden or system file or folder is skipped: test/.thumbs",
        "1 entry beside train, test ignored: classes.txt",
    )


def test_test_images_without_labels_are_noted_not_refused(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path, {"train": {"a": 1, "b": 1}})
    dot(root / "test" / "1.png")
    splits = Folder(root).load()
    assert splits.test is None
    assert splits.notes == ("test: 1 image is in no class folder: test/1.png",)


def test_links_are_followed_once_and_never_up(tmp_path: Path) -> None:
    dot(tmp_path / "elsewhere" / "x.png")
    root = tmp_path / "data"
    dot(root / "a" / "1.png")
    dot(root / "b" / "1.png")
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "again").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "c").symlink_to(root)
    os.mkfifo(root / "b" / "pipe.png")
    splits = Folder(root).load()
    assert splits.classes == ("a", "b")
    assert splits.train is not None
    assert splits.train.names == ["a/1.png", "a/more/x.png", "b/1.png"]
    assert splits.notes == (
        "3 links are broken: a/gone.png, a/self.png, b/pipe.png",
        "3 links point to parent folders or ones that were read already: a/again, a/up, c",
    )


def test_names_in_any_writing(tmp_path: Path) -> None:
    for name in ("żółw/1 2.png", "żółw/line\nbreak.png", "日本/ü.png"):
        dot(tmp_path / name)
    dot(tmp_path / "日本" / os.fsdecode(b"\xff.png"))
    splits = Folder(tmp_path).load()
    assert splits.classes == ("żółw", "日本")
    assert splits.train is not None
    assert splits.train.names == ["żółw/1 2.png", "żółw/line\nbreak.png", "日本/ü.png", "日本/\udcff.png"]
    assert [splits.train[i][0].size for i in range(4)] == [(2, 2)] * 4
    assert len(splits.fingerprint()) == 16


def test_accents_stored_in_two_ways_are_one_class(tmp_path: Path) -> None:
    for name in ("train/caf\u00e9/1.png", "train/tea/1.png", "val/cafe\u0301/1.png"):
        dot(tmp_path / name)
    splits = Folder(tmp_path).load()
    assert splits.classes == ("caf\u00e9", "tea")
    assert splits.val is not None
    assert splits.val.labels == [0]


def test_a_class_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(folder)).mkdir()
    dot(Path(os.fsdecode(folder)) / "1.png")
    assert load_error(tmp_path) == "class folder \\udcff: the name is not valid UTF-8 (rename it)"


def test_a_split_can_be_sent_to_workers(tmp_path: Path, image_folder: MakeFolder) -> None:
    splits = Folder(image_folder(tmp_path, {"a": 2, "b": 2})).load()
    assert splits.train is not None
    copy = pickle.loads(pickle.dumps(splits.train.subset([3, 0])))
    assert copy.names == ["b/0001.png", "a/0000.jpg"]
    assert copy[0][0].tobytes() == splits.train[3][0].tobytes()


def test_a_relative_root_opens_after_a_change_of_folder(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path / "data", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    splits = Folder(Path("data")).load()
    monkeypatch.chdir("/")
    assert splits.train is not None
    assert splits.train[0][0].size == (40, 32)


def test_folders_that_cannot_be_used(tmp_path: Path, image_folder: MakeFolder) -> None:
    image_folder(tmp_path / "flowers", {"a": 1, "b": 1})
    assert load_error(tmp_path / "flower") == f"no folder {tmp_path}/flower (did you mean {tmp_path}/flowers?)"
    (tmp_path / "labels.csv").write_text("path,label")
    assert "--dataset csv --set dataset.path=" in load_error(tmp_path / "labels.csv")
    (tmp_path / "images.zip").write_text("")
    assert "is a file, not a folder of images (extract it" in load_error(tmp_path / "images.zip")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    assert load_error(tmp_path / "empty").startswith(
        f"{tmp_path}/empty has no images (put images into one folder per class"
    )
    dot(tmp_path / "flat" / "1.png")
    assert load_error(tmp_path / "flat") == (
        f"{tmp_path}/flat has 1 image, but no class folders with images "
        f"(put each image into a folder named after its class: {tmp_path}/flat/CLASS/1.png)"
    )
    assert "can't be opened: File name too long" in load_error(tmp_path / ("x" * 300))
    image_folder(tmp_path / "noval", {"train": {"a": 1, "b": 1}, "val": {"a": 0}})
    assert load_error(tmp_path / "noval").startswith(f"{tmp_path}/noval/val has no images")


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, image_folder: MakeFolder) -> None:
    root = image_folder(tmp_path, {"a": 1, "b": 1})
    (root / "a").chmod(0)
    if os.access(root / "a", os.R_OK):
        pytest.skip("this user may read everything")
    try:
        assert load_error(root).startswith(f"{root}/a: can't be listed: Permission denied")
    finally:
        (root / "a").chmod(0o755)


def test_relabel_goes_by_name_and_ignores_classes_without_samples() -> None:
    split = Split(["x", "y"], [2, 0], open=lambda _: Image.new("L", (1, 1)))
    assert relabel(split, ("b", "unused", "a"), ("a", "b"), "data").labels == [0, 1]
    with pytest.raises(RequestError, match=r"^data: class 'bees' is not among .* \(did you mean 'bee'\?\)$"):
        relabel(split, ("bees", "unused", "ants"), ("ants", "bee"), "data")


def test_ants_and_bees(shared: Path) -> None:
    splits = Folder(shared / "data" / "hymenoptera").load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert splits.val is not None
    # The set's own 244 photographs and its imageNotFound.gif, which is a picture that says so.
    assert [splits.train.labels.count(c) for c in (0, 1)] == [124, 121]
    assert [splits.val.labels.count(c) for c in (0, 1)] == [70, 83]
    assert splits.train[splits.train.names.index("train/ants/imageNotFound.gif")][0].size == (300, 300)
