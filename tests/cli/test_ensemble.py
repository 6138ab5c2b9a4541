"""`ftkit ensemble`: several models as one, which predicts the mean of their probabilities."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ftkit
from ftkit.api import Preprocessing
from ftkit.testing import draw_image
from tests.conftest import MakeFolder, typed
from tests.models import backbone, make_run, save_model
from tests.runs import plan

CLASSES = ("ants", "bees", "owls")
OTHER_ORDER = ("owls", "ants", "bees")
SMALL = Preprocessing(size=32, crop_pct=1.0)
LARGE = Preprocessing(size=48, crop_pct=0.8, fit="crop")
GREY = Preprocessing(size=28, crop_pct=1.0, mean=(0.1,), std=(0.3,))
EXACT = ("--device", "cpu", "--precision", "fp32")


def network(seed: int, name: str = "cifar_resnet20") -> nn.Module:
    """A network whose probabilities are neither 0 nor 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = backbone(name).build(len(CLASSES))
    with torch.no_grad():
        [*made.parameters()][-2].mul_(0.02 if name != "lenet" else 1.0)
    return made


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the same classes that differ in order, size and colours; ensembles of two alike and of three others."""
    work = tmp_path_factory.mktemp("ensembles")
    save_model(work / "one", CLASSES, network=network(0), preprocessing=SMALL, metrics={"val_accuracy": 0.5})
    save_model(work / "two", OTHER_ORDER, network=network(1), preprocessing=SMALL, metrics={"val_accuracy": 0.7})
    save_model(work / "large", CLASSES, network=network(2), preprocessing=LARGE)
    save_model(work / "grey", OTHER_ORDER, "lenet", network(3, "lenet"), GREY)
    for number in range(5):
        for kind, name in enumerate(CLASSES):
            (work / "photos" / "test" / name).mkdir(parents=True, exist_ok=True)
            picture = draw_image(kind, (60 + number, 52), f"{number}")
            picture.save(work / "photos" / "test" / name / f"{number}.png")
    for target, members in (("same", ("one", "two")), ("mixed", ("two", "large", "grey"))):
        done = typed("ensemble", *members, "--to", target, cwd=work)
        assert done.returncode == 0, done.stderr
    return work


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def photos() -> list[Path]:
    return sorted(Path("photos").rglob("*.png"))


def scores(folder: Path | str, tta: Any = "none") -> torch.Tensor:
    """Probabilities of the photos, `(n, classes)` in the order of `CLASSES`."""
    model = ftkit.load(folder, device="cpu", precision="fp32")
    found = [dict(one.top) for one in model.predict(photos(), top_k=3, tta=tta)]
    return torch.tensor([[one[name] for name in CLASSES] for one in found])


def refused(*arguments: str) -> str:
    done = typed(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def card(folder: Path | str) -> Any:
    return json.loads((Path(folder) / "model.json").read_text())


@pytest.mark.parametrize("tta", ["none", "flip", "crops"])
def test_the_probabilities_are_the_mean_of_the_members(tta: Any) -> None:
    """Of members in other orders of the classes, of other sizes, and for grey images."""
    for folder, members in (("same", ("one", "two")), ("mixed", ("two", "large", "grey"))):
        expected = torch.stack([scores(member, tta) for member in members]).mean(0)
        assert (scores(folder, tta) - expected).abs().max() < 1e-6
        assert (expected - scores(members[0], tta)).abs().max() > 0.01


def test_members_have_weights(tmp_path: Path) -> None:
    target = str(tmp_path / "weighted")
    done = typed("ensemble", "one", "two", "--to", target, "--weights", "3,1", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(one["source"], one["weight"]) for one in said["members"]] == [("one", 0.75), ("two", 0.25)]
    assert [one["metrics"] for one in said["members"]] == [{"val_accuracy": 0.5}, {"val_accuracy": 0.7}]
    assert (scores(target) - (0.75 * scores("one") + 0.25 * scores("two"))).abs().max() < 1e-6
    assert "there is an ensemble" in refused("ensemble", "one", "two", "--to", target)
    assert typed("ensemble", "one", "two", "--to", target, "--force").returncode == 0
    assert [one["weight"] for one in card(target)["members"]] == [0.5, 0.5]


def test_the_folder_is_all_that_is_needed(tmp_path: Path) -> None:
    copied = shutil.copytree("mixed", tmp_path / "copied")
    assert torch.equal(scores(copied), scores("mixed"))
    files = {str(path.relative_to(copied)) for path in copied.rglob("*") if path.is_file()}
    names = ("model.json", "model.safetensors")
    assert files == {"model.json", *(f"members/{number}/{name}" for number in (1, 2, 3) for name in names)}
    about = card(copied)
    assert about["format"] == 2, "an earlier ftkit says that it is too old"
    assert [one["backbone"] for one in about["members"]] == ["cifar_resnet20", "cifar_resnet20", "lenet"]
    assert about["classes"] == list(OTHER_ORDER)


def test_every_byte_is_checked(tmp_path: Path) -> None:
    for name in ("model.json", "members/2/model.json", "members/3/model.safetensors"):
        folder = shutil.copytree("mixed", tmp_path / name.replace("/", "-") / "copied")
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))
        assert f"{name}: the file is damaged" in refused("predict", "photos", "--model", str(folder))
    folder = shutil.copytree("mixed", tmp_path / "swapped")
    shutil.rmtree(folder / "members" / "1")
    assert "members/1/model.json is missing" in refused("predict", "photos", "--model", str(folder))
    shutil.copytree(folder / "members" / "2", folder / "members" / "1")
    assert "members/1/model.json: the file is damaged" in refused("predict", "photos", "--model", str(folder))


def test_several_processes_give_the_same_predictions() -> None:
    line = ("predict", "photos", "--model", "mixed", "--batch-size", "1", "--tta", "flip", "--json", *EXACT)
    one, two = (typed(*line, "--num-processes", count) for count in ("1", "2"))
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert one.stdout == two.stdout
    assert len(one.stdout.splitlines()) == 15
    assert "ensemble of 3: cifar_resnet20, lenet, 3 classes" in one.stderr


def test_evaluate_takes_images_that_no_member_was_trained_on() -> None:
    line = ("evaluate", "mixed", "--data", "photos", "--json", *EXACT)
    done = typed(*line)
    assert done.returncode == 0, done.stderr
    own = scores("mixed")
    targets = torch.tensor([CLASSES.index(path.parent.name) for path in photos()])
    found = json.loads(done.stdout)
    assert found["loss"] == pytest.approx(-own.log()[range(15), targets].mean().item(), abs=1e-5)
    assert found["accuracy"] == pytest.approx((own.argmax(1) == targets).float().mean().item())
    assert "whose members may have been trained" in refused("evaluate", "mixed")


def test_validation_images_in_a_run_folder_are_not_taken_silently(tmp_path: Path, image_folder: MakeFolder) -> None:
    each = dict.fromkeys(CLASSES, 2)
    data = image_folder(tmp_path / "data", {"train": each, "val": each})
    run = make_run(tmp_path / "run", data, CLASSES)
    assert typed("ensemble", str(run), "one", "--to", str(run / "both")).returncode == 0
    assert "whose members may have been trained" in refused("evaluate", str(run / "both"))
    done = typed("evaluate", str(run / "both"), "--data", str(data))
    assert (done.returncode, "too good on images" in done.stderr) == (0, True), done.stderr


def test_models_that_do_not_fit_are_refused(tmp_path: Path, image_folder: MakeFolder) -> None:
    save_model(tmp_path / "four", (*CLASSES, "wasps"))
    several = {"name": "multilabel"}
    save_model(tmp_path / "several", CLASSES, network=network(5), preprocessing=SMALL, task=several)
    mapped = {"ants": "ants", "wasps": None}
    save_model(tmp_path / "mapped", CLASSES, network=network(6), preprocessing=SMALL, origin=mapped)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    shutil.copytree("large", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    to = ("--to", str(tmp_path / "new"))
    for arguments, says in (
        (("one", *to), "needs two models or more, not 1"),
        (("one", "one", *to), "one and one are the same model"),
        (("one", str(tmp_path / "four"), *to), "differ in their classes: wasps"),
        (("one", str(tmp_path / "several"), *to), "differ in their task: multiclass and multilabel"),
        (("one", str(tmp_path / "mapped"), *to), "were trained with different classes or label_map"),
        (("one", "mixed", *to), "mixed is an ensemble itself"),
        (("one", "nothing", *to), "nothing"),
        (("one", str(tmp_path / "damaged"), *to), "the file is damaged"),
        (("one", "two", "--to", str(tmp_path / "full")), "the folder has other files"),
        (("one", "two", "--to", str(tmp_path / "full"), "--force"), "the folder has other files"),
        (("one", "two", "--to", "one", "--force"), "the folder has other files"),
        (("one", "two", "--weights", "1,2,3", *to), "--weights has 3 numbers for 2 models"),
        (("one", "two", "--weights", "1,0", *to), "0 is not a positive number"),
        (("one", "two", "--weights", "1,nan", *to), "nan is not a positive number"),
        (("one", "two", "--weights", "1;2", *to), "not numbers separated by commas"),
    ):
        assert says in refused("ensemble", *arguments), arguments
        assert not (tmp_path / "new").exists()
    data = str(image_folder(tmp_path / "data", {"train": dict.fromkeys(CLASSES, 2), "val": dict.fromkeys(CLASSES, 2)}))
    says = refused("train", "--data", data, "--backbone", "cifar_resnet20", "--weights", "same")
    assert "weights same are an ensemble, not one network" in says


def test_thresholds_of_several_labels_are_averaged(tmp_path: Path) -> None:
    task = {"name": "multilabel"}
    thresholds = {CLASSES: [0.2, 0.4, 0.6], OTHER_ORDER: [0.8, 0.4, 0.2]}
    for seed, (order, values) in enumerate(thresholds.items()):
        own = {"network": network(seed), "preprocessing": SMALL, "task": task, "decision": {"thresholds": values}}
        save_model(tmp_path / f"{seed}", order, **own)  # type: ignore[arg-type]
    target = tmp_path / "both"
    assert typed("ensemble", str(tmp_path / "0"), str(tmp_path / "1"), "--to", str(target)).returncode == 0
    assert card(target)["decision"]["thresholds"] == pytest.approx([0.3, 0.3, 0.7])
    expected = (scores(tmp_path / "0") + scores(tmp_path / "1")) / 2
    assert (scores(target) - expected).abs().max() < 1e-6
    model = ftkit.load(target, device="cpu", precision="fp32")
    for row, found in zip(expected.tolist(), model.predict(photos()), strict=True):
        above = {name for name, p, least in zip(CLASSES, row, (0.3, 0.3, 0.7), strict=True) if p > least}
        assert found.labels is not None
        assert {name for name, _ in found.labels} == above


def test_members_of_one_preprocessing_are_exported_as_one_graph(tmp_path: Path) -> None:
    done = typed("export", "same", "--format", "torch-export", "--to", str(tmp_path / "graph"), "--json")
    assert done.returncode == 0, done.stderr
    program = next((tmp_path / "graph").glob("*.pt2"))
    images = torch.randn(3, 3, 32, 32)
    model = ftkit.load("same", device="cpu", precision="fp32")
    with torch.no_grad():
        exported = torch.export.load(program).module()(images)
        assert (exported.softmax(1) - model.network(images).softmax(1)).abs().max() < 1e-5
    says = refused("export", "mixed", "--format", "torch-export", "--to", str(tmp_path / "none"))
    assert "members 1 and 2 differ in preprocessing" in says
    with pytest.raises(ftkit.RequestError, match="differ in preprocessing"):
        _ = ftkit.load("mixed").network


def test_compare_takes_an_ensemble_beside_a_run_on_test_images(tmp_path: Path, image_folder: MakeFolder) -> None:
    each = dict.fromkeys(CLASSES, 3)
    data = image_folder(tmp_path / "data", {"train": each, "val": each, "test": each})
    run = ftkit.train(plan(data, tmp_path, name="run", backbone="lenet", epochs=1)).run.path
    line = ("compare", str(run), "same", "--metric", "loss", "--json")
    done = typed(*line)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    own = json.loads(typed("evaluate", "same", "--data", str(data), "--json").stdout)
    assert found["split"] == "test"
    assert found["runs"][1]["metrics"]["loss"]["value"] == pytest.approx(own["loss"], abs=1e-6)
    assert (found["runs"][1]["epochs"], found["runs"][1]["seconds"]) == (None, None)
    shown = typed("compare", str(run), "same")
    assert (shown.returncode, "same" in shown.stdout) == (0, True), shown.stderr
    assert "may have been trained on the val images" in refused(*line, "--split", "val")
    assert "there are ensembles alone" in refused("compare", "same", "mixed")
