"""The scan of many images: resumed after a kill, of a sample or not at all, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from tests import inside
from tests.conftest import RunFtkit

FLAGS = ("--backbone", "lenet", "--weights", "none", "--strategy", "scratch")

COUNTING = """
import os, sys
def count(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".bmp"):
        counts = os.open(os.environ["COUNTED"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(counts, f"{arguments[0]}\\n".encode())
        os.close(counts)
sys.addaudithook(count)
"""
"""A plugin that writes the name of each image file that is opened, by any process of the scan."""

MakePhotos = Callable[[str, int], Path]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePhotos:
    """Make a folder of different images of two classes; the scan cache is in the folder `cache`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))

    def make(name: str, count: int) -> Path:
        for number in range(count):
            file = tmp_path / name / "ab"[number % 2] / f"{number:06d}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("L", (10, 10), Random(number).randbytes(100)).save(file)
        time.sleep(0.1)  # Files that have just changed aren't cached.
        return tmp_path / name

    return make


def planned(run_ftkit: RunFtkit, data: Path, *flags: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_ftkit("plan", "--data", str(data), *FLAGS, *flags, "--json").stdout)
    return found


def test_sample_and_off_say_what_they_leave_unchecked(
    photos: MakePhotos, run_ftkit: RunFtkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.limit_scan_sample(monkeypatch, 20)
    data = photos("photos", 120)
    plan = planned(run_ftkit, data, "--scan", "sample")
    assert plan["scan"] == {"files": "sample", "scanned": 40, "unchecked": 80}
    (note,) = [note for note in plan["notes"] if note.startswith("scan: ")]
    assert "40 of 120 images, chosen at random, were read; 80 aren't checked" in note
    assert cached() == 40
    planned(run_ftkit, data, "--scan", "sample")
    assert cached() == 40
    plan = planned(run_ftkit, data, "--scan", "off")
    assert plan["scan"] == {"files": "off", "scanned": 0, "unchecked": 120}
    assert any("scan: no image was read; 120 aren't checked" in note for note in plan["notes"])
    assert cached() == 40
    plan = planned(run_ftkit, data)
    assert plan["scan"] == {"files": "full", "scanned": 120, "unchecked": 0}
    assert not any(note.startswith("scan: ") for note in plan["notes"])
    refused = run_ftkit("plan", "--data", str(data), *FLAGS, "--scan", "some")
    assert refused.returncode == 2
    assert "full" in refused.stderr


def test_an_image_that_was_not_scanned_is_named_or_skipped_by_the_run(photos: MakePhotos, run_ftkit: RunFtkit) -> None:
    data = photos("photos", 60)
    # The first of these is trained on, whatever else is held out.
    for file in sorted(data.glob("a/*"))[:20]:
        file.write_bytes(b"junk")
    train = ("train", "--data", str(data), *FLAGS, "--epochs", "1", "--workers", "0", "--quiet")
    refused = run_ftkit(*train)
    assert (refused.returncode, "20 images can't be read" in refused.stderr) == (2, True)
    failed = run_ftkit(*train, "--scan", "off", "--name", "fails")
    assert (failed.returncode, "bmp: not an image" in failed.stderr) == (1, True)
    done = run_ftkit(*train, "--scan", "off", "--on-bad-image", "skip", "--name", "skips")
    assert done.returncode == 0, done.stderr
    listed = [json.loads(line) for line in Path("runs/skips/bad-images.jsonl").read_text().splitlines()]
    assert {Path(line["file"]).name for line in listed} == {f"{number:06d}.bmp" for number in range(0, 40, 2)}
    assert all(line["during_run"] for line in listed)
    evaluated = run_ftkit("evaluate", "runs/skips", "--split", "val")
    assert evaluated.returncode == 0, evaluated.stderr


def test_without_a_scan_a_run_notices_images_that_change_before_it_resumes(
    photos: MakePhotos, run_ftkit: RunFtkit
) -> None:
    data = photos("photos", 60)
    train = ("train", "--data", str(data), *FLAGS, "--epochs", "1", "--workers", "0", "--no-cache", "--scan", "off")
    assert run_ftkit(*train, "--name", "one").returncode == 0
    same = run_ftkit("train", "--resume", "runs/one", "--extend", "1")
    assert (same.returncode, "images have changed" in same.stderr) == (0, False), same.stderr
    for file in data.glob("*/*"):
        file.write_bytes(file.read_bytes())
    changed = run_ftkit("train", "--resume", "runs/one", "--extend", "1")
    assert "train images have changed since the run started" in changed.stderr


def test_the_list_of_many_images_is_compressed(
    photos: MakePhotos, run_ftkit: RunFtkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos("photos", 60)
    train = ("train", "--data", str(data), *FLAGS, "--epochs", "0", "--quiet")
    assert run_ftkit(*train, "--name", "few").returncode == 0
    inside.limit_plain_list(monkeypatch, 50)
    assert run_ftkit(*train, "--name", "many").returncode == 0
    assert not Path("runs/many/splits.csv").exists()
    with gzip.open("runs/many/splits.csv.gz") as file:
        assert file.read() == Path("runs/few/splits.csv").read_bytes()
    assert "splits.csv.gz" in run_ftkit("runs", "show", "many").stdout


def test_a_killed_scan_resumes(photos: MakePhotos) -> None:
    data = photos("photos", 3000)
    Path("counting.py").write_text(COUNTING, encoding="utf-8")
    plan = [sys.executable, "-m", "ftkit", "plan", "--data", str(data), *FLAGS, "--set", "plugins=[counting.py]"]
    first, second = Path("first.txt"), Path("second.txt")
    process = subprocess.Popen(plan, env=os.environ | {"COUNTED": str(first)}, stdout=subprocess.DEVNULL)
    while process.poll() is None and cached() < 1000:
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = cached()
    assert 1000 <= kept < 3000
    require_ended(first)
    subprocess.run(plan, env=os.environ | {"COUNTED": str(second)}, stdout=subprocess.DEVNULL, check=True)
    again = set(second.read_text(encoding="utf-8").splitlines())
    assert len(again) == 3000 - kept
    assert cached() == 3000


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is in other units")
@pytest.mark.long
def test_memory_of_a_plan_grows_by_little_for_each_image(photos: MakePhotos) -> None:
    few, many = 1000, 20_000
    peaks = [peak(photos(f"photos{count}", count)) for count in (few, many)]
    assert (peaks[1] - peaks[0]) / (many - few) < 600, "bytes for each image"


def peak(data: Path) -> int:
    """Peak memory of `ftkit plan`, in bytes."""
    plan = [sys.executable, "-m", "ftkit", "plan", "--data", str(data), *FLAGS]
    process = subprocess.Popen(plan, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


def cached() -> int:
    """Number of files in the scan cache."""
    for file in Path("cache").glob("images-*.sqlite3"):
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file)) as database:
            return int(database.execute("select count(*) from images").fetchone()[0])
    return 0


def require_ended(counts: Path) -> None:
    """Require that no process scans any more, soon after the main process was killed."""
    for _ in range(50):
        before = counts.stat().st_size
        time.sleep(0.2)
        if counts.stat().st_size == before:
            return
    pytest.fail("processes of a killed scan continue")
