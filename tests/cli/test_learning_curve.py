"""`ftkit learning-curve`: probes on samples of the training images, and the extrapolation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeFolder, typed

pytestmark = pytest.mark.long

CLASSES = ("ants", "[/bees]")
NETWORK = ("--backbone", "lenet", "--image-size", "28")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    each = dict.fromkeys(("ants", "bees"), 40)
    return image_folder(tmp_path_factory.mktemp("curve") / "data", {"train": each, "val": dict.fromkeys(each, 10)})


def curve(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return typed("learning-curve", "--data", str(data), *NETWORK, *flags)


def test_five_sizes_and_what_more_images_give(data: Path) -> None:
    done = curve(data, "--json", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["metric"], found["images"], found["evaluated"], found["sampled"]) == ("accuracy", 80, 20, False)
    assert [row["images"] for row in found["measured"]] == [5, 10, 20, 40, 80]
    assert [len(row["values"]) for row in found["measured"]] == [2, 2, 2, 2, 1]
    assert [(row["images"], row["times"]) for row in found["expected"]] == [(160, 2.0), (320, 4.0)]
    for row in found["expected"]:
        assert 0 <= row["interval"]["low"] <= row["value"] <= row["interval"]["high"] <= 1
    assert json.loads(curve(data, "--json", "--repeats", "2").stdout) == found, "the seed decides"


def test_a_number_of_images(data: Path) -> None:
    done = curve(data, "--at", "1000", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    assert "with 1,000 training images (12.5 times as many): accuracy" in done.stdout
    assert "accuracy on 20 images that the probes aren't fitted on" in done.stdout


def test_fine_tuning_on_each_sample(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    flags = ("--fine-tune", "--epochs", "2", "--repeats", "2", "--workers", "0")
    done = curve(data, *flags, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["fine_tuned"], found["images"], found["evaluated"]) == (True, 80, 20)
    assert [row["images"] for row in found["measured"]] == [5, 10, 20, 40, 80]
    assert [len(row["values"]) for row in found["measured"]] == [2, 2, 2, 2, 1]
    assert [row["times"] for row in found["expected"]] == [2.0, 4.0]
    assert done.stderr.count("training 9 of 9, on 80 images") == 1
    assert not list(tmp_path.glob("ftkit-curve-*")), "the runs are removed"
    shown = curve(data, *flags)
    assert "Fine-tuned networks" in shown.stdout
    assert "accuracy on 20 images, which also choose the epoch of each training" in shown.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--fine-tune", "--epochs", "0"), "--fine-tune: no epochs are trained"),
        (("--fine-tune", "--strategy", "probe"), "--fine-tune: no epochs are trained"),
        (("--at", "80"), "--at 80: there are 80 training images"),
        (("--weights", "none"), "has no pretrained weights here"),
        (("--train-samples", "12"), "are too few for a learning curve"),
    ],
)
def test_what_is_refused(data: Path, flags: tuple[str, ...], message: str) -> None:
    done = curve(data, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
