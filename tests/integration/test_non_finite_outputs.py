"""Outputs that are not finite: no prediction, counted nowhere as one, named, and null in every JSON."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from PIL import Image
from torch import nn

import ftkit
from ftkit import EpochDone, Listener
from ftkit.cli.main import main
from ftkit.errors import FtkitError
from tests.conftest import MakeFolder
from tests.models import backbone, make_run, save_model
from tests.runs import card

CLASSES = ("[b]lue", "crimson", "gold")
FRAGILE = """
from dataclasses import replace
from ftkit.api import LayerGroup, hookimpl
from tests.models import backbone


@hookimpl
def ftkit_backbones():
    return {"fragile": replace(backbone("lenet"), name="fragile", build=build, weights=(), summary=None)}


def build(num_classes):
    import torch

    class Fragile(type(backbone("lenet").build(2))):
        def forward(self, x):
            white = (x.flatten(1).amin(1) > 2)[:, None, None, None] & torch.tensor(not self.training)
            return super().forward(torch.where(white, torch.nan, x))

    return Fragile(num_classes)
"""


def strict(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A trained run of a network to which a white image is no number; one is in test, none in train."""
    place = tmp_path_factory.mktemp("fragile")
    (place / "net.py").write_text(FRAGILE)
    data = image_folder(place / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}, "test": {"a": 3, "b": 3}})
    Image.new("RGB", (40, 32), "white").save(data / "test" / "b" / "white.png")
    return ftkit.train(ftkit.plan(**settings(place, data, "run"))).run.path


def settings(place: Path, data: Path, name: str) -> dict[str, Any]:
    return {
        "plugins": [str(place / "net.py")],
        "dataset": {"name": "folder", "root": str(data)},
        "output": str(place / "runs"),
        "name": name,
        "backbone": "net/fragile",
        "weights": "none",
        "strategy": "scratch",
        "epochs": 1,
        "workers": 0,
    }


def test_predict_gives_the_image_an_error_and_continues(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.parents[1] / "data" / "test" / "b"
    config = run / "config.yaml"
    where = ["--model", str(run), str(data)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parents[1])
        (run.parents[1] / "ftkit.yaml").write_text(config.read_text())
        assert main(["predict", "--json", *where]) == 1
        out, err = capsys.readouterr()
        lines = [strict(line) for line in out.splitlines()]
        assert "no prediction for 1 of 4 images: the model's outputs are not finite" in err
        assert "can't be read" not in err
        (white,) = [line for line in lines if line["file"].endswith("white.png")]
        assert white == {
            "file": white["file"], "label": None, "probability": None, "top": [],
            "error": "the model's outputs are not finite",
        }  # fmt: skip
        assert all(line["error"] is None and 0 < line["probability"] <= 1 for line in lines if line is not white)
        assert main(["predict", "--format", "csv", *where]) == 1
        (row,) = [row for row in csv.reader(capsys.readouterr().out.splitlines()) if row[0].endswith("white.png")]
        assert row[1:] == ["", "", "the model's outputs are not finite"]
        assert main(["predict", *where]) == 1
        assert "(not finite)" in capsys.readouterr().out


def test_a_resumed_file_of_predictions_counts_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, target = run.parents[1] / "data" / "test" / "b", run.parents[1] / "answers.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parents[1])
        (run.parents[1] / "ftkit.yaml").write_text((run / "config.yaml").read_text())
        arguments = ["predict", str(data), "--model", str(run), "--to", str(target)]
        assert main(arguments) == 1
        before = target.read_bytes()
        capsys.readouterr()
        assert main([*arguments, "--resume"]) == 1
        assert "no prediction for 1 of 4 images" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_evaluate_and_compare_refuse_and_name_the_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["evaluate", str(run)], ["compare", str(run), str(run)], ["evaluate", str(run), "--json"]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "the model's outputs are not finite for 1 of 7 images: test/b/white.png" in err
    assert main(["evaluate", str(run), "--split", "val", "--json"]) == 0
    strict(capsys.readouterr().out)


def test_validation_counts_it_as_wrong_reports_it_and_records_null(run: Path, tmp_path: Path) -> None:
    place, data = run.parents[1], tmp_path / "data"
    data.symlink_to(place / "data")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "test"):
        (other / {"train": "train", "test": "val"}[name]).symlink_to(data / name)
    heard: list[Any] = []

    class Hears(Listener):
        def note(self, text: str) -> None:
            heard.append(text)

        def epoch_done(self, event: EpochDone) -> None:
            heard.append(event.record)

    outcome = ftkit.train(ftkit.plan(**settings(place, other, "val")), Hears())
    assert "the model's outputs are not finite for 1 of 7 validation images: val/b/white.png" in heard
    (line,) = (outcome.run.metrics).read_text().splitlines()
    record = strict(line)
    assert (record["val_loss"], record["val_auroc"], record["val_calibration_error"]) == (None, None, None)
    assert record["val_accuracy"] <= 6 / 7
    assert record in heard
    assert [strict(path.read_text()) for path in outcome.run.path.rglob("*.json")]
    assert card(outcome.run.model)["metrics"]["val_loss"] is None


@pytest.mark.parametrize(
    ("bias", "usable"),
    [
        ((-math.inf, 0.0, 1.0), True),
        ((math.nan, 0.0, 1.0), False),
        ((0.0, math.inf, 1.0), False),
        ((-math.inf, -math.inf, -math.inf), False),
    ],
)
def test_what_is_finite_are_the_probabilities(
    bias: tuple[float, ...], usable: bool, tmp_path: Path, image_folder: MakeFolder
) -> None:
    model = backbone("cifar_resnet20").build(3)
    head = model.get_submodule("linear")
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor(bias)
    save_model(tmp_path / "m", CLASSES, network=model)
    image_folder(tmp_path / "data", {"gold": 1})
    image = next((tmp_path / "data").rglob("*.jpg"))
    predictor = ftkit.load(tmp_path / "m")
    (found,) = predictor.iter_predict([image])
    if usable:
        assert (found.label, found.error) == ("gold", None)
        assert found.probability == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-3)
        return
    assert (found.label, found.probability, found.error) == (None, None, "the model's outputs are not finite")
    with pytest.raises(FtkitError, match=r"\.jpg: the model's outputs are not finite"):
        predictor.predict(image)


def test_features_that_are_not_finite_are_counted_and_named(run: Path, tmp_path: Path) -> None:
    """By the probe, which solves the head on them."""
    place, other = run.parents[1], tmp_path / "other"
    other.mkdir()
    (other / "train").symlink_to(place / "data" / "test")
    (other / "val").symlink_to(place / "data" / "val")
    request = settings(place, other, "probed") | {"strategy": "freeze", "weights": str(run)}
    with pytest.raises(FtkitError, match=r"features are not finite for 1 of 7 images: train/b/white\.png"):
        ftkit.train(ftkit.plan(**request))


def test_a_run_that_is_all_wrong_is_refused(tmp_path: Path, image_folder: MakeFolder) -> None:
    data = image_folder(tmp_path / "data", {"train": dict.fromkeys(CLASSES, 2), "test": dict.fromkeys(CLASSES, 4)})
    folder = make_run(tmp_path / "runs" / "mine", data, CLASSES)
    loaded = ftkit.load(folder)
    head = loaded.network.get_submodule("linear")
    assert isinstance(head, nn.Linear)
    head.bias.data[0] = torch.nan
    save_model(folder / "model", CLASSES, network=loaded.network, fingerprint=loaded.card.fingerprint)
    assert main(["evaluate", str(folder)]) == 1
