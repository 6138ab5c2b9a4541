"""Augmentation in batches on the device: the same result as in the workers, and as exact."""

from __future__ import annotations

from pathlib import Path

import pytest

import ftkit
from ftkit import resume
from ftkit.cli.main import main
from ftkit.errors import RunInterrupted
from tests.conftest import MakeFolder
from tests.runs import planner, records, weights
from tests.stopping import StopAt

planned = planner(
    strategy="full",
    workers=2,
    precision="fp32",
    augment={"name": "strong", "erase": 0.5},
    augment_on="device",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), {"train": {"a": 14, "b": 14}, "val": {"a": 6, "b": 6}})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_crops_and_flips_end_the_same_bit_for_bit(data: Path) -> None:
    for place in ("device", "workers"):
        ftkit.train(planned(data, place, augment={"name": "standard", "erase": 0.5}, augment_on=place))
    assert records("device") == records("workers")
    assert weights("device") == weights("workers")


def test_colours_end_nearly_the_same(data: Path) -> None:
    for place in ("device", "workers"):
        ftkit.train(planned(data, place, augment_on=place))
    first, other = (records(place)[0] for place in ("device", "workers"))
    assert first != other, "levels differ"
    assert first["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)


def test_auto_is_workers_without_a_gpu(data: Path) -> None:
    for place in ("auto", "workers"):
        ftkit.train(planned(data, place, augment_on=place, device="cpu", epochs=1))
    assert weights("auto") == weights("workers")


def test_workers_stops_and_decoded_images_change_nothing(data: Path) -> None:
    ftkit.train(planned(data, "whole"))
    ftkit.train(planned(data, "alone", workers=0, cache={"decoded": "ram"}))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, "cut"), StopAt(7))
    resume(Path("runs", "cut"))
    assert weights("whole") == weights("alone") == weights("cut")
    assert records("whole") == records("alone") == records("cut")


def test_padded_images_are_evaluated_the_same(data: Path) -> None:
    for place in ("device", "workers"):
        ftkit.train(planned(data, place, augment="none", preprocessing={"fit": "pad"}, augment_on=place))
    assert records("device") == records("workers")


def test_an_image_that_breaks_later_is_left_out(data: Path, tmp_path: Path, image_folder: MakeFolder) -> None:
    own = image_folder(tmp_path / "own", {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    plan = planned(own, "run", on_bad_image="skip", batch_size=4)
    for image in sorted((own / "train" / "a").iterdir())[:5]:
        image.write_bytes(b"no image")
    ftkit.train(plan)
    assert len(records("run")) == 2


def test_another_place_is_another_run(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, "run"), StopAt(2))
    assert main(["train", "--resume", "run", "--set", "augment_on=workers"]) == 2
    assert "augment_on" in capsys.readouterr().err
