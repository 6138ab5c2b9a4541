"""Images kept decoded: the very same run, files read once, and a plain word where they don't fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit.api import ImageFiles, Split
from ftkit.cli.main import main
from ftkit.data.images import Range
from ftkit.data.loading import decoded_images
from ftkit.data.loading.decoded_images import DecodedCache, decoded_sizes, open_decoded_cache
from ftkit.data.loading.pixels import sample_pixels
from ftkit.testing import draw_image
from tests.conftest import MakeFolder


@pytest.fixture
def data(tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    return image_folder(tmp_path / "data", {"train": {"a": 9, "b": 9}, "val": {"a": 4, "b": 4}}, size=(96, 88))


def trained(data: Path, name: str, **settings: Any) -> bytes:
    common: dict[str, Any] = {"backbone": "cifar_resnet20", "weights": "none", "strategy": "full", "epochs": 2}
    plan = ftkit.plan(dataset={"name": "folder", "root": str(data)}, name=name, batch_size=6, **common, **settings)
    return (ftkit.train(plan).run.last / "model.safetensors").read_bytes()


@pytest.mark.parametrize("where", ["ram", "disk", "auto"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_with_the_very_weights_that_it_would_have_had(data: Path, where: str, workers: int) -> None:
    plain = trained(data, "plain", workers=0, cache={"decoded": "off"})
    assert trained(data, "kept", workers=workers, cache={"decoded": where}) == plain


def decodings(data: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[str]:
    """The images that a run of two epochs decodes for its cache, in order."""
    seen = data.parent / "seen"

    def counted(split: Split, index: int, channels: int, value_range: Range | None) -> torch.Tensor:
        with seen.open("a") as file:
            file.write(f"{split.names[index]}\n")
        return sample_pixels(split, index, channels, value_range)

    monkeypatch.setattr(decoded_images, "sample_pixels", counted)
    trained(data, "kept", **settings)
    return seen.read_text().split() if seen.exists() else []


@pytest.mark.parametrize("where", ["ram", "auto"])
def test_an_image_is_decoded_once_by_whichever_worker(where: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = decodings(data, monkeypatch, workers=2, cache={"decoded": where})
    assert len(names) == len(set(names)) == 26


@pytest.mark.parametrize(("limit", "value"), [("MOST_BYTES", 1000), ("MOST_IMAGES", 25), ("MOST_OF_MEMORY", 1e-9)])
def test_many_or_large_images_are_not_kept(
    limit: str, value: float, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_images, limit, value)
    assert decodings(data, monkeypatch, workers=0) == []


def test_images_that_are_hardly_larger_than_the_input_are_not_kept(
    image_folder: MakeFolder, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = image_folder(tmp_path / "smaller", {"train": {"a": 9, "b": 9}, "val": {"a": 4, "b": 4}}, size=(96, 80))
    assert decodings(smaller, monkeypatch, workers=0) == []


def test_another_run_finds_them_on_disk_and_clear_removes_them(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained(data, "first", workers=0, cache={"decoded": "disk", "use": False})
    monkeypatch.setattr(decoded_images, "sample_pixels", None)
    assert trained(data, "second", workers=0, cache={"decoded": "disk", "use": False}) == first
    assert main(["cache", "list"]) == 0
    assert "dataset folder: 18 train images decoded" in " ".join(capsys.readouterr().out.split())
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "list"]) == 0
    assert "0 tables" in capsys.readouterr().out


def kept(folder: Path, count: int = 3, where: Any = "disk") -> tuple[DecodedCache, Split]:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number}.jpg"
        if not path.exists():
            draw_image(number, (20 + number, 30), "x").save(path)
    names = [f"{number}.jpg" for number in range(count)]
    split = Split(names, [0] * count, ImageFiles(folder, names))
    return open_decoded_cache(
        split,
        decoded_sizes(split, 3),
        ftkit.plan(cache={"decoded": where, "dir": str(folder / "cache")}).config.cache,
        "some",
    ), split


def test_damaged_bytes_on_disk_are_decoded_again(tmp_path: Path) -> None:
    images, split = kept(tmp_path)
    expected = [images.pixels(index, 3).clone() for index in range(3)]
    images.close()
    (file,) = (tmp_path / "cache").glob("*/data")
    content = bytearray(file.read_bytes())
    content[25 * 30 * 3] ^= 1
    file.write_bytes(content)
    again, _ = kept(tmp_path)
    assert all(torch.equal(again.pixels(index, 3), expected[index]) for index in range(3))
    assert all(torch.equal(sample_pixels(split, index, 3), expected[index]) for index in range(3))


def test_a_changed_image_is_not_taken_from_an_earlier_run(tmp_path: Path) -> None:
    images, _ = kept(tmp_path)
    before = images.pixels(0, 3).clone()
    images.close()
    draw_image(7, (20, 30), "z").save(tmp_path / "0.jpg")
    again, split = kept(tmp_path)
    assert torch.equal(again.pixels(0, 3), sample_pixels(split, 0, 3))
    assert not torch.equal(again.pixels(0, 3), before)


def test_an_image_of_another_size_than_its_header_says_is_passed_on(tmp_path: Path) -> None:
    images, split = kept(tmp_path, where="ram")
    draw_image(0, (44, 33), "x").save(tmp_path / "0.jpg")
    assert torch.equal(images.pixels(0, 3), sample_pixels(split, 0, 3))


def test_images_lie_upright(tmp_path: Path) -> None:
    picture = draw_image(1, (40, 24), "x")
    tags = picture.getexif()
    tags[0x0112] = 6
    picture.save(tmp_path / "0.jpg", exif=tags)
    images, split = kept(tmp_path, count=1, where="ram")
    assert decoded_sizes(split, 3).shapes == ((40, 24),)
    assert images.pixels(0, 3).shape == (3, 40, 24)


def refused(data: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    common = ["--backbone", "lenet", "--weights", "none", "--epochs", "1", "--strategy", "full", "--quiet"]
    given = ["--data", str(data)] if "--dataset" not in flags else []
    assert main(["train", *given, *common, *flags]) == 2
    assert not list(Path("runs").glob("*/checkpoints"))
    return capsys.readouterr().err


def test_more_than_fits_is_refused_before_training(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoded_images, "available_memory", lambda: 1000)
    assert "GB are available\nhint: give --decoded-cache disk, or off" in refused(
        data, capsys, "--decoded-cache", "ram"
    )
    printed = refused(data, capsys, "--decoded-cache", "disk", "--cache-limit", "1000")
    assert "no room for 0.00 GB" in printed
    assert "raise --cache-limit" in printed


def test_images_in_memory_are_not_kept_again(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = refused(data, capsys, "--decoded-cache", "ram", "--dataset", "digits")
    assert "the samples are not image files" in printed


def test_memory_is_what_the_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_images, "CGROUP", tmp_path)
    assert decoded_images.available_memory() > 10**6
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert decoded_images.available_memory() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert decoded_images.available_memory() > 10**6
