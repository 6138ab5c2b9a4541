"""Data replaced by other data of the same paths, sizes and times: what was kept of the old images isn't used."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import ftkit
from ftkit.api import ImageFiles, Split
from ftkit.builtin.backbones.networks.cifar_resnet_network import CifarResNet
from ftkit.builtin.datasets.archive import Archive
from ftkit.data.scan.content_digests import image_digests
from ftkit.data.scan.scan_cache import FILE, open_scan_cache
from ftkit.errors import FtkitError
from ftkit.files.cache_folder import CacheStore
from tests import headers
from tests.conftest import RunFtkit

LONG_AGO = 1_600_000_000_000_000_000
SETTINGS = ("--backbone", "cifar_resnet20", "--weights", "net.pth", "--strategy", "freeze", "--epochs", "8")
FLAGS = (
    "--augment",
    "none",
    "--workers",
    "0",
    "--batch-size",
    "8",
    "--precision",
    "fp32",
    "--no-probe",
    "--lr",
    "0.02",
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.save(CifarResNet(3, 10).state_dict(), "net.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes in `train` and `val`: files of one size and one time, which `touch -d` gives."""
    for split, count in (("train", 12), ("val", 6)):
        for label, name in enumerate("ab"):
            for number in range(count):
                file = tmp_path / "data" / split / name / f"{number}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                colour = ((200, 10 * number, 30), (30, 10 * number, 200))[label]
                PIL.Image.new("RGB", (32, 32), colour).save(file)
                os.utime(file, ns=(LONG_AGO, LONG_AGO))
    time.sleep(0.03)  # What changed just now isn't remembered yet.
    return tmp_path / "data"


def by_folders(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "a").rename(data / "spare")
        (data / split / "b").rename(data / split / "a")
        (data / "spare").rename(data / split / "b")


def in_place(data: Path) -> None:
    for one in sorted(data.glob("*/a/*.bmp")):
        other = one.parent.parent / "b" / one.name
        contents = one.read_bytes(), other.read_bytes()
        for file, content in zip((other, one), contents, strict=True):
            with file.open("r+b") as opened:
                opened.write(content)
            os.utime(file, ns=(LONG_AGO, LONG_AGO))


def by_links(data: Path) -> None:
    for one in sorted(data.glob("*/a/*.bmp")):
        other, spare = one.parent.parent / "b" / one.name, data / "spare"
        spare.hardlink_to(one)
        one.unlink()
        one.hardlink_to(other)
        other.unlink()
        other.hardlink_to(spare)
        spare.unlink()


def trained(run_ftkit: RunFtkit, name: str, *flags: str) -> list[dict[str, Any]]:
    done = run_ftkit("train", *SETTINGS, *FLAGS, "--name", name, "--json", "-q", *flags)
    assert done.returncode == 0, done.stderr
    epochs: list[dict[str, Any]] = json.loads(done.stdout)["epochs"]
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in epochs]


def evaluated(run_ftkit: RunFtkit, *flags: str, run: str = "before") -> dict[str, Any]:
    done = run_ftkit("evaluate", f"runs/{run}/last", "--json", "--precision", "fp32", *flags)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("swap", [by_folders, in_place, by_links])
def test_classes_that_were_swapped_are_seen(swap: Callable[[Path], None], data: Path, run_ftkit: RunFtkit) -> None:
    flags = ("--data", str(data))
    before = trained(run_ftkit, "before", *flags)
    assert before[-1]["val_accuracy"] > 0.8
    stamps = {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in data.glob("*/*/*.bmp")}
    swap(data)
    assert stamps == {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in data.glob("*/*/*.bmp")}
    confusion = evaluated(run_ftkit)["confusion"]
    assert confusion == evaluated(run_ftkit, "--no-cache")["confusion"]
    assert confusion[0][0] + confusion[1][1] < confusion[0][1] + confusion[1][0]
    after = trained(run_ftkit, "after", *flags)
    assert after != before
    assert after[-1]["val_accuracy"] == evaluated(run_ftkit, "--no-cache", run="after")["accuracy"]


def test_data_that_was_moved_or_renamed_is_not_computed_again(data: Path, run_ftkit: RunFtkit) -> None:
    before = trained(run_ftkit, "before", "--data", str(data))
    tables = {entry.path for entry in CacheStore(Path("cache/activations").absolute(), 0).entries()}
    moved = data.rename(data.with_name("moved"))
    for file in moved.glob("*/*/*.bmp"):
        file.rename(file.with_name(f"photo-{file.name}"))
    os.utime(next(moved.glob("train/a/*.bmp")))
    assert trained(run_ftkit, "after", "--data", str(moved)) == before
    assert {entry.path for entry in CacheStore(Path("cache/activations").absolute(), 0).entries()} == tables


def test_decoded_images_that_were_replaced_are_decoded_anew(data: Path, run_ftkit: RunFtkit) -> None:
    flags = ("--data", str(data), "--strategy", "full", "--epochs", "1", "--no-cache")
    before = trained(run_ftkit, "before", *flags, "--decoded-cache", "disk")
    by_folders(data)
    after = trained(run_ftkit, "after", *flags, "--decoded-cache", "disk")
    assert after == trained(run_ftkit, "plain", *flags)
    assert after != before


def images(data: Path) -> Split:
    names = [str(file) for file in sorted(data.glob("train/*/*.bmp"))]
    return Split(names, [0] * len(names), ImageFiles(data, names))


