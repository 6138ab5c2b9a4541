"""What `ftkit plugins doctor` refuses of a dataset, a strategy or a backbone is refused before a training too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftkit.api import Dataset, Split, Splits
from ftkit.testing import ContractError, check_dataset
from tests.conftest import MakeFolder, typed
from tests.foreign_parts import PLUGIN, foreign_project

OPENER = "Opener(tuple(labels))"
NAMES = 'Split([f"{name}-{index}" for index in range(2 * count)], labels, Opener(tuple(labels)))'
CLASSES = 'Splits(("round", "square"), '
ROW = "return {groups[-1]: 1.0} if epoch < self.after else dict.fromkeys(groups, 0.5)"
FAULTS: dict[str, tuple[str, str, str]] = {
    "a name twice": (NAMES, NAMES.replace("{index}", "{index // 2}"), "duplicate sample name: train-0"),
    "fewer labels": (NAMES, NAMES.replace("labels, O", "labels[:-1], O"), "train split: 24 names, 23 labels"),
    "fewer names": (NAMES, NAMES.replace("range(2 * count)]", "range(1)]"), "train split: 1 names, 24 labels"),
    "a negative label": (
        NAMES,
        NAMES.replace("labels, O", "[-1, *labels[1:]], O"),
        "is -1, which is not an index of the 2",
    ),
    "a large label": (NAMES, NAMES.replace("labels, O", "[*labels[1:], 2], O"), "is 2, which is not an index of the 2"),
    "a label that is text": (
        NAMES,
        NAMES.replace("labels, O", "['0', *labels[1:]], O"),
        "is '0', which is not an index",
    ),
    "a label that is a bool": (
        NAMES,
        NAMES.replace("labels, O", "[True, *labels[1:]], O"),
        "is True, which is not an index",
    ),
    "a label that is a fraction": (
        NAMES,
        NAMES.replace("labels, O", "[0.0, *labels[1:]], O"),
        "is 0.0, which is not an index",
    ),
    "a label of none": (NAMES, NAMES.replace("labels, O", "[None, *labels[1:]], O"), "is None, which is not an index"),
    "names that are numbers": (NAMES, NAMES.replace('f"{name}-{index}" for', "index for"), "sample name 0 is int"),
    "names of a generator": (NAMES, NAMES.replace("[f", "(f").replace("count)]", "count))"), "names is generator"),
    "a lambda": (NAMES, NAMES.replace(OPENER, "lambda index: None"), "can't be pickled for worker"),
    "an open file": (NAMES, NAMES.replace(OPENER, "open(__file__).read"), "can't be pickled for worker"),
    "no function": (NAMES, NAMES.replace(OPENER, "None"), "open is NoneType"),
    "blocks of another length": (NAMES, NAMES.replace("(labels)))", "(labels)), [0])"), "blocks are not one integer"),
    "a class twice": (CLASSES, 'Splits(("round", "round"), ', "duplicate class: round"),
    "a class without a name": (CLASSES, 'Splits(("round", ""), ', "a class has no name"),
    "a class that is a number": (CLASSES, 'Splits(("round", 2), ', "class 2 is int, not text"),
    "classes in one text": (CLASSES, 'Splits("rs", ', "classes is str"),
    "no splits": (CLASSES, "(0, ", "load() returned tuple, not Splits"),
    "a split that is a list": ('split("val", 4)', "[1]", "the val split is list, not Split"),
    "no samples": ('split("train", self.per_class)', 'split("train", 0)', "no training split"),
    "chance": (ROW, "import random; return {groups[-1]: random.random() + 0.1}", "isn't pure: lr_scales("),
    "a counter": (ROW, "CALLS.append(1); return {groups[-1]: 0.1 * len(CALLS)}\nCALLS = []", "isn't pure: lr_scales"),
    "a row that is no mapping": (ROW, "return [1.0]", "lr_scales returned [1.0]"),
    "a rate that is no number": (ROW, "return {groups[-1]: float('nan')}", "the LR scale of 'head' is nan"),
    "a rate below zero": (ROW, "return {groups[-1]: -1}", "the LR scale of 'head' is -1"),
    "an unknown group": (ROW, "return {'heat': 1.0}", "unknown layer group 'heat'"),
    "groups that change": (
        ROW,
        ROW + "\n    def groups(self, backbone):\n        N.append(1)\n"
        "        return (LayerGroup(f'all{len(N)}', '.*'), *backbone.groups[1:])\nN = []\n",
        "its groups are not the same",
    ),
    "a group twice": ('LayerGroup("everything"', 'LayerGroup("head"', "two layer groups are named 'head'"),
    "a pattern that is none": ('r"features\\."', '"features("', "is not a regular expression"),
    "a head without layers": ('head=("classify_it",)', "head=()", "its head names no layers"),
}
"""What to replace in the plugin, by what, and what a plan says then."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plan_refuses_what_the_checks_for_authors_refuse(fault: str, tmp_path: Path) -> None:
    old, new, says = FAULTS[fault]
    assert PLUGIN.count(old) == 1
    folder = foreign_project(tmp_path / fault, PLUGIN.replace(old, new))
    done = typed("plan", cwd=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "'foreign/" in done.stderr or "no training split" in says
    assert len(done.stderr.splitlines()) <= 2


def test_a_name_in_two_splits_is_a_note(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", PLUGIN.replace('f"{name}-{index}"', 'f"{index}"'))
    done = typed("plan", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 sample names are in train and in val, as 0" in done.stdout
    assert "8 sample names are in val and in test, as 0" in done.stdout


class Loads(Dataset):
    def load(self) -> Splits:
        return Splits(("a", "b"), Split(["x", "x"], [0, 1], print))  # type: ignore[arg-type]


def test_the_checks_for_authors_say_the_same() -> None:
    from dataclasses import dataclass

    with pytest.raises(ContractError, match="duplicate sample name: x"):
        check_dataset(dataclass(frozen=True)(Loads)())


SUBCLASS = """
from dataclasses import dataclass
from pathlib import Path

from ftkit.api import Dataset, ImageFiles, Split, Splits, hookimpl


class Turned(ImageFiles):
    def __call__(self, index):
        from PIL import ImageOps
        return ImageOps.invert(super().__call__(index).convert("RGB"))


@dataclass(frozen=True)
class Photos(Dataset):
    def load(self):
        def split(name):
            names = sorted(str(file.relative_to("data")) for file in Path("data", name).glob("*/*"))
            return Split(names, [int("/b/" in n) for n in names], KIND(Path("data"), names))

        return Splits(("a", "b"), split("train"), split("val"))


@hookimpl
def ftkit_datasets():
    return {"photos": Photos}
"""


def test_a_subclass_of_image_files_opens_images_in_its_own_way(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}}, (32, 32))
    Path("ftkit.yaml").write_text("plugins: [./own.py]\ndataset: {name: own/photos}\nbackbone: cifar_resnet20\n")
    line = "train --weights none --strategy freeze --epochs 1 --batch-size 8 --workers 0 --augment none --no-cache -q"
    losses = []
    for kind in ("ImageFiles", "Turned"):
        Path("own.py").write_text(SUBCLASS.replace("KIND", kind))
        done = typed(*line.split(), "--name", kind, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        losses.append(json.loads(Path("runs", kind, "metrics.jsonl").read_text().splitlines()[-1])["val_loss"])
    assert abs(losses[0] - losses[1]) > 1e-3
