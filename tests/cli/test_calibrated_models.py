"""Models with a calibration, in every command that uses them, and runs that fit one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ftkit
from ftkit.errors import RunInterrupted
from ftkit.testing import draw_image
from tests.conftest import typed
from tests.models import Calibration, backbone, save_model
from tests.runs import card, weights
from tests.stopping import StopAt

CLASSES = ("ants", "bees", "owls")
TEMPERATURE = Calibration("temperature", (0.5,), source="validation images", images=99)
VECTOR = Calibration("vector", (2.0, 0.5, 1.0), (0.0, 1.0, -0.5))
EXACT = ("--device", "cpu", "--precision", "fp32")


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = backbone("cifar_resnet20").build(len(CLASSES))
    with torch.no_grad():
        [*made.parameters()][-2].mul_(0.02)
    return made


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("calibrated")
    save_model(work / "plain", CLASSES, network=network(0))
    save_model(work / "warm", CLASSES, network=network(0), calibration=TEMPERATURE)
    save_model(work / "vector", CLASSES, network=network(1), calibration=VECTOR)
    save_model(work / "other", CLASSES, network=network(1))
    for kind, name in enumerate(CLASSES):
        (work / "photos" / "test" / name).mkdir(parents=True)
        for number in range(3):
            draw_image(kind, (60 + number, 52), f"{number}").save(work / "photos" / "test" / name / f"{number}.png")
    return work


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def probabilities(model: str, tta: Any = "none") -> Tensor:
    loaded = ftkit.load(model, device="cpu", precision="fp32")
    found = [dict(one.top) for one in loaded.predict(sorted(Path("photos").rglob("*.png")), top_k=3, tta=tta)]
    return torch.tensor([[one[name] for name in CLASSES] for one in found])


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def run_json(*arguments: str) -> Any:
    done = typed(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_predictions_have_calibrated_probabilities() -> None:
    logits = probabilities("plain").log()
    same(probabilities("warm"), (logits * 0.5).softmax(dim=1))
    others = probabilities("other").log()
    # A softmax forgets a summand of an image, which a factor for each class does not.
    raw = ftkit.load("other", device="cpu", precision="fp32")
    assert probabilities("vector").shape == others.shape
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        mine = ftkit.load("vector", device="cpu", precision="fp32").calibrated_network(images)
        theirs = raw.network(images)
    same(mine, theirs * torch.tensor(VECTOR.scale) + torch.tensor(VECTOR.bias))


def test_each_view_is_calibrated_before_the_mean() -> None:
    both = ftkit.load("plain", device="cpu", precision="fp32"), ftkit.load("warm", device="cpu", precision="fp32")
    image = sorted(Path("photos").rglob("*.png"))[0]
    import PIL.Image
    import PIL.ImageOps

    with PIL.Image.open(image) as opened:
        views = [opened.convert("RGB"), PIL.ImageOps.mirror(opened.convert("RGB"))]
    plain = [dict(both[0].predict(view, top_k=3)[0].top) for view in views]
    logits = torch.tensor([[one[name] for name in CLASSES] for one in plain]).log()
    found = dict(both[1].predict(image, top_k=3, tta="flip")[0].top)
    same(torch.tensor([found[name] for name in CLASSES]), (logits * 0.5).softmax(dim=1).mean(dim=0))


def test_an_ensemble_averages_calibrated_probabilities() -> None:
    done = typed("ensemble", "warm", "vector", "--to", "both")
    assert done.returncode == 0, done.stderr
    same(probabilities("both"), (probabilities("warm") + probabilities("vector")) / 2)
    assert card(Path("both"))["calibration"] is None


def test_evaluate_compares_with_the_probabilities_before() -> None:
    plain, warm = (run_json("evaluate", model, "--data", "photos", *EXACT) for model in ("plain", "warm"))
    assert warm["accuracy"] == plain["accuracy"]
    assert warm["loss"] != plain["loss"]
    assert plain["calibration"]["method"] == "none"
    found = warm["calibration"]
    assert (found["method"], found["scale"]) == ("temperature", [0.5])
    assert found["fitted_on"] == {"source": "validation images", "images": 99}
    assert found["error"] == pytest.approx(warm["calibration_error"])
    assert found["uncalibrated_error"] == pytest.approx(plain["calibration_error"], abs=1e-6)
    assert found["error_interval"]["low"] <= found["error_interval"]["high"]
    shown = typed("evaluate", "warm", "--data", "photos", *EXACT).stdout
    assert f"calibration: temperature 2; calibration error {found['uncalibrated_error']:.2f}" in shown


def test_an_exported_model_is_calibrated() -> None:
    done = typed("export", "vector", "--format", "torch-export", "--to", "exported")
    assert done.returncode == 0, done.stderr
    about = json.loads(Path("exported/export.json").read_text())
    assert about["calibration"]["method"] == "vector"
    exported = torch.export.load(next(Path("exported").glob("*.pt2"))).module()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        same(exported(images), ftkit.load("vector", device="cpu", precision="fp32").calibrated_network(images))


def test_a_calibration_for_other_classes_is_refused() -> None:
    save_model(Path("forged"), CLASSES, calibration=Calibration("vector", (1.0, 1.0), (0.0, 0.0)))
    done = typed("predict", "photos", "--model", "forged")
    assert done.returncode == 2
    assert "calibration: vector with 2 factors and 2 summands for 3 classes" in done.stderr
    save_model(Path("forged"), CLASSES, calibration=Calibration("temperature", (-1.0,)))
    assert "a factor isn't positive" in typed("predict", "photos", "--model", "forged").stderr


SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "none",
    "strategy": "full",
    "epochs": 5,
    "label_smoothing": 0.5,
    "optimizer": {"lr": 0.005},
    "batch_size": 30,
    "device": "cpu",
    "precision": "fp32",
    "workers": 0,
}
"""A run on the digits whose model isn't sure enough: half of each label is smoothed away."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ftkit.train(ftkit.plan(output=str(tmp_path_factory.mktemp("runs")), name="digits", **SETTINGS)).run.path


