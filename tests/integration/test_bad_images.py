"""Image files that can't be read: found before training, named with the reason, left out where that is asked for."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ftkit
from ftkit import Listener, StepDone, resume
from ftkit.cli.main import main
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from tests import inside, runs
from tests.conftest import MakeFolder

SMALL: dict[str, Any] = {"backbone": "lenet", "weights": "none", "strategy": "scratch", "epochs": 1, "workers": 0}
plan = runs.planner(**SMALL)
LAYOUT = {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}}


def break_files(data: Path) -> dict[str, str]:
    """Break four of the images, and say what is wrong with each."""
    large = Image.effect_noise((64, 64), 50)
    large.save(data / "train/a/0001.png")
    whole = (data / "train/a/0001.png").read_bytes()
    (data / "train/a/0001.png").write_bytes(whole[: len(whole) // 2])
    (data / "train/b/0002.jpg").write_bytes(b"")
    (data / "val/a/0000.jpg").write_text("<html>404</html>")
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (60_000).to_bytes(4, "big") * 2
    (data / "val/b/0001.png").write_bytes(header + whole[24:])
    return {
        "train/a/0001.png": "truncated",
        "train/b/0002.jpg": "the file is empty",
        "val/a/0000.jpg": "not an image",
        "val/b/0001.png": "can't be read",
    }


def test_bad_files_stop_a_run_before_it_has_a_folder(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    broken = break_files(data)
    with pytest.raises(RequestError, match=r"^4 images can't be read: ") as caught:
        ftkit.train(plan(data, tmp_path / "runs"))
    for name, reason in broken.items():
        assert f"{data / name}: " in caught.value.message
        assert reason in caught.value.message
    assert "--on-bad-image skip" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_skipped_files_are_listed_and_the_rest_is_trained_on_and_evaluated(
    image_folder: MakeFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    broken = break_files(data)
    run = tmp_path / "runs" / "run"
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    where = [f"--data={data}", f"--output={tmp_path / 'runs'}", "--name=run"]
    assert main(["train", *where, *flags, "--on-bad-image", "skip"]) == 0
    printed = capfd.readouterr().err
    assert "4 images can't be read and are skipped: " in printed
    listed = {
        Path(line["file"]).relative_to(data).as_posix(): line for line in runs.json_lines(run / "bad-images.jsonl")
    }
    assert listed.keys() == broken.keys()
    for name, reason in broken.items():
        assert reason in listed[name]["reason"]
        assert listed[name]["split"] == name.split("/")[0]
        assert listed[name]["used"] is False
    planned = json.loads((run / "plan.json").read_text())
    assert planned["data"] == {"train": 10, "val": 4}
    assert planned["bad_images"] == 4
    assert main(["evaluate", str(run), "--split", "val", "--json"]) == 0
    messages = capfd.readouterr()
    assert "changed" not in messages.err
    assert json.loads(messages.out)["images"] == 4


def test_a_hold_out_split_stays_the_same_when_a_file_breaks(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"a": 10, "b": 10})
    before = plan(data, tmp_path).splits
    assert before.train is not None
    assert before.val is not None
    gone = before.train.names[3]
    (data / gone).write_bytes(b"")
    after = plan(data, tmp_path, on_bad_image="skip").splits
    assert after.train is not None
    assert after.val is not None
    assert list(after.val.names) == list(before.val.names)
    assert list(after.train.names) == [name for name in before.train.names if name != gone]


def test_images_that_are_not_used_may_be_broken(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    used = plan(data, tmp_path, train_samples=4).splits.train
    assert used is not None
    unused = next(p for p in sorted((data / "train" / "a").iterdir()) if f"train/a/{p.name}" not in used.names)
    unused.write_bytes(b"")
    assert plan(data, tmp_path, train_samples=4).findings.bad == ()


def test_a_class_without_a_readable_image_is_an_error(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    for file in (data / "val" / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(RequestError, match=r"val split: no image of class 'b' can be read"):
        plan(data, tmp_path, on_bad_image="skip")


def test_an_image_of_another_kind_than_its_name_says_is_used_and_listed(
    image_folder: MakeFolder, tmp_path: Path
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    Image.effect_noise((40, 32), 50).convert("RGB").save(data / "train/a/0001.png", "JPEG")
    decided = plan(data, tmp_path)
    outcome = ftkit.train(decided)
    (line,) = runs.json_lines(outcome.run.bad_images)
    assert line == {
        "split": "train",
        "file": str(data / "train/a/0001.png"),
        "reason": "named .png, but its content is JPEG",
        "used": True,
        "during_run": False,
    }
    assert any("1 image with a wrong extension" in note for note in decided.notes)


def test_a_damaged_colour_profile_is_reported_and_listed(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    file = data / "train/a/0001.png"
    Image.effect_noise((40, 32), 50).convert("RGB").save(file, icc_profile=b"what is this?")
    decided = plan(data, tmp_path)
    [bad] = decided.findings.bad
    assert (bad.file, bad.used, bad.reason) == (str(file), True, "its colour profile is damaged, and ignored")
    assert any(note.startswith("1 image read without the colour profile: ") for note in decided.notes)


def test_whole_data_leaves_no_list(image_folder: MakeFolder, tmp_path: Path) -> None:
    outcome = ftkit.train(plan(image_folder(tmp_path / "data", LAYOUT), tmp_path / "runs"))
    assert not outcome.run.bad_images.exists()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rewrite(file: Path, content: bytes, mtime_ns: int) -> None:
    file.write_bytes(content)
    os.utime(file, ns=(mtime_ns, mtime_ns))


def test_a_file_is_read_again_when_it_changes_whatever_its_size_and_time(
    image_folder: MakeFolder, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    plan(data, tmp_path)
    with monkeypatch.context() as patch:
        inside.forbid_image_scans(patch)
        plan(data, tmp_path)
    file = data / "train/a/0001.png"
    was = file.stat()
    rewrite(file, bytes(was.st_size), was.st_mtime_ns)
    with pytest.raises(RequestError, match=r"a/0001\.png: not an image"):
        plan(data, tmp_path)


def test_a_bad_file_that_is_mended_is_seen_whatever_its_time(
    image_folder: MakeFolder, tmp_path: Path, cache: Path
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    file = data / "train/a/0001.png"
    good, was = file.read_bytes(), file.stat()
    rewrite(file, bytes(was.st_size), was.st_mtime_ns)
    with pytest.raises(RequestError, match=r"a/0001\.png"):
        plan(data, tmp_path)
    rewrite(file, good, was.st_mtime_ns)
    assert plan(data, tmp_path).findings.bad == ()


def test_without_a_cache_one_note_reports_it(
    image_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "file"))
    (note,) = [note for note in plan(data, tmp_path).notes if "isn't cached" in note]
    assert str(tmp_path / "file") in note


def test_a_damaged_scan_cache_is_reported_once_and_replaced(
    image_folder: MakeFolder, tmp_path: Path, cache: Path
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    plan(data, tmp_path)
    (memory,) = cache.iterdir()
    memory.write_bytes(b"no database" * 1000)
    assert sum("isn't cached" in note for note in plan(data, tmp_path).notes) == 1
    assert not any("isn't cached" in note for note in plan(data, tmp_path).notes)
    assert rows(memory) == 18


def test_the_scan_cache_is_limited_and_loses_the_least_recently_used(
    image_folder: MakeFolder, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.limit_scan_cache(monkeypatch, 30)
    first, second = (image_folder(tmp_path / name, LAYOUT) for name in ("first", "second"))
    plan(first, tmp_path)
    (memory,) = cache.iterdir()
    with closing(sqlite3.connect(memory)) as database, database:
        database.execute("update images set used = used - 10 * 86400")
    plan(second, tmp_path)
    assert rows(memory) == 30
    with monkeypatch.context() as patch:
        inside.forbid_image_scans(patch)
        plan(second, tmp_path)


def test_many_plans_at_once_share_one_scan_cache(image_folder: MakeFolder, tmp_path: Path, cache: Path) -> None:
    folders = [image_folder(tmp_path / f"data{i}", LAYOUT) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda data: plan(data, tmp_path), folders))
    assert not any("isn't cached" in note for one in plans for note in one.notes)
    assert rows(next(cache.iterdir())) == 8 * 18


def rows(memory: Path) -> int:
    with closing(sqlite3.connect(memory)) as database:
        return int(database.execute("select count(*) from images").fetchone()[0])


class Breaks(Listener):
    """After a step, files turn into junk, as on a failing disk."""

    def __init__(self, files: Sequence[Path], after: int = 1) -> None:
        self.files, self.left = files, after
        self.notes: list[str] = []

    def step_done(self, event: StepDone) -> None:
        self.left -= 1
        if self.left == 0:
            for file in self.files:
                file.write_bytes(b"junk")

    def note(self, text: str) -> None:
        self.notes.append(text)


class BreaksAndStops(Breaks):
    def step_done(self, event: StepDone) -> None:
        super().step_done(event)
        if self.left == -2:
            os.kill(os.getpid(), signal.SIGTERM)


LATE = {"epochs": 3, "batch_size": 4, "on_bad_image": "skip", "augment": "standard"}


def test_a_file_that_breaks_later_is_named_and_ends_the_run(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    victim = data / "train/a/0001.png"
    with pytest.raises(FtkitError, match=r"train/a/0001\.png: not an image"):
        ftkit.train(plan(data, tmp_path, **LATE | {"on_bad_image": "error"}), Breaks([victim]))


def test_a_file_that_breaks_later_is_left_out_listed_and_reported_once(
    image_folder: MakeFolder, tmp_path: Path
) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    broken = [data / "train/a/0001.png", data / "val/b/0001.png"]
    listener = Breaks(broken)
    outcome = ftkit.train(plan(data, tmp_path, **LATE), listener)
    listed = {line["file"]: line for line in runs.json_lines(outcome.run.bad_images)}
    assert listed.keys() == {str(file) for file in broken}
    assert all(line["during_run"] and not line["used"] for line in listed.values())
    assert {line["split"] for line in listed.values()} == {"train", "val"}
    for file in broken:
        assert sum(str(file) in note for note in listener.notes) == 1
    last = outcome.records[-1]
    assert last["train_accuracy"] * 11 == pytest.approx(round(last["train_accuracy"] * 11)), "of 12 images, 11 are left"
    assert last["val_accuracy"] * 5 == pytest.approx(round(last["val_accuracy"] * 5))


def test_a_run_that_leaves_files_out_resumes_to_the_same_end(image_folder: MakeFolder, tmp_path: Path) -> None:
    """What was left out from the start stays so, and nothing else: the order of the images must not change."""
    weights = []
    for name, listener in (("whole", Breaks), ("cut", BreaksAndStops)):
        data = image_folder(tmp_path / name, LAYOUT)
        (data / "train/b/0003.png").write_bytes(b"")
        decided = plan(data, tmp_path / "runs", name=name, **LATE)
        with pytest.raises(RunInterrupted) if name == "cut" else nullcontext():
            ftkit.train(decided, listener([data / "train/a/0001.png"]))
        if name == "cut":
            resume(tmp_path / "runs" / name)
        weights.append((tmp_path / "runs" / name / "last" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_batches_that_lose_all_their_images_are_passed_over(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", LAYOUT)
    broken = sorted((data / "train").rglob("*.*"))[::2]
    outcome = ftkit.train(plan(data, tmp_path, **LATE | {"batch_size": 2}), Breaks(broken))
    assert outcome.records[-1]["epoch"] == 3
    assert len(runs.json_lines(outcome.run.bad_images)) == len(broken)
