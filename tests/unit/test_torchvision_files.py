"""Torchvision's sets that are folders of files, each read from a tiny copy in its own layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftkit.builtin.datasets.torchvision_datasets import ftkit_datasets

SETS = ftkit_datasets()


def dot(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), "black").save(path)


def food101(root: Path) -> None:
    for part in ("train", "test"):
        (root / "food-101/meta").mkdir(parents=True, exist_ok=True)
        (root / f"food-101/meta/{part}.json").write_text(json.dumps({"pie": ["pie/1"], "cake": ["cake/2"]}))
    dot(root / "food-101/images/pie/1.jpg")
    dot(root / "food-101/images/cake/2.jpg")


def pets(root: Path) -> None:
    for part in ("trainval", "test"):
        path = root / f"oxford-iiit-pet/annotations/{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("pug_dog_1 2 1 1\nAbyssinian_1 1 1 1\n")
    for name in ("pug_dog_1", "Abyssinian_1"):
        dot(root / f"oxford-iiit-pet/images/{name}.jpg")


def dtd(root: Path) -> None:
    for part in ("train", "val", "test"):
        path = root / f"dtd/dtd/labels/{part}3.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("woven/1.jpg\nbumpy/1.jpg\n")
    for name in ("woven", "bumpy"):
        dot(root / f"dtd/dtd/images/{name}/1.jpg")


def eurosat(root: Path) -> None:
    for name in ("River", "Forest"):
        dot(root / f"eurosat/2750/{name}/1.jpg")


def gtsrb(root: Path) -> None:
    for name in ("00000", "00001"):
        dot(root / f"gtsrb/GTSRB/Training/{name}/1.ppm")
    dot(root / "gtsrb/GTSRB/Final_Test/Images/5.ppm")
    (root / "gtsrb/GT-final_test.csv").write_text("Filename;ClassId\n5.ppm;1\n")


def imagenette(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("n02102040", "n01440764"):
            dot(root / f"imagenette2-160/{part}/{name}/1.jpeg")


def country211(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("PL", "JP"):
            dot(root / f"country211/{part}/{name}/1.jpg")


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    for name in ("1", "2"):
        dot(data / f"images/{name}.jpg")
    (data / "manufacturers.txt").write_text("Airbus\nBoeing\n")
    for part in ("train", "val", "test"):
        (data / f"images_manufacturer_{part}.txt").write_text("1 Boeing\n2 Airbus\n")


def sun397(root: Path) -> None:
    for name in ("a/abbey", "b/bar/inside"):
        dot(root / f"SUN397/{name}/sun_1.jpg")
    (root / "SUN397/ClassName.txt").write_text("/a/abbey\n/b/bar/inside\n")


def caltech101(root: Path) -> None:
    for name in ("ant", "crab", "BACKGROUND_Google"):
        dot(root / f"caltech101/101_ObjectCategories/{name}/image_0001.jpg")


def caltech256(root: Path) -> None:
    for number, name in ((1, "001.ak47"), (2, "002.flag")):
        dot(root / f"caltech256/256_ObjectCategories/{name}/{number:03d}_0001.jpg")


def sst2(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            dot(root / f"rendered-sst2/{part}/{name}/1.png")


def flowers(root: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    for name in (1, 2):
        dot(root / f"flowers-102/jpg/image_{name:05d}.jpg")
    savemat(root / "flowers-102/setid.mat", {"trnid": [1, 2], "valid": [2, 1], "tstid": [1, 2]})
    savemat(root / "flowers-102/imagelabels.mat", {"labels": [2, 1]})


def cars(root: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    notes = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=[("fname", object), ("class", int)])
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        (root / "stanford_cars" / path).parent.mkdir(parents=True, exist_ok=True)
        savemat(root / "stanford_cars" / path, {"annotations": notes})
        for name in ("1", "2"):
            dot(root / f"stanford_cars/cars_{part}/{name}.jpg")
    savemat(root / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(["Audi", "Fiat"], dtype=object)})


def imagenet(root: Path) -> None:
    import torch

    for part in ("train", "val"):
        for name in ("n02012849", "n03126707"):
            dot(root / f"{part}/{name}/1.jpg")
    torch.save(({"n02012849": ("crane",), "n03126707": ("crane",)}, []), root / "meta.bin")


@dataclass(frozen=True)
class Case:
    """One set: who builds it, and what it must load to."""

    build: Callable[[Path], None]
    classes: tuple[str, ...]
    labels: str
    first: str
    options: dict[str, object] = field(default_factory=dict)


FILES = {
    "food101": Case(food101, ("cake", "pie"), "train 0 1, test 0 1", "food-101/images/cake/2.jpg"),
    "oxford-iiit-pet": Case(
        pets, ("Abyssinian", "Pug Dog"), "train 0 1, test 0 1", "oxford-iiit-pet/images/Abyssinian_1.jpg"
    ),
    "dtd": Case(
        dtd, ("bumpy", "woven"), "train 0 1, val 0 1, test 0 1", "dtd/dtd/images/bumpy/1.jpg", {"partition": 3}
    ),
    "eurosat": Case(eurosat, ("Forest", "River"), "train 0 1", "eurosat/2750/Forest/1.jpg"),
    "gtsrb": Case(gtsrb, ("0", "1"), "train 0 1, test 1", "gtsrb/GTSRB/Training/00000/1.ppm"),
    "imagenette": Case(
        imagenette,
        ("tench", "English springer"),
        "train 0 1, val 0 1",
        "imagenette2-160/train/n01440764/1.jpeg",
        {"size": "160px"},
    ),
    "country211": Case(country211, ("JP", "PL"), "train 0 1, val 0 1, test 0 1", "country211/train/JP/1.jpg"),
    "fgvc-aircraft": Case(
        aircraft,
        ("Airbus", "Boeing"),
        "train 1 0, val 1 0, test 1 0",
        "fgvc-aircraft-2013b/data/images/1.jpg",
        {"annotation_level": "manufacturer"},
    ),
    "sun397": Case(sun397, ("abbey", "bar/inside"), "train 0 1", "SUN397/a/abbey/sun_1.jpg"),
    "caltech101": Case(caltech101, ("ant", "crab"), "train 0 1", "caltech101/101_ObjectCategories/ant/image_0001.jpg"),
    "caltech256": Case(
        caltech256, ("001.ak47", "002.flag"), "train 0 1", "caltech256/256_ObjectCategories/001.ak47/001_0001.jpg"
    ),
    "rendered-sst2": Case(
        sst2, ("negative", "positive"), "train 0 1, val 0 1, test 0 1", "rendered-sst2/train/negative/1.png"
    ),
    "flowers102": Case(
        flowers,
        ("pink primrose", "hard-leaved pocket orchid"),
        "train 1 0, val 1 0, test 1 0",
        "flowers-102/jpg/image_00001.jpg",
    ),
    "stanford-cars": Case(cars, ("Audi", "Fiat"), "train 1 0, test 1 0", "stanford_cars/cars_train/1.jpg"),
    "imagenet": Case(imagenet, ("crane (0)", "crane (1)"), "train 0 1, val 0 1", "train/n02012849/1.jpg"),
}


@pytest.mark.parametrize("name", FILES)
def test_sets_of_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = FILES[name]
    if name == "imagenet":
        pytest.importorskip("scipy")
    tables = {"setid": ("setid.mat", None), "label": ("imagelabels.mat", None)}
    monkeypatch.setattr("torchvision.datasets.Flowers102._file_dict", tables)
    case.build(tmp_path)
    splits = SETS[name](root=tmp_path, **case.options).load()  # type: ignore[call-arg]
    assert splits.classes == case.classes
    assert (
        ", ".join(f"{split} {' '.join(map(str, samples.labels))}" for split, samples in splits.present()) == case.labels
    )
    assert splits.train is not None
    assert splits.train.names[0] == case.first
    assert pickle.loads(pickle.dumps(splits.train))[0][0].size == (2, 2)
