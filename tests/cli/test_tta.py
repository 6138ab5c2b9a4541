"""Test-time augmentation: `--tta` of `predict`, `evaluate` and `compare`, and `tta` of `ftkit.load(...).predict`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F  # noqa: N812

import ftkit
from ftkit.api import Preprocessing
from ftkit.testing import draw_image
from tests.conftest import MakeFolder, typed
from tests.models import backbone, save_model
from tests.transformed import evaluation_input

CLASSES = ("ants", "bees", "owls")
CROP = Preprocessing(size=32, crop_pct=0.8)
GREY = Preprocessing(size=28, crop_pct=1.0, mean=(0.1,), std=(0.3,))
EXACT = ("--device", "cpu", "--precision", "fp32")


def network(scale: float = 0.02) -> nn.Module:
    """A network whose probabilities are neither 0 nor 1, by a head with small weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = backbone("cifar_resnet20").build(len(CLASSES))
    with torch.no_grad():
        cast(nn.Linear, made.get_submodule("linear")).weight.mul_(scale)
    return made


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and seven images, of which one is unreadable."""
    folder = tmp_path_factory.mktemp("tta")
    save_model(folder / "color", CLASSES, network=network(), preprocessing=CROP)
    save_model(folder / "grey", CLASSES, "lenet", preprocessing=GREY)
    task, decision = {"name": "multilabel"}, {"thresholds": [0.2, 0.5, 0.51]}
    save_model(folder / "several", CLASSES, network=network(), preprocessing=CROP, task=task, decision=decision)
    (folder / "photos").mkdir()
    for number in range(6):
        draw_image(number, (50 + 3 * number, 44), f"{number}").save(folder / "photos" / f"{number}.png")
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def photos() -> list[Path]:
    return sorted(Path("photos").glob("[0-9].png"))


def logits(model: ftkit.Predictor, views: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.network(torch.stack(list(views)))
    return found


def ten_crops(path: Path, preprocessing: Preprocessing) -> list[Tensor]:
    """The ten views by torchvision alone."""
    pixels = F.pil_to_tensor(Image.open(path).convert("RGB"))
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    whole = F.resize(pixels, [preprocessing.resize], F.InterpolationMode.BILINEAR, antialias=True)
    crops = [F.normalize(crop / 255, mean, std) for crop in F.five_crop(whole, [preprocessing.size] * 2)]
    return [*crops, *(crop.flip(-1) for crop in crops)]


def scores(model: ftkit.Predictor, path: Path, tta: Any) -> list[float]:
    (prediction,) = model.predict(path, top_k=3, tta=tta)
    found = dict(prediction.top)
    return [found[name] for name in model.classes]


def test_the_probabilities_of_an_image_and_its_mirror_image_are_averaged() -> None:
    for name in ("color", "grey"):
        model = ftkit.load(name, device="cpu", precision="fp32")
        for path in photos():
            image = evaluation_input(model.preprocessing, path)
            expected = logits(model, [image, image.flip(-1)]).softmax(1).mean(0).tolist()
            assert scores(model, path, "flip") == pytest.approx(expected, abs=1e-6)
            assert scores(model, path, "flip") != pytest.approx(scores(model, path, "none"), abs=1e-4)


def test_crops_are_torchvisions_five_and_their_mirror_images() -> None:
    model = ftkit.load("color", device="cpu", precision="fp32")
    for path in photos():
        expected = logits(model, ten_crops(path, CROP)).softmax(1).mean(0).tolist()
        assert scores(model, path, "crops") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_without_a_margin_crops_are_of_the_enlarged_image(fit: Any, tmp_path: Path) -> None:
    own = Preprocessing(size=32, crop_pct=1.0, fit=fit)
    save_model(tmp_path / "model", CLASSES, network=network(), preprocessing=own)
    model = ftkit.load(tmp_path / "model", device="cpu", precision="fp32")
    path = photos()[3]
    image = evaluation_input(own, path)
    if fit == "crop":
        crops = ten_crops(path, Preprocessing(size=32, crop_pct=0.875))
        corners = crops[:4] + crops[5:9]
    else:
        large = evaluation_input(Preprocessing(size=37, crop_pct=1.0, fit=fit), path)
        crops = [large[:, rows, columns] for rows in (slice(32), slice(5, 37)) for columns in (slice(32), slice(5, 37))]
        corners = [*crops, *(crop.flip(-1) for crop in crops)]
    expected = logits(model, [image, image.flip(-1), *corners]).softmax(1).mean(0).tolist()
    assert scores(model, path, "crops") == pytest.approx(expected, abs=1e-5)


def test_several_labels_have_the_mean_of_their_scores_and_the_models_thresholds() -> None:
    model = ftkit.load("several", device="cpu", precision="fp32")
    for path, prediction in zip(photos(), model.predict(photos(), top_k=3, tta="crops"), strict=True):
        expected = logits(model, ten_crops(path, CROP)).sigmoid().mean(0).tolist()
        assert [dict(prediction.top)[name] for name in CLASSES] == pytest.approx(expected, abs=1e-5)
        above = {name for name, p, least in zip(CLASSES, expected, (0.2, 0.5, 0.51), strict=True) if p > least}
        assert prediction.labels is not None
        assert {name for name, _ in prediction.labels} == above


def test_a_certain_prediction_stays_finite(tmp_path: Path) -> None:
    """Probabilities that underflow would have an infinite logarithm."""
    for name, task in (("one", "multiclass"), ("many", "multilabel")):
        save_model(tmp_path / name, CLASSES, network=network(1e3), preprocessing=CROP, task={"name": task})
        model = ftkit.load(tmp_path / name, device="cpu", precision="fp32")
        (found,) = model.predict(photos()[0], top_k=3, tta="flip")
        assert sum(p for _, p in found.top) == pytest.approx(round(sum(p for _, p in found.top)), abs=1e-5)


def test_bf16_is_near_fp32() -> None:
    exact, quick = (ftkit.load("color", device="cpu", precision=name) for name in ("fp32", "bf16"))
    for tta in ("flip", "crops"):
        for path in photos():
            assert scores(quick, path, tta) == pytest.approx(scores(exact, path, tta), abs=0.02)


def test_an_unknown_augmentation_is_refused_at_once() -> None:
    with pytest.raises(ftkit.RequestError, match="unknown tta 'flop'"):
        ftkit.load("color").iter_predict(photos(), tta="flop")  # type: ignore[arg-type]
    done = typed("predict", "photos", "--model", "color", "--tta", "mirror")
    assert (done.returncode, "--tta" in done.stderr) == (2, True)


def test_predict_states_it_and_gives_the_same_for_any_input(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("predict", "--model", "color", "--tta", "crops", "--top-k", "3", "--json", *EXACT)
    one = typed(*line, "photos")
    assert one.returncode == 1, "an image is unreadable"
    assert "test-time augmentation crops" in one.stderr
    rows = [json.loads(row) for row in one.stdout.splitlines()]
    model = ftkit.load("color", device="cpu", precision="fp32")
    for row in rows:
        assert row["tta"] == "crops"
        if row["error"] is None:
            found = {each["label"]: each["probability"] for each in row["top"]}
            expected = dict(zip(CLASSES, scores(model, Path(row["file"]), "crops"), strict=True))
            assert found == pytest.approx(expected, abs=2e-6)
    assert [row["file"] for row in rows if row["error"]] == ["photos/broken.png"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{row['file']}\n" for row in rows)))
    assert typed(*line, "-", "--batch-size", "2").stdout == one.stdout


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("model", ["color", "several"])
def test_a_file_is_only_resumed_with_the_same_augmentation(form: str, model: str, tmp_path: Path) -> None:
    file = tmp_path / f"found.{form}"
    line = ("predict", "photos", "--model", model, "--top-k", "2", "--to", str(file), *EXACT)
    assert typed(*line, "--tta", "flip").returncode == 1
    whole = file.read_bytes()
    for end in (0, 60, len(whole) // 2, len(whole)):
        file.write_bytes(whole[:end])
        assert typed(*line, "--tta", "flip", "--resume").returncode == 1
        assert file.read_bytes() == whole, f"cut at byte {end}"
    for other in ("none", "crops"):
        done = typed(*line, "--tta", other, "--resume")
        assert (done.returncode, f"has predictions with --tta flip, not --tta {other}" in done.stderr) == (2, True)
        assert file.read_bytes() == whole
    file.unlink()
    assert typed(*line).returncode == 1
    assert b"tta" not in file.read_bytes()
    done = typed(*line, "--tta", "flip", "--resume")
    assert (done.returncode, "has predictions with --tta none" in done.stderr) == (2, True), done.stderr


def test_a_parquet_file_has_the_augmentation(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "found.parquet"
    assert typed("predict", "photos", "--model", "color", "--tta", "flip", "--to", str(file)).returncode == 1
    assert {row["tta"] for row in parquet.read_table(file).to_pylist()} == {"flip"}


# evaluate and compare


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A run of the head alone, whose activations are cached."""
    folder = tmp_path_factory.mktemp("runs")
    each = {"ants": 8, "bees": 8}
    data = image_folder(folder / "data", {"train": each, "val": each}, size=(48, 40))
    chosen: dict[str, Any] = {"backbone": "lenet", "weights": "default", "strategy": "probe"}
    place: dict[str, Any] = {"output": str(folder), "name": "run", "device": "cpu", "precision": "fp32", "workers": 0}
    dataset = {"name": "folder", "root": str(data)}
    return ftkit.train(ftkit.plan(**chosen, **place, dataset=dataset)).run.path


