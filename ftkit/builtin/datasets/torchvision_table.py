"""Table of torchvision's classification datasets: the folder, the splits and the reader of each.

It has the datasets whose labels are available without decoding every image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.api import SplitName

Arguments = Mapping[str, object]
Sample = tuple[str, int]
"""An image file and its label."""

BY_FLAG: Mapping[SplitName, Arguments] = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST: Mapping[SplitName, Arguments] = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_VAL: Mapping[SplitName, Arguments] = {"train": {"split": "train"}, "val": {"split": "val"}}
TRAIN_VAL_TEST: Mapping[SplitName, Arguments] = {**TRAIN_VAL, "test": {"split": "test"}}
WHOLE: Mapping[SplitName, Arguments] = {"train": {}}

DIGITS = tuple("0123456789")
"""Class names of all digit datasets, so that a model trained on one can be evaluated on another."""


def in_pairs(attribute: str) -> Callable[[Any], list[Sample]]:
    """Reader for datasets with one list of (file, label) pairs."""
    return lambda data: [(str(path), int(label)) for path, label in getattr(data, attribute)]


def in_lists(files: str) -> Callable[[Any], list[Sample]]:
    """Reader for datasets with separate lists of files and labels."""
    return lambda data: [(str(p), int(label)) for p, label in zip(getattr(data, files), data._labels, strict=True)]


def of_caltech101(data: Any) -> list[Sample]:
    folder = Path(data.root, "101_ObjectCategories")
    return [
        (str(folder / data.categories[label] / f"image_{number:04d}.jpg"), label)
        for label, number in zip(data.y, data.index, strict=True)
    ]


def of_caltech256(data: Any) -> list[Sample]:
    folder = Path(data.root, "256_ObjectCategories")
    return [
        (str(folder / data.categories[label] / f"{label + 1:03d}_{number:04d}.jpg"), label)
        for label, number in zip(data.y, data.index, strict=True)
    ]


@dataclass(frozen=True)
class DatasetInfo:
    """The description of one dataset.

    Attributes:
        name: Name for `--dataset`.
        constructor: Name of the class in `torchvision.datasets`.
        splits: The constructor's arguments for each split.
        place: Path of the data below the root; a format string.
        about: One line for lists.
        files: Returns file and label of each image; None if the images are arrays in memory.
        labels: Attribute with the labels of arrays.
        classes: Class names; None if torchvision has them.
        needs: A package that torchvision needs for this dataset.
        downloads: Whether torchvision can download it.
        transposed: Whether images are stored with rows and columns swapped.
    """

    name: str
    constructor: str
    splits: Mapping[SplitName, Arguments]
    place: str
    about: str
    files: Callable[[Any], list[Sample]] | None = None
    labels: str = "targets"
    classes: tuple[str, ...] | None = None
    needs: str | None = None
    downloads: bool = True
    transposed: bool = False


PLAIN = (
    DatasetInfo("mnist", "MNIST", BY_FLAG, "MNIST/raw", "digits, 28 x 28 grey", classes=DIGITS),
    DatasetInfo("fashion-mnist", "FashionMNIST", BY_FLAG, "FashionMNIST/raw", "10 types of clothing, 28 x 28 grey"),
    DatasetInfo("kmnist", "KMNIST", BY_FLAG, "KMNIST/raw", "10 Japanese letters, 28 x 28 grey"),
    DatasetInfo("qmnist", "QMNIST", BY_FLAG, "QMNIST/raw", "MNIST with 60,000 test images", classes=DIGITS),
    DatasetInfo("usps", "USPS", BY_FLAG, "usps.bz2", "digits, 16 x 16 grey", classes=DIGITS),
    DatasetInfo("semeion", "SEMEION", WHOLE, "semeion.data", "digits, 16 x 16", labels="labels", classes=DIGITS),
    DatasetInfo("cifar10", "CIFAR10", BY_FLAG, "cifar-10-batches-py", "10 classes, 32 x 32"),
    DatasetInfo("cifar100", "CIFAR100", BY_FLAG, "cifar-100-python", "100 classes, 32 x 32"),
    DatasetInfo(
        "svhn", "SVHN", TRAIN_TEST, "train_32x32.mat", "house numbers, 32 x 32", None, "labels", DIGITS, needs="scipy"
    ),
    DatasetInfo("stl10", "STL10", TRAIN_TEST, "stl10_binary", "10 classes, 96 x 96, few labels", labels="labels"),
    DatasetInfo("food101", "Food101", TRAIN_TEST, "food-101", "101 dishes", in_lists("_image_files")),
    DatasetInfo(
        "flowers102",
        "Flowers102",
        TRAIN_VAL_TEST,
        "flowers-102",
        "102 British flowers",
        in_lists("_image_files"),
        needs="scipy",
    ),
    DatasetInfo(
        "oxford-iiit-pet",
        "OxfordIIITPet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "oxford-iiit-pet",
        "37 breeds of cats and dogs",
        in_lists("_images"),
    ),
    DatasetInfo(
        "eurosat", "EuroSAT", WHOLE, "eurosat/2750", "10 classes of land use, satellite images", in_pairs("samples")
    ),
    DatasetInfo("gtsrb", "GTSRB", TRAIN_TEST, "gtsrb", "43 German traffic signs", in_pairs("_samples")),
    DatasetInfo(
        "country211",
        "Country211",
        {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
        "country211",
        "photographs by country",
        in_pairs("samples"),
    ),
    DatasetInfo(
        "stanford-cars",
        "StanfordCars",
        TRAIN_TEST,
        "stanford_cars",
        "196 models of cars",
        in_pairs("_samples"),
        needs="scipy",
        downloads=False,
    ),
    DatasetInfo("sun397", "SUN397", WHOLE, "SUN397", "397 scenes", in_lists("_image_files")),
    DatasetInfo(
        "caltech101", "Caltech101", WHOLE, "caltech101/101_ObjectCategories", "101 object categories", of_caltech101
    ),
    DatasetInfo(
        "caltech256", "Caltech256", WHOLE, "caltech256/256_ObjectCategories", "257 object categories", of_caltech256
    ),
    DatasetInfo(
        "rendered-sst2", "RenderedSST2", TRAIN_VAL_TEST, "rendered-sst2", "sentences as pictures", in_pairs("_samples")
    ),
    DatasetInfo(
        "imagenet", "ImageNet", TRAIN_VAL, "", "1,000 classes", in_pairs("samples"), needs="scipy", downloads=False
    ),
)
