"""Data replaced by other data of the same paths, sizes and times: what was kept of the old images isn't used."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit.errors import FtkitError
from tests.conftest import RunFtkit
from tests.dated_images import LONG_AGO, make_dated_images
from tests.models import backbone
from tests.runs import cached_tables, without_times

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
    torch.save(backbone("cifar_resnet20").build(10).state_dict(), "net.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dated_images(tmp_path / "data")


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
    return without_times(json.loads(done.stdout)["epochs"])


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
    tables = {table["path"] for table in cached_tables()}
    moved = data.rename(data.with_name("moved"))
    for file in moved.glob("*/*/*.bmp"):
        file.rename(file.with_name(f"photo-{file.name}"))
    os.utime(next(moved.glob("train/a/*.bmp")))
    assert trained(run_ftkit, "after", "--data", str(moved)) == before
    assert {table["path"] for table in cached_tables()} == tables


def test_decoded_images_that_were_replaced_are_decoded_anew(data: Path, run_ftkit: RunFtkit) -> None:
    flags = ("--data", str(data), "--strategy", "full", "--epochs", "1", "--no-cache")
    before = trained(run_ftkit, "before", *flags, "--decoded-cache", "disk")
    by_folders(data)
    after = trained(run_ftkit, "after", *flags, "--decoded-cache", "disk")
    assert after == trained(run_ftkit, "plain", *flags)
    assert after != before


def archive(file: Path, data: Path) -> None:
    with tarfile.open(file, "w") as tar:
        for member in sorted(data.rglob("*.bmp")):
            tar.add(member, member.relative_to(data))
    os.utime(file, ns=(LONG_AGO, LONG_AGO))


def test_an_archive_replaced_by_one_of_the_same_size_and_time_is_unpacked(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "set.tar"
    dataset = {"name": "archive", "source": str(file)}
    archive(file, data)
    before, was = ftkit.plan(dataset=dataset).splits, file.stat()
    by_folders(data)
    archive(tmp_path / "other.tar", data)
    shutil.copyfile(tmp_path / "other.tar", file)
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    after = ftkit.plan(dataset=dataset).splits
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