def test_an_image_replaced_after_it_was_looked_at_is_named(data: Path) -> None:
    split = images(data)
    known = image_digests(split)
    known.require_same(range(len(split)))
    file = Path(split.names[3])
    file.touch()
    known.require_same([3])
    with file.open("r+b") as opened:
        opened.write(Path(split.names[-1]).read_bytes())
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    with pytest.raises(FtkitError, match=r"a/11\.bmp: the image was replaced during this command"):
        known.require_same(range(len(split)))


def test_images_are_known_by_order_too_and_files_are_read_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = images(data)
    backwards = split.subset(list(reversed(range(len(split)))))
    assert image_digests(split).digest != image_digests(backwards).digest
    (file,) = Path("cache").glob("images-*.sqlite3")
    assert len(open_scan_cache().contents(split.names)) == len(split)
    monkeypatch.setattr("ftkit.data.scan.scan_cache.content_digest", lambda path: pytest.fail(f"{path} was read again"))
    assert image_digests(split).digest == image_digests(images(data)).digest
    file.unlink()
    with pytest.raises(pytest.fail.Exception, match="was read again"):
        image_digests(split)


def test_an_earlier_format_of_the_memory_is_removed(data: Path) -> None:
    Path("cache").mkdir()
    (Path("cache") / "images-1.sqlite3").write_bytes(b"old")
    image_digests(images(data))
    assert [file.name for file in Path("cache").iterdir()] == [FILE]


def test_more_files_than_the_memory_holds_are_all_remembered_while_they_are_used(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftkit.data.scan.scan_cache.MOST", 5)
    split = images(data)
    image_digests(split)
    monkeypatch.setattr("ftkit.data.scan.scan_cache.content_digest", lambda path: pytest.fail(f"{path} was read again"))
    image_digests(split)


def test_tables_of_an_earlier_format_make_room_and_are_never_read(data: Path, tmp_path: Path) -> None:
    store = CacheStore(tmp_path / "tables", 10_000)
    old = store.folder / "v2-aa"
    old.mkdir(parents=True)
    (old / "data").write_bytes(bytes(8192))
    (old / "lock").touch()
    (old / "table.json").write_text(
        json.dumps({"description": "old", "metadata": {"cut": "x", "prefix": "y"}, "last_used": 1})
    )
    (entry,) = store.entries()
    assert not entry.metadata
    assert not store.has("aa")
    _, lock = store.reserve("bb", "new", 4096, 1)
    lock.close()
    assert not old.exists()


def archive(file: Path, data: Path) -> None:
    with tarfile.open(file, "w") as tar:
        for member in sorted(data.rglob("*.bmp")):
            tar.add(member, member.relative_to(data))
    os.utime(file, ns=(LONG_AGO, LONG_AGO))


def test_an_archive_replaced_by_one_of_the_same_size_and_time_is_unpacked(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.tar"
    archive(file, data)
    before, was = Archive(file).load(), file.stat()
    by_folders(data)
    archive(tmp_path / "other.tar", data)
    shutil.copyfile(tmp_path / "other.tar", file)
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after = Archive(file).load()
    assert before.train is not None
    assert after.train is not None
    assert before.train[0][0].tobytes() != after.train[0][0].tobytes()


def test_a_csv_file_whose_images_were_swapped(data: Path, run_ftkit: RunFtkit) -> None:
    rows = [f"{file.relative_to(data)},{file.parent.name},{file.parent.parent.name}" for file in data.rglob("*.bmp")]
    (data / "list.csv").write_text("\n".join(["path,label,split", *sorted(rows)]))
    flags = ("--dataset", "csv", "--set", f"dataset.path={data}/list.csv")
    trained(run_ftkit, "before", *flags)
    by_folders(data)
    assert evaluated(run_ftkit)["confusion"] == evaluated(run_ftkit, "--no-cache")["confusion"]


def test_a_plan_reads_what_was_rewritten_in_place(data: Path) -> None:
    ftkit.plan(dataset={"name": "folder", "root": str(data)}, backbone="cifar_resnet20", weights="none")
    file = data / "train" / "a" / "0.bmp"
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    with pytest.raises(FtkitError, match=r"a/0\.bmp: not an image"):
        ftkit.plan(dataset={"name": "folder", "root": str(data)}, backbone="cifar_resnet20", weights="none")


def test_images_that_are_no_files_are_known_by_what_their_headers_mean() -> None:
    """The same stored bytes: turned by EXIF or XMP, of another range, or with other low bytes of 16 bits."""
    stored, ramp = headers.stored(1), np.array([[0, 1024, 2048, 4095]], dtype=np.uint16)
    colours = np.repeat(ramp[:, :, None], 3, axis=2)
    contents = [
        headers.jpeg(stored),
        headers.jpeg(stored, [headers.app1(headers.exif(6))]),
        headers.jpeg(stored, [headers.app1_xmp(8)]),
        headers.tiff(ramp),
        headers.tiff(ramp, {341: (headers.SHORT, [4095])}),
        headers.png_of_16_bits(colours),
        headers.png_of_16_bits(colours + 1),
        headers.jpeg(stored)[:-20],
    ]
    digests = [image_digests(Split(["x"], [0], lambda _, c=c: PIL.Image.open(io.BytesIO(c)))).digest for c in contents]  # type: ignore[misc]
    assert len(set(digests)) == len(contents)
