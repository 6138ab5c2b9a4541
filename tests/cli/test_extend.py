"""`ftkit extend`: further classes and images for a trained model, and what it forgets."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import MakeFolder, typed
from tests.models import save_model

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A run on ants and bees, and images of bees and `[/wasps]`."""
    folder = tmp_path_factory.mktemp("extend")
    image_folder(folder / "all", {"ants": 30, "bees": 40, "[w]asps": 20})
    for name, first, last in (("ants", 0, 30), ("bees", 0, 30)):
        _link(folder, name, "data/train", first, last - 10)
        _link(folder, name, "data/val", last - 10, last)
    _link(folder, "bees", "more", 30, 40)
    _link(folder, "[w]asps", "more", 0, 20)
    done = typed(
        "train", "--data", "data", "--backbone", "lenet", "--strategy", "probe", "--set", "name=base", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def _link(folder: Path, name: str, to: str, first: int, last: int) -> None:
    images = sorted((folder / "all" / name).iterdir())[first:last]
    (folder / to / name).mkdir(parents=True)
    for image in images:
        (folder / to / name / image.name).symlink_to(image)


def extended(work: Path, to: Path, *flags: str, run: str = "base") -> subprocess.CompletedProcess[str]:
    return typed("extend", run, "--data", "more", "--to", str(to), *flags, cwd=work)


def test_a_new_class_and_further_images_of_an_old_one(work: Path, tmp_path: Path) -> None:
    done = extended(work, tmp_path / "model", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["classes"], found["added"]) == (["ants", "bees", "[w]asps"], ["[w]asps"])
    assert found["images"] == {"run": 40, "further": 24}
    assert [(one["name"], one["images"]) for one in found["measured"]] == [
        ("images of the run", 20), ("further images of its classes", 2), ("images of new classes", 4),
    ]  # fmt: skip
    assert [one["before"] is None for one in found["measured"]] == [False, False, True]
    assert all(one["after"] > 0.8 for one in found["measured"]), "drawn images of classes that can be learnt"
    assert {one["class"] for one in found["recall"]} == {"ants", "bees"}
    photos = [str(path) for path in sorted((work / "more" / "[w]asps").iterdir())[:3]]
    predicted = typed("predict", *photos, "--model", str(tmp_path / "model"), "--json")
    assert [json.loads(line)["label"] for line in predicted.stdout.splitlines()] == ["[w]asps"] * 3
    evaluated = typed("evaluate", str(tmp_path / "model"), "--data", str(work / "all"), "--json")
    assert json.loads(evaluated.stdout)["images"] == 90


def test_other_layers_are_unchanged(work: Path, tmp_path: Path) -> None:
    assert extended(work, tmp_path / "model").returncode == 0
    before = load_file(work / "runs" / "base" / "model" / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert {name.rpartition(".")[2] for name in changed} == {"weight", "bias"}
    assert len(changed) == 2
    assert all(before[name].equal(after[name]) for name in before.keys() - changed)


def test_the_accuracy_before_is_that_of_the_run(work: Path, tmp_path: Path) -> None:
    found = json.loads(extended(work, tmp_path / "model", "--json").stdout)
    evaluated = json.loads(typed("evaluate", "base", "--json", cwd=work).stdout)
    assert found["measured"][0]["before"] == pytest.approx(evaluated["accuracy"])


def test_the_extended_model_is_fine_tuned_by_the_command_that_is_printed(work: Path, tmp_path: Path) -> None:
    """Epoch 0 of that run is the extended model, whatever the order of the classes in the data."""
    done = extended(work, tmp_path / "my model")
    line = next(line for line in done.stdout.splitlines() if line.startswith("fine-tune it:"))
    words = shlex.split(line.partition("ftkit ")[2].replace("ALL_IMAGES", str(work / "all")))
    more = ("--budget", "none", "--epochs", "1", "--lr", "0.0001", "--name", "tuned", "--no-report")
    trained = typed(*words, *more, "--json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    first = json.loads(trained.stdout)["epochs"][0]
    assert first["epoch"] == 0
    assert first["val_accuracy"] > 0.8, "with the classes in another order it would be below a half"


def test_the_folder_is_new(work: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").touch()
    done = extended(work, tmp_path / "model")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is something already" in done.stderr
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]


def test_what_is_refused(work: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "lone", ("ants", "bees"))
    done = extended(work, tmp_path / "model", run=str(tmp_path / "lone"))
    assert done.returncode == 2
    assert "is a model without a run" in done.stderr
    (work / "more" / "bees" / "broken.png").write_bytes(b"no image")
    try:
        done = extended(work, tmp_path / "model")
    finally:
        (work / "more" / "bees" / "broken.png").unlink()
    assert done.returncode == 2
    assert "broken.png" in done.stderr
    assert not (tmp_path / "model").exists()
