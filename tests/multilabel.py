"""Runs on images with several labels each: the digits, with properties of each digit as its labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import ftkit

PROPERTIES = {
    "even": {0, 2, 4, 6, 8},
    "large": {5, 6, 7, 8, 9},
    "loop": {0, 6, 8, 9},
    "prime": {2, 3, 5, 7},
    "straight": {1, 4, 7},
}
COUNTS = {"train": 120, "val": 60, "test": 60}
SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "default",
    "batch_size": 16,
    "epochs": 2,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "probe": False,
}


def write_digits(folder: Path) -> Path:
    """Images and `digits.csv`; each image has no label to four. Returns the folder."""
    splits, rows = ftkit.plan(dataset="digits", backbone="lenet", device="cpu").splits, []
    for name, count in COUNTS.items():
        split = splits.get(name)  # type: ignore[arg-type]
        assert split is not None
        for place in range(count):
            image, label = split[place]
            assert isinstance(image, Image.Image)
            assert isinstance(label, int)
            image.save(folder / f"{name}{place:03d}.png")
            labels = [own for own, digits in PROPERTIES.items() if int(splits.classes[label]) in digits]
            rows.append((f"{name}{place:03d}.png", "|".join(labels), name))
    write_table(folder / "digits.csv", [("path", "label", "split"), *rows])
    return folder


def write_table(file: Path, rows: Sequence[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(rows)


def planned(data: Path, output: Path, name: str = "run", **settings: Any) -> ftkit.Plan:
    dataset = {"name": "csv", "path": str(data / "digits.csv"), "separator": "|"}
    return ftkit.plan(dataset=dataset, output=str(output), name=name, **(SETTINGS | settings))


def trained(data: Path, output: Path, name: str = "run", **settings: Any) -> Path:
    ftkit.train(planned(data, output, name, **settings))
    return output / name


def options(data: Path) -> Sequence[str]:
    """Flags for the digits, without a probe."""
    dataset = ("--data", str(data / "digits.csv"), "--set", "dataset.separator=|")
    return (*dataset, "--backbone", "lenet", "--device", "cpu", "--workers", "0", "--no-probe")


def card(run: Path) -> Any:
    return json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))


def listed(data: Path, split: str) -> dict[str, set[str]]:
    """The labels of each image of a split."""
    with (data / "digits.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return {row["path"]: set(filter(None, row["label"].split("|"))) for row in rows}


def scores_of(
    run: Path, data: Path, split: str, model: ftkit.Predictor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities `(n, classes)` and targets bool `(n, classes)` of a split, by image name."""
    model, labels = model or ftkit.load(run, device="cpu", precision="fp32"), listed(data, split)
    classes = len(model.classes)
    found = [dict(one.top) for one in model.predict([data / name for name in labels], top_k=classes)]
    scores = torch.tensor([[one[name] for name in model.classes] for one in found])
    return scores, torch.tensor([[name in own for name in model.classes] for own in labels.values()])
