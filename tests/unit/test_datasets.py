"""The embedded digits, and what torchvision's sets say when something is wrong."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ftkit.api import Splits
from ftkit.builtin.datasets.digits import Digits, load_with_scikit_learn, read_digits
from ftkit.builtin.datasets.torchvision_datasets import TorchvisionSet, ftkit_datasets
from ftkit.errors import FtkitError, RequestError

SETS = ftkit_datasets()


def load(name: str, root: Path, **options: object) -> Splits:
    return SETS[name](root=root, **options).load()  # type: ignore[call-arg]


def tiny_mnist(root: Path) -> Path:
    """Two black images in MNIST's files, of a zero and a one; returns their folder."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 2, 28, 28) + bytes(2 * 28 * 28))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 2) + bytes([0, 1]))
    return folder


# Digits


def test_digits_are_split_once_and_for_all() -> None:
    splits = Digits().load()
    assert splits.classes == tuple("0123456789")
    assert {name: len(split) for name, split in splits.present()} == {"train": 1000, "val": 297, "test": 500}
    counts = {name: [split.labels.count(c) for c in range(10)] for name, split in splits.present()}
    assert counts["train"] == [99, 101, 99, 102, 101, 101, 101, 99, 97, 100]
    assert counts["val"] == [29, 30, 29, 30, 30, 30, 30, 30, 29, 30]
    names = [name for _, split in splits.present() for name in split.names]
    assert sorted(names) == [f"digits/{i:04d}" for i in range(1797)]
    assert splits.fingerprint() == "e40e6e09fbca16fa"


def test_digits_have_a_border_and_full_contrast() -> None:
    train = Digits().load().train
    assert train is not None
    image, label = train[train.names.index("digits/0000")]
    assert (image.mode, image.size, label) == ("L", (12, 12), 0)
    assert np.asarray(image)[2].tolist() == [0, 0, 0, 0, 80, 207, 143, 16, 0, 0, 0, 0]
    assert not np.asarray(image)[:2].any()
    bare = Digits(margin=0).load().train
    assert bare is not None
    assert np.asarray(bare[0][0])[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert pickle.loads(pickle.dumps(train))[0][0].tobytes() == train[0][0].tobytes()


def test_both_ways_to_the_digits_agree() -> None:
    assert read_digits() == load_with_scikit_learn()


def test_digits_do_not_import_scikit_learn() -> None:
    code = (
        "import sys; from ftkit.builtin.datasets.digits import Digits; Digits().load(); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^dataset\.margin is -1"):
        Digits(margin=-1).load()


# What goes wrong


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_set_that_is_not_there_names_where_it_should_be(name: str, tmp_path: Path) -> None:
    if name in {"flowers102", "stanford-cars", "imagenet", "svhn"}:
        pytest.importorskip("scipy")
    root = tmp_path / "nowhere"
    with pytest.raises(RequestError) as caught:
        load(name, root)
    assert str(caught.value).startswith(f"{name} not found at {root}")
    assert ("dataset.download=true" in str(caught.value)) == (name not in {"stanford-cars", "imagenet"})
    assert not root.exists()


def test_a_set_in_pieces_is_one_line(tmp_path: Path) -> None:
    images = tiny_mnist(tmp_path) / "t10k-images-idx3-ubyte"
    assert load("mnist", tmp_path).classes == ("0", "1")
    images.unlink()
    with pytest.raises(RequestError, match=r"^mnist at .*/MNIST/raw is incomplete or damaged: Dataset not found"):
        load("mnist", tmp_path)
    images.write_bytes(b"\0\0\x08\x03")
    with pytest.raises(RequestError, match=r"^mnist at .*/MNIST/raw is incomplete or damaged: "):
        load("mnist", tmp_path)


def test_a_download_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(
        FtkitError, match=r"^mnist can't be downloaded to .*/MNIST/raw: .*refused.*put the files"
    ) as caught:
        load("mnist", tmp_path, download=True)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_set_that_cannot_be_downloaded_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    with pytest.raises(RequestError, match="'stanford-cars' can't be downloaded by torchvision"):
        load("stanford-cars", tmp_path, download=True)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.builtin.datasets.torchvision_datasets.is_installed", lambda name: False)
    with pytest.raises(RequestError, match=r"dataset 'svhn' needs scipy \(pip install 'ftkit\[scipy\]'\)"):
        load("svhn", tmp_path)


def test_listing_the_sets_needs_no_torch() -> None:
    code = (
        "import sys; from ftkit.builtin.datasets.torchvision_datasets import ftkit_datasets; ftkit_datasets();"
        "print({'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_names_of_the_sets() -> None:
    assert sorted(SETS) == [
        *("caltech101", "caltech256", "cifar10", "cifar100", "country211", "dtd", "emnist", "eurosat"),
        *("fashion-mnist", "fgvc-aircraft", "flowers102", "food101", "gtsrb", "imagenet", "imagenette"),
        *("kmnist", "mnist", "oxford-iiit-pet", "qmnist", "rendered-sst2", "semeion", "stanford-cars"),
        *("stl10", "sun397", "svhn", "usps"),
    ]


def test_options_are_fields_with_docs() -> None:
    for name, cls in SETS.items():
        assert issubclass(cls, TorchvisionSet)
        assert cls(root=Path("x")) == cls(root=Path("x"), download=False), name
        for option in fields(cls):
            assert f"        {option.name}: " in (cls.__doc__ or ""), (name, option.name)


def test_the_real_mnist_images(shared: Path) -> None:
    splits = load("mnist", shared / "data" / "torchvision")
    assert {name: len(split) for name, split in splits.present()} == {"train": 8000, "test": 2000}
    assert splits.train is not None
    assert list(splits.train.labels[:5]) == [7, 2, 1, 0, 4]
    assert splits.train[0][0].size == (28, 28)