def measured(*arguments: str) -> Any:
    done = typed(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_evaluate_never_takes_cached_activations_for_other_views(run: Path) -> None:
    model, files = ftkit.load(run, device="cpu", precision="fp32"), sorted((run.parent / "data" / "val").rglob("*.*"))
    plain = typed("evaluate", str(run))
    assert "the cache has the activations" in plain.stderr
    assert "test-time" not in plain.stdout
    assert measured("evaluate", str(run))["tta"] == "none"
    for tta in ("flip", "crops"):
        found = measured("evaluate", str(run), "--tta", tta)
        own = [dict(one.top)[path.parent.name] for one, path in zip(
            model.predict(files, top_k=2, tta=tta), files, strict=True
        )]  # fmt: skip
        assert found["tta"] == tta
        assert found["loss"] == pytest.approx(-torch.tensor(own).log().mean().item(), abs=1e-5)
        assert found["loss"] != measured("evaluate", str(run))["loss"]
        assert f"test-time augmentation {tta}" in typed("evaluate", str(run), "--tta", tta).stdout
    done = typed("evaluate", str(run), "--tta", "flip", "--cache")
    assert (done.returncode, "--cache has no effect with --tta flip" in done.stderr) == (2, True)


def test_compare_evaluates_every_run_with_it(run: Path) -> None:
    found = measured("compare", str(run), str(run), "--tta", "flip", "--metric", "loss")
    loss = measured("evaluate", str(run), "--tta", "flip")["loss"]
    assert found["tta"] == "flip"
    assert [one["metrics"]["loss"]["value"] for one in found["runs"]] == pytest.approx([loss, loss], abs=1e-6)
    assert "test-time augmentation flip" in typed("compare", str(run), str(run), "--tta", "flip").stdout
    done = typed("compare", "--strategies", "full,freeze", "--tta", "flip", "--data", str(run.parent / "data"))
    assert (done.returncode, "--tta has no effect with --strategies" in done.stderr) == (2, True), done.stderr
    done = typed("compare", str(run), str(run), "--tta", "flip", "--cache")
    assert (done.returncode, "--cache has no effect with --tta flip" in done.stderr) == (2, True), done.stderr
