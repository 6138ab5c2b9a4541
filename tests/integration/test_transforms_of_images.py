"""Image transforms: what they do to an image, where they run, and that a run with them stays exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import resume
from ftkit.api import ImageTransform
from ftkit.errors import FtkitError, RunInterrupted
from tests import models
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import planner, records, weights
from tests.stopping import StopAt

planned = planner(backbone="lenet", weights="default", strategy="full", precision="fp32")
EVERY: tuple[type[ImageTransform], ...] = tuple(models.parts("image_transforms").values())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 10, "b": 10}, "val": {"a": 4, "b": 4}})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 32])
def test_each_gives_an_image_of_the_same_shape_that_its_seed_decides(
    cls: type[ImageTransform], channels: int, size: int
) -> None:
    image = torch.randint(0, 256, (channels, size, size), dtype=torch.uint8)
    before, changed = image.clone(), 0
    for seed in range(60):
        pair = []
        for _ in range(2):
            torch.manual_seed(seed)
            pair.append(cls().apply(image))
        assert torch.equal(*pair)
        assert (pair[0].shape, pair[0].dtype) == (image.shape, torch.uint8)
        changed += not torch.equal(pair[0], image)
    assert torch.equal(image, before)
    if size > 1 and not (cls.__name__ == "Grayscale" and channels == 1):
        assert changed > 0


def test_probabilities_hold() -> None:
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    for name in ("random-erasing", "gaussian-blur", "grayscale"):
        transform: ImageTransform = part("image_transforms", name, probability=0.3)
        torch.manual_seed(1)
        changed = sum(not torch.equal(transform.apply(image), image) for _ in range(400))
        assert changed / 400 == pytest.approx(0.3, abs=0.08), name


def part(kind: str, name: str, **options: Any) -> Any:
    return models.part(kind, name)(**options)


SEVERAL = ["gaussian-blur", {"name": "randaugment", "num_ops": 1}, "random-erasing"]


@pytest.mark.parametrize("augment", ["light", "none", "randaugment", "autoaugment"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_workers_and_device_give_the_same_samples(augment: str, fit: str, data: Path) -> None:
    for place in ("workers", "device"):
        settings = {"augment": augment, "image_transforms": SEVERAL, "augment_on": place, "preprocessing": {"fit": fit}}
        ftkit.train(planned(data, place, **settings, epochs=1))
    assert weights("workers") == weights("device")


def test_workers_and_stops_change_nothing(data: Path) -> None:
    ftkit.train(planned(data, "whole", image_transforms=SEVERAL))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, "cut", image_transforms=SEVERAL, workers=1), StopAt(5))
    resume(Path("runs", "cut"))
    assert weights("whole") == weights("cut")
    assert records("whole") == records("cut")
    ftkit.train(planned(data, "plain"))
    assert weights("plain") != weights("whole")


def test_cached_augmentations_have_them_and_are_known_by_them(data: Path, run_ftkit: RunFtkit) -> None:
    settings = {"strategy": "freeze", "epochs": 4, "augment": "none", "cache": {"augmentations": 2}}
    for name, transforms in (("one", SEVERAL), ("again", SEVERAL), ("other", ["autoaugment"]), ("plain", [])):
        ftkit.train(planned(data, name, image_transforms=transforms, **settings))
    assert weights("one") == weights("again") != weights("other")
    assert weights("plain") != weights("one")
    tables = json.loads(run_ftkit("cache", "list", "--json", cwd=Path.cwd()).stdout)
    assert len(tables) == 4, "two unaugmented, shared by all, and one augmented of each list"


def test_levels_and_flags(data: Path, run_ftkit: RunFtkit) -> None:
    flags = ["--data", str(data), "--backbone", "resnet18", "--weights", "none"]
    shown = run_ftkit("plan", *flags, "--augment", "randaugment", "--random-erasing", "0.2").stdout
    assert "randaugment: scale 0.35 to 1, ratio 0.75 to 1.33, flip 0.5, erase 0.2" in shown
    assert "randaugment; on each training image, after the crop" in shown
    shown = run_ftkit("plan", *flags, "--image-transform", "grayscale", "--augment", "none").stdout
    assert "grayscale; on each training image, after the crop" in shown
    shown = run_ftkit("plan", *flags, "--augment", "trivialaugment").stdout
    assert "trivial" in shown
    refused = run_ftkit("plan", *flags, "--image-transform", "randaugment", "--set", "image_transforms.0.magnitude=99")
    assert "randaugment.magnitude is 99" in refused.stderr
    assert "trivialaugment" in run_ftkit("image-transforms", "list").stdout


PLUGIN = """
from dataclasses import dataclass
from ftkit.api import ImageTransform, hookimpl

@dataclass(frozen=True)
class Odd(ImageTransform):
    how: str = "shape"

    def apply(self, image):
        if self.how == "raise":
            raise ValueError("no such image")
        return image[:, :3] if self.how == "shape" else image.float()

@hookimpl
def ftkit_image_transforms():
    return {"odd": Odd}
"""


@pytest.mark.parametrize(
    ("how", "says"), [("shape", "returned torch.uint8"), ("dtype", "float32"), ("raise", "no such")]
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_plugins_faults_are_named(how: str, says: str, workers: int, data: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN)
    settings = {"plugins": [str(tmp_path / "odd.py")], "image_transforms": [{"name": "odd/odd", "how": how}]}
    with pytest.raises(FtkitError, match="Odd") as caught:
        ftkit.train(planned(data, "run", **settings, workers=workers))
    assert says in caught.value.message
    assert "\n" not in caught.value.message
