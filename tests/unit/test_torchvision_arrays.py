"""Torchvision's sets that are arrays in memory, each read from a tiny copy in its own layout."""

from __future__ import annotations

import bz2
import pickle
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from ftkit.api import Splits
from ftkit.builtin.datasets.torchvision_datasets import ftkit_datasets

SETS = ftkit_datasets()


def load(name: str, root: Path, **options: object) -> Splits:
    return SETS[name](root=root, **options).load()  # type: ignore[call-arg]


def summary(splits: Splits) -> dict[str, list[int]]:
    return {name: list(cast(list[int], split.labels)) for name, split in splits.present()}


def idx(path: Path, values: np.ndarray[Any, Any], kind: int = 8) -> None:
    """Write an array in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(">u1" if kind == 8 else ">i4").tobytes())


def mnist_like(folder: Path, labels: list[int]) -> None:
    images = np.zeros((len(labels), 28, 28), dtype=np.uint8)
    images[:, 0, 27] = range(len(labels))
    for part in ("train", "t10k"):
        idx(folder / f"{part}-images-idx3-ubyte", images)
        idx(folder / f"{part}-labels-idx1-ubyte", np.array(labels))


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [
        ("mnist", "MNIST", "0 1 2"),
        ("kmnist", "KMNIST", "o ki su"),
        ("fashion-mnist", "FashionMNIST", "T-shirt/top Trouser Pullover"),
    ],
)
def test_mnist_and_its_like(tmp_path: Path, name: str, folder: str, classes: str) -> None:
    mnist_like(tmp_path / folder / "raw", [0, 2, 1])
    splits = load(name, tmp_path)
    assert splits.classes == tuple(classes.split())
    assert summary(splits) == {"train": [0, 2, 1], "test": [0, 2, 1]}
    assert splits.train is not None
    assert splits.train.names[1] == f"{name}/train/000001"
    again = pickle.loads(pickle.dumps(splits.train))
    assert again[2][0].getpixel((27, 0)) == 2
    assert again[2][0].mode == "L"


def test_qmnist_has_its_labels_in_columns(tmp_path: Path) -> None:
    for part in ("train", "test"):
        idx(tmp_path / f"QMNIST/raw/qmnist-{part}-images-idx3-ubyte", np.zeros((2, 28, 28), dtype=np.uint8))
        idx(tmp_path / f"QMNIST/raw/qmnist-{part}-labels-idx2-int", np.array([[1] + [9] * 7, [0] + [9] * 7]), 12)
    splits = load("qmnist", tmp_path)
    assert (splits.classes, summary(splits)) == (("0", "1"), {"train": [1, 0], "test": [1, 0]})


def test_emnist_is_upright_and_has_no_empty_class(tmp_path: Path) -> None:
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    images[:, 27, 0] = 255
    for part in ("train", "test"):
        idx(tmp_path / f"EMNIST/raw/emnist-letters-{part}-images-idx3-ubyte", images)
        idx(tmp_path / f"EMNIST/raw/emnist-letters-{part}-labels-idx1-ubyte", np.array([1, 3]))
    splits = load("emnist", tmp_path, split="letters")
    assert (splits.classes, summary(splits)["train"]) == (("a", "c"), [0, 1])
    assert splits.train is not None
    assert splits.train[0][0].getpixel((27, 0)) == 255


def test_usps(tmp_path: Path) -> None:
    pixels = " ".join(f"{i}:1.0" for i in range(1, 257))
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(f"1 {pixels}\n10 {pixels}\n".encode()))
    splits = load("usps", tmp_path)
    assert (splits.classes, summary(splits)) == (("0", "9"), {"train": [0, 1], "test": [0, 1]})


def test_semeion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.SEMEION.md5_checksum", None)
    rows = np.zeros((2, 266))
    rows[0, 256 + 4] = rows[1, 256 + 2] = rows[:, 0] = 1
    np.savetxt(tmp_path / "semeion.data", rows)
    splits = load("semeion", tmp_path)
    assert (splits.classes, summary(splits)) == (("2", "4"), {"train": [1, 0]})
    assert splits.train is not None
    assert splits.train[0][0].getpixel((0, 0)) == 255


@pytest.mark.parametrize(("name", "constructor"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, constructor: str) -> None:
    from torchvision import datasets

    made = getattr(datasets, constructor)
    folder = tmp_path / made.base_folder
    folder.mkdir()
    entry = {"data": np.full((2, 3072), 7, dtype=np.uint8), "labels" if name == "cifar10" else "fine_labels": [1, 0]}
    for file in ("batch_1", "batch_2"):
        (folder / file).write_bytes(pickle.dumps(entry))
    (folder / "names").write_bytes(pickle.dumps({"k": ["cat", "dog"]}))
    monkeypatch.setattr(made, "train_list", [["batch_1", None]])
    monkeypatch.setattr(made, "test_list", [["batch_2", None]])
    monkeypatch.setattr(made, "meta", {"filename": "names", "key": "k", "md5": None})
    splits = load(name, tmp_path)
    assert (splits.classes, summary(splits)) == (("cat", "dog"), {"train": [1, 0], "test": [1, 0]})
    assert splits.test is not None
    assert splits.test[1][0].getpixel((31, 31)) == (7, 7, 7)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    from torchvision.datasets import SVHN

    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [5]])})
        monkeypatch.setitem(SVHN.split_list, part, ["", f"{part}_32x32.mat", None])
    splits = load("svhn", tmp_path)
    assert (splits.classes, summary(splits)) == (("0", "5"), {"train": [0, 1], "test": [0, 1]})


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(bytes(2 * 3 * 96 * 96))
        (folder / f"{part}_y.bin").write_bytes(bytes([2, 1]))
    monkeypatch.setattr(STL10, "train_list", [["train_X.bin", None], ["train_y.bin", None]])
    monkeypatch.setattr(STL10, "test_list", [["test_X.bin", None], ["test_y.bin", None]])
    splits = load("stl10", tmp_path)
    assert (splits.classes, summary(splits)) == (("airplane", "bird"), {"train": [1, 0], "test": [1, 0]})
