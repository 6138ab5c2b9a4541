"""Several labels per photograph: properties of CIFAR-10's classes, and collages of ants and bees."""

from __future__ import annotations

import csv
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import typed
from tests.multilabel import write_table

CIFAR = {
    "airplane": "vehicle flies", "automobile": "vehicle wheels", "bird": "animal flies", "cat": "animal four-legs",
    "deer": "animal four-legs", "dog": "animal four-legs", "frog": "animal four-legs", "horse": "animal four-legs",
    "ship": "vehicle swims", "truck": "vehicle wheels",
}  # fmt: skip


def test_properties_of_photographs_are_learnt(shared: Path, tmp_path: Path) -> None:
    archive, weights = shared / "data" / "cifar10-subset.tar", shared / "weights" / "resnet20-12fca82f.th"
    if not (archive.is_file() and weights.is_file()):
        pytest.skip("shared/data has no CIFAR-10")
    columns = sorted({label for labels in CIFAR.values() for label in labels.split()})
    rows: list[Sequence[object]] = []
    with tarfile.open(archive) as packed:
        for split in ("train", "test"):
            for name, labels in CIFAR.items():
                for number in range(20):
                    member = f"{split}/{name}/{number:04d}.jpg"
                    packed.extract(member, tmp_path, filter="data")
                    rows.append((member, split, *(int(column in labels.split()) for column in columns)))
    write_table(tmp_path / "photos.csv", [("path", "split", *columns), *rows])
    dataset = ("--dataset", "csv", "--set", "dataset.path=photos.csv", "--set", f"dataset.class_columns={columns}")
    settings = ("--backbone", "cifar_resnet20", "--weights", str(weights), "--device", "cpu", "--workers", "0")
    done = typed("train", *dataset, *settings, "--strategy", "probe", "--name", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(typed("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert found["map"] > 0.85
    assert {one["name"]: one["support"] for one in found["classes"]}["four-legs"] == 100


ONE_RATE = ("--strategy", "full", "--set", "strategy.backbone_lr_scale=1.0", "--lr", "0.001", "--augment", "none")


def make_collages(photographs: Path, folder: Path, counts: dict[str, int], size: int) -> None:
    """Collages of 2 x 2 cells, each grey or a photograph of an ant or a bee, and `collages.csv` with their labels.

    Training and validation collages have other photographs than test collages.
    """
    draw, rows = random.Random(0), list[Sequence[object]]()
    for split, count in counts.items():
        source = photographs / ("val" if split == "test" else "train")
        found = {label: sorted((source / label).glob("*.jpg")) for label in ("ants", "bees")}
        part = {"train": slice(0, 90), "val": slice(90, None), "test": slice(None)}[split]
        for number in range(count):
            image, labels = Image.new("RGB", (2 * size, 2 * size), "grey"), set[str]()
            for cell in range(4):
                label = draw.choice(("ants", "bees", "", "", ""))
                if label:
                    with Image.open(draw.choice(found[label][part])) as photograph:
                        cut = photograph.convert("RGB").resize((size, size))
                    image.paste(cut, (cell % 2 * size, cell // 2 * size))
                    labels.add(label)
            image.save(folder / f"{split}{number:03d}.png")
            rows.append((f"{split}{number:03d}.png", "|".join(sorted(labels)), split))
    write_table(folder / "collages.csv", [("path", "label", "split"), *rows])


COLLAGES = {
    "cifar_resnet20": ("resnet20-12fca82f.th", 48, ("--image-size", "96", "--epochs", "10", *ONE_RATE), 0.75),
    "timm/tf_efficientnet_lite0.in1k": ("tf_efficientnet_lite0.safetensors", 112, ("--strategy", "probe"), 0.9),
}
"""By backbone: the file of its weights, the size of a cell, the training, and the least mAP."""


@pytest.mark.long
@pytest.mark.parametrize("backbone", COLLAGES)
def test_ants_and_bees_are_found_in_collages(backbone: str, shared: Path, tmp_path: Path) -> None:
    file, size, training, least = COLLAGES[backbone]
    photographs, weights = shared / "data" / "hymenoptera", shared / "weights" / file
    if not (photographs.is_dir() and weights.is_file()):
        pytest.skip("shared has no photographs, or no weights")
    if "timm" in backbone:
        pytest.importorskip("ftkit_timm")
    make_collages(photographs, tmp_path, {"train": 160, "val": 60, "test": 150}, size)
    data = ("--data", "collages.csv", "--set", "dataset.separator=|", "--device", "cpu", "--workers", "0")
    network = ("--backbone", backbone, "--weights", str(weights))
    done = typed("train", *data, *network, *training, "--name", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(typed("evaluate", "run", "--json", cwd=tmp_path).stdout)
    shares = [one["support"] / found["images"] for one in found["classes"]]
    assert max(shares) < 0.7, "the mAP of a random order is about their mean"
    assert found["map"] > least, found
    images = [f"test{number:03d}.png" for number in range(150)]
    lines = typed("predict", "--model", "run", *images, "--format", "jsonl", cwd=tmp_path).stdout.splitlines()
    predicted = [{one["label"] for one in json.loads(line)["labels"]} for line in lines]
    with (tmp_path / "collages.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["path"] in images]
    expected = [set(filter(None, row["label"].split("|"))) for row in rows]
    equal = sum(one == other for one, other in zip(predicted, expected, strict=True))
    assert equal / len(expected) == pytest.approx(found["subset_accuracy"])
