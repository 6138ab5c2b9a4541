"""Evaluation on data with other classes than the model's: labels are matched by class name."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ftkit.cli.main import main
from tests.conftest import MakeFolder
from tests.models import make_run

CLASSES = ("[b]lue", "crimson", "gold")
DATASET = """
from dataclasses import dataclass
from pathlib import Path
from ftkit.api import Dataset, hookimpl, join_splits
from tests.models import part

Folder = part("datasets", "folder")


@dataclass(frozen=True)
class Mine(Dataset):
    root: Path

    def load(self):
        return Folder(self.root).load()

    def load_for_evaluation(self):
        return Folder(self.root).load_for_evaluation()


@hookimpl
def ftkit_datasets():
    return {"own": Mine}
"""


@pytest.fixture
def data(tmp_path: Path, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path / "data", {"train": dict.fromkeys(CLASSES, 2), "val": dict.fromkeys(CLASSES, 2)})


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    return make_run(tmp_path / "runs" / "mine", data, CLASSES)


@pytest.fixture
def other(tmp_path: Path, image_folder: MakeFolder) -> Path:
    """Data with class gold in the test split but not in the train split."""
    return image_folder(
        tmp_path / "other", {"train": {"[b]lue": 2, "crimson": 2}, "test": {"[b]lue": 1, "crimson": 2, "gold": 3}}
    )


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    return json.loads(out), err


def as_csv(root: Path) -> Path:
    lines = [
        f"{path.relative_to(root)},{path.parent.name},{path.parts[-3]}" for path in root.rglob("*") if path.is_file()
    ]
    (root / "list.csv").write_text("\n".join(["path,label,split", *sorted(lines)]) + "\n")
    return root / "list.csv"


def as_archive(root: Path) -> Path:
    with tarfile.open(root.with_suffix(".tar"), "w") as archive:
        for name in ("train", "test"):
            archive.add(root / name, name)
    return root.with_suffix(".tar")


@pytest.mark.parametrize("form", [lambda root: root, as_csv, as_archive])
def test_a_class_in_the_test_split_only_is_matched_by_name(
    form: Any, run: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = measured(capsys, str(run), "--data", str(form(other)))
    assert (found["split"], found["confusion"]) == ("test", [[1, 0, 0], [2, 0, 0], [3, 0, 0]])
    # Training on such data is refused.
    assert main(["plan", "--data", str(other), "--backbone", "cifar_resnet20", "--weights", "none"]) == 2
    assert "class 'gold' is not among the training classes" in capsys.readouterr().err


def test_a_class_unknown_to_the_model_is_refused_only_in_the_evaluated_split(
    run: Path, other: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(other, {"val": {"violet": 1, "gold": 1}})
    assert measured(capsys, str(run), "--data", str(other))[0]["images"] == 6
    assert main(["evaluate", str(run), "--data", str(other), "--split", "val"]) == 2
    assert "class 'violet' is not among the training classes" in capsys.readouterr().err


def test_classes_that_the_data_lacks_are_reported(run: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(other / "test" / "crimson")
    found, err = measured(capsys, str(run), "--data", str(other / "test"))
    assert [one["support"] for one in found["classes"]] == [1, 0, 3]
    assert "note: no image is of 1 of the model's 3 classes: crimson" in err
    assert found["missing"]["auroc"] == "no image is of class 'crimson'"


def test_only_a_test_split_or_only_a_val_split(
    run: Path, tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("test", "val"):
        one = image_folder(tmp_path / f"only-{split}", {split: {"gold": 2}})
        found, _ = measured(capsys, str(run), "--data", str(one))
        assert (found["split"], found["images"]) == (split, 2)


def test_the_runs_own_data_that_lost_a_class_of_train(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(data / "train" / "gold")
    found, err = measured(capsys, str(run))
    assert found["confusion"] == [[2, 0, 0], [2, 0, 0], [2, 0, 0]]
    assert "has changed since the model was trained" in err


@pytest.mark.parametrize(
    "setting",
    ["classes: ['[b]lue', crimson, gold]", "label_map: {'[b]lue': cold, crimson: warm, gold: warm}"],
)
def test_chosen_and_mapped_classes_of_data_that_has_changed(
    setting: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapped = setting.startswith("label_map")
    run = make_run(tmp_path / "runs" / "mine", data, ("cold", "warm") if mapped else CLASSES)
    with (run / "config.yaml").open("a") as file:
        file.write(setting + "\n")
    shutil.rmtree(data / "train" / "gold")
    found, _ = measured(capsys, str(run))
    assert found["confusion"] == ([[2, 0], [4, 0]] if mapped else [[2, 0, 0], [2, 0, 0], [2, 0, 0]])


def test_a_plugins_dataset(run: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(DATASET)
    config = f"plugins: [{tmp_path / 'own.py'}]\ndataset: {{name: own/own, root: {other}}}\nbackbone: cifar_resnet20\n"
    (run / "config.yaml").write_text(config + "weights: none\nepochs: 1\nstrategy: full\n")
    found, _ = measured(capsys, str(run))
    assert found["confusion"] == [[1, 0, 0], [2, 0, 0], [3, 0, 0]]
