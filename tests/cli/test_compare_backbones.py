"""`ftkit compare --backbones`: backbones ranked by a probe on their frozen features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import MakeFolder, typed
from tests.models import backbone
from tests.multilabel import write_digits

CPU = ("--device", "cpu", "--workers", "0", "--precision", "fp32")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """Images of two classes, and a file of weights."""
    work = tmp_path_factory.mktemp("backbones")
    each = {"ants": 12, "bees": 12}
    image_folder(work / "data", {"train": each, "val": {"ants": 3, "bees": 3}})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(backbone("cifar_resnet20").build(10).state_dict(), work / "resnet.pth")
    return work


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def ranked(*arguments: str) -> Any:
    done = typed("compare", *CPU, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
def test_backbones_are_ranked_and_those_that_cannot_be_measured_listed() -> None:
    names = "lenet,nosuch,cifar_resnet20=resnet.pth,cifar_resnet32,cifar_resnet44=gone.pth"
    found = ranked("--data", "data", "--backbones", names)
    assert (found["metric"], found["images"]) == ("accuracy", 24)
    assert {one["backbone"] for one in found["backbones"]} == {"lenet", "cifar_resnet20"}
    assert [one["mean"] for one in found["backbones"]] == sorted((o["mean"] for o in found["backbones"]), reverse=True)
    reasons = {one["backbone"]: one["reason"] for one in found["not_measured"]}
    assert list(reasons) == ["nosuch", "cifar_resnet32", "cifar_resnet44"]
    assert "unknown backbone 'nosuch'" in reasons["nosuch"]
    assert "has no pretrained weights" in reasons["cifar_resnet32"]
    assert "no file gone.pth" in reasons["cifar_resnet44"]
    for one in found["backbones"]:
        assert len(one["folds"]) == 5
        assert one["mean"] == pytest.approx(sum(one["folds"]) / 5)
        assert one["seconds_per_image"] > 0
        assert one["parameters"] == sum(p.numel() for p in backbone(one["backbone"]).build(2).parameters())
    fastest = min(found["backbones"], key=lambda one: float(one["seconds_per_image"]))
    assert found["backbones"][0]["frontier"], "the best one, which none is better than"
    assert fastest["frontier"] or fastest["mean"] == found["backbones"][0]["mean"]
    shown = typed("compare", *CPU, "--data", "data", "--backbones", "lenet,nosuch")
    assert "not measured: nosuch: unknown backbone" in shown.stdout
    assert "on the frontier" in shown.stdout
    assert not Path("runs").exists(), "no run is made"


@pytest.mark.long
def test_the_measure_repeats() -> None:
    first, second = (ranked("--data", "data", "--backbones", "lenet")["backbones"][0] for _ in range(2))
    assert first["folds"] == second["folds"]
    assert first["logme"] == pytest.approx(second["logme"], abs=1e-9)


def test_several_labels_are_ranked_by_map(tmp_path: Path) -> None:
    data = write_digits(tmp_path)
    options = ("--data", str(data / "digits.csv"), "--set", "dataset.separator=|")
    found = ranked(*options, "--backbones", "lenet,cifar_resnet20=resnet.pth")
    assert (found["metric"], found["images"]) == ("map", 120)
    by_name = {one["backbone"]: one for one in found["backbones"]}
    assert found["backbones"][0]["backbone"] == "lenet", "its weights are of digits"
    assert by_name["lenet"]["mean"] > 0.9 > by_name["cifar_resnet20"]["mean"]
    assert by_name["lenet"]["logme"] > by_name["cifar_resnet20"]["logme"]


def test_no_backbone_is_begun_after_the_budget() -> None:
    found = ranked("--data", "data", "--backbones", "lenet,cifar_resnet20=resnet.pth", "--budget", "0.001s")
    assert [one["backbone"] for one in found["backbones"]] == ["lenet"]
    assert found["not_measured"] == [{"backbone": "cifar_resnet20", "reason": "the budget was spent"}]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--backbones", "nosuch,cifar_resnet32"), 1, "no backbone could be measured: nosuch: unknown backbone"),
        (("--backbones", "lenet,lenet"), 2, "lenet is given twice"),
        (("--backbones", "lenet,"), 2, "a name or weights are empty"),
        (("--backbones", "lenet="), 2, "a name or weights are empty"),
        (("--backbones", "lenet", "--budget", "5"), 2, "--budget 5: not a time"),
        (("--backbones", "lenet", "--budget", "0s"), 2, "--budget 0s: not a time"),
        (("--budget", "5m"), 2, "--budget has no effect without --backbones"),
        (("--backbones", "lenet", "--strategies", "full"), 2, "--strategies has no effect with --backbones"),
        (("--backbones", "lenet", "--seeds", "2"), 2, "--seeds has no effect with --backbones"),
        (("--backbones", "lenet", "--tta", "flip"), 2, "--tta has no effect with --backbones"),
        (("--backbones", "lenet", "--backbone", "lenet"), 2, "--backbone has no effect with --backbones"),
        (("--backbones", "lenet", "--weights", "none"), 2, "--weights has no effect with --backbones"),
        (("--backbones", "lenet", "--epochs", "3"), 2, "--epochs has no effect with --backbones"),
        (("--backbones", "lenet", "runs/one"), 2, "runs/one has no effect with --backbones"),
    ],
)
def test_what_has_no_effect_is_refused(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = typed("compare", *CPU, "--data", "data", *arguments)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
