"""Data that is read through a connection made at the first image, as SQLite's: it trains by default settings."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit import Listener, RunStarted
from ftkit.testing import ContractError, Project, check_dataset, draw_image, make_project
from tests.conftest import RunFtkit
from tests.runs import BASE, json_lines, records

PLUGIN = r'''
import io, os, sqlite3, threading
from collections.abc import Mapping
from dataclasses import dataclass
from ftkit.api import Dataset, Split, Splits, hookimpl

class Opens:
    """Connects at the first image, in whichever thread and process that is."""

    def __init__(self, path, rows):
        self.path, self.rows, self.connection, self.process = path, rows, None, None

    def __getstate__(self):
        return {"path": self.path, "rows": self.rows, "connection": None, "process": None}

    def __call__(self, index):
        from PIL import Image

        if self.connection is None:
            self.connection, self.process = sqlite3.connect(self.path), os.getpid()
        if self.process != os.getpid():
            raise RuntimeError("a connection was carried over a fork")
        (content,) = self.connection.execute("select content from photos where id = ?", (self.rows[index],)).fetchone()
        if content == b"broken":
            raise ValueError("the record is broken")
        return Image.open(io.BytesIO(content))

@dataclass(frozen=True)
class Photos(Dataset):
    """Photographs in a database.

    Attributes:
        path: The file.
    """

    path: str = "photos.sqlite3"

    def load(self):
        with sqlite3.connect(self.path) as connection:
            found = connection.execute("select id, label, split from photos order by id").fetchall()
        splits = {}
        for split in ("train", "val"):
            mine = [(number, label) for number, label, where in found if where == split]
            rows = [number for number, _ in mine]
            names = [f"photo-{number}" for number in rows]
            splits[split] = Split(names, [label for _, label in mine], Opens(self.path, rows))
        return Splits(("ants", "bees"), splits["train"], splits["val"])

@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    return {"photos": Photos}
'''
LINE = ("--dataset", "own/photos", "--backbone", "cifar_resnet20", "--weights", "none", "--image-size", "32")
FLAGS = ("--epochs", "2", "--batch-size", "8", "--strategy", "freeze", "--no-probe")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    Path("own.py").write_text(PLUGIN)
    Path("ftkit.yaml").write_text("plugins: [./own.py]\n")
    with sqlite3.connect("photos.sqlite3") as connection:
        connection.execute("create table photos (id integer primary key, label integer, split text, content blob)")
        for number in range(96):
            draw_image(number % 2, (32, 32), f"{number}").save(content := io.BytesIO(), "PNG")
            split = "val" if number >= 72 else "train"
            row = (number, number % 2, split, content.getvalue())
            connection.execute("insert into photos values (?, ?, ?, ?)", row)
    return make_project(tmp_path, {})


def break_records(*numbers: int) -> None:
    with sqlite3.connect("photos.sqlite3") as connection:
        for number in numbers:
            connection.execute("update photos set content = ? where id = ?", (b"broken", number))


def test_it_trains_by_default_settings(project: Project) -> None:
    """Cached and not, with worker processes that are forked after images were opened."""
    done = project.run("train", *LINE, *FLAGS, "--name", "run", "-q")
    assert done.returncode == 0, done.stderr
    assert records("run")[-1]["epoch"] == 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--workers", "2", "--no-cache"),
        (
            "--workers",
            "0",
        ),
        ("--strategy", "full"),
    ],
)
def test_it_trains_with_workers_and_without_the_cache(
    flags: tuple[str, ...], project: Project, run_ftkit: RunFtkit
) -> None:
    done = run_ftkit("train", *LINE, *FLAGS, "--name", "run", "-q", "--on-bad-image", "skip", *flags)
    assert done.returncode == 0, done.stderr
    evaluated = run_ftkit("evaluate", "runs/run", "--json")
    assert evaluated.returncode == 0, evaluated.stderr


def test_broken_records_are_left_out_counted_and_listed(project: Project, run_ftkit: RunFtkit) -> None:
    break_records(3, 90)
    refused = run_ftkit("train", *LINE, *FLAGS, "--name", "refused", "-q")
    assert refused.returncode == 1
    assert "photo-3" in refused.stderr
    assert "ValueError: the record is broken" in refused.stderr
    skip = ("--on-bad-image", "skip")
    done = run_ftkit("train", *LINE, *FLAGS, *skip, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "2 images can't be read and are skipped: photo-3: " in " ".join(done.stderr.split())
    listed = json_lines(Path("runs") / "run" / "bad-images.jsonl")
    assert [(bad["split"], bad["file"], bad["used"], bad["during_run"]) for bad in listed] == [
        ("train", "photo-3", False, False), ("val", "photo-90", False, False),
    ]  # fmt: skip
    assert "the record is broken" in listed[0]["reason"]
    evaluated = json.loads(run_ftkit("evaluate", "runs/run", "--json").stdout)
    assert sum(map(sum, evaluated["confusion"])) == 23
    assert run_ftkit("compare", "runs/run", "runs/run/last", "--json").returncode == 0
    advised = run_ftkit("advise", *LINE[:-2], "--image-size", "32", *skip)
    assert advised.returncode == 0, advised.stderr


def test_records_that_break_later_are_left_out_of_the_pass_for_the_cache(
    project: Project,
) -> None:
    class Breaks(Listener):
        def started(self, event: RunStarted) -> None:
            break_records(5)

    dataset = {"name": "own/photos"}
    settings: dict[str, Any] = {"preprocessing": {"size": 32}, "batch_size": 8, "strategy": "freeze", "probe": False}
    ftkit.train(ftkit.plan(dataset=dataset, on_bad_image="skip", name="run", **(BASE | settings)), Breaks())
    (listed,) = json_lines(Path("runs") / "run" / "bad-images.jsonl")
    assert (listed["file"], listed["during_run"]) == ("photo-5", True)


def dataset(plugin: str) -> Any:
    """The plugin's dataset, in a module that can be found when its objects are sent to other processes."""
    module = types.ModuleType("own_lazy")
    sys.modules["own_lazy"] = module
    exec(compile(plugin, "own_lazy.py", "exec"), module.__dict__)
    return module.Photos(str(Path("photos.sqlite3").absolute()))


def test_the_contract_tries_threads_and_forks(project: Project) -> None:
    check_dataset(dataset(PLUGIN), opened=3)
    shared = PLUGIN.replace("class Opens:", "CONNECTION = None\n\nclass Opens:")
    shared = shared.replace(
        "        from PIL import Image\n", "        global CONNECTION\n        from PIL import Image\n"
    )
    shared = shared.replace("self.connection is None", "CONNECTION is None").replace(
        "if self.process !=", "if False and 1 !="
    )
    shared = shared.replace("self.connection, self.process = sqlite3", "CONNECTION, self.process = sqlite3")
    shared = shared.replace("self.connection.execute", "CONNECTION.execute")
    with pytest.raises(ContractError, match=r"opening it in a thread raised ProgrammingError"):
        check_dataset(dataset(shared), opened=3)
    carried = shared.replace("connect(self.path)", "connect(self.path, check_same_thread=False)")
    carried = carried.replace("if False and 1 != os.getpid()", "if FIRST != os.getpid()")
    carried = carried.replace("CONNECTION = None\n\n", "CONNECTION, FIRST = None, os.getpid()\n\n")
    with pytest.raises(
        ContractError, match=r"in a process forked after an image was opened: RuntimeError: a connection was carried"
    ):
        check_dataset(dataset(carried), opened=3)