def test_a_stopped_run_ends_with_the_same_calibration(run: Path, tmp_path: Path) -> None:
    stopped = ftkit.plan(output=str(tmp_path), name="digits", **SETTINGS)
    with pytest.raises(RunInterrupted):
        ftkit.train(stopped, StopAt(100))
    ftkit.resume(tmp_path / "digits")
    assert weights(tmp_path / "digits", "model") == weights(run, "model")
    for name in ("calibration", "reference"):
        assert card(tmp_path / "digits" / "model")[name] == card(run / "model")[name]


def test_a_run_fits_its_calibration_on_validation_images(run: Path) -> None:
    found = card(run / "model")["calibration"]
    assert (found["method"], found["source"]) == ("temperature", "validation images")
    assert found["calibrated_loss"] < found["loss"]
    evaluated = run_json("evaluate", str(run), "--split", "val", *EXACT)
    best = max(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()), key=lambda one: one["val_accuracy"])
    assert evaluated["accuracy"] == best["val_accuracy"], "calibration changes no prediction"
    assert evaluated["loss"] < best["val_loss"] == pytest.approx(found["loss"], abs=1e-6)
    assert card(run / "last")["calibration"] is None


def test_a_run_without_calibration(tmp_path: Path) -> None:
    done = typed("train", "--calibration", "off", "--epochs", "0", "--output", str(tmp_path), "--name", "off", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["calibration"] is None
    assert card(tmp_path / "off" / "model")["calibration"] is None
    shutil.rmtree(tmp_path / "off")
    done = typed("train", "--calibration", "platt", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "--calibration: must be one of auto, off, temperature, vector, not 'platt'" in done.stderr


def test_slices_have_the_predictions_of_evaluate(work: Path) -> None:
    """Thresholds of several labels per image are those of uncalibrated scores, so both are calibrated."""
    decision = {"thresholds": [0.55] * len(CLASSES)}
    card: dict[str, Any] = {"task": {"name": "multilabel"}, "decision": decision, "calibration": TEMPERATURE}
    save_model(work / "tags", CLASSES, network=network(0), **card)
    command = ("evaluate", "tags", "--data", "photos/test", "--device", "cpu", "--precision", "fp32")
    plain, sliced = run_json(*command), run_json(*command, "--slices", "--min-slice", "2")
    assert sliced.pop("slices")
    assert sliced == plain
