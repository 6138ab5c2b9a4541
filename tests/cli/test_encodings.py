"""Output for programs is the same in every locale, and undecodable file names have one defined form."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftkit.cli.main import main
from tests.conftest import MakeFolder

CLASSES = ("żółw", "日本")
RAW = "日本/ü" + os.fsdecode(b"\xff") + ".png"
ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")
STARTED = [sys.executable, "-m", "ftkit"]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A folder with data and a run, trained in a process whose locale is plain C."""
    place = tmp_path_factory.mktemp("été")
    each = dict.fromkeys(CLASSES, 4)
    image_folder(place / "données", {"train": each, "val": each, "test": each})
    for split in ("train", "test"):
        first = next((place / "données" / split / "日本").iterdir())
        (place / "données" / split / RAW).write_bytes(first.read_bytes())
    reported = subprocess.run(
        [*STARTED, "train", "--data", "données", "--backbone", "lenet", "--epochs", "1", "--name", "ä", "--json",
         "--weights", "none", "--strategy", "scratch"],
        cwd=place, env=plain(), capture_output=True, check=False,
    )  # fmt: skip
    assert reported.returncode == 0, reported.stderr.decode()
    assert reported.stdout.isascii()
    assert Path(json.loads(reported.stdout)["run"]).name == "ä"
    return place


def plain(**more: str) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", **more}


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[int, bytes]:
    """The output of a command on a stdout with an encoding."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        code = main(list(arguments))
        sys.stdout.flush()
        return code, raw.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "runs/ä"],
        ["compare", "runs/ä", "runs/ä"],
        ["runs", "list"],
        ["runs", "show", "ä"],
        ["plan", "--data", "données", "--backbone", "lenet", "--weights", "none"],
        ["config", "show", "--data", "données"],
        ["advise", "--data", "données", "--backbone", "lenet", "--weights", "none"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_json_is_json(command: list[str], encoding: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inside)
    code, out = printed(monkeypatch, encoding, *command, "--json")
    assert code == 0
    found = out.decode(encoding)
    assert json.loads(found) == json.loads(out), "read as UTF-8, and in the encoding of the stream"
    assert encoding == "utf-8" or out.isascii()
    if command[0] == "evaluate":
        assert [one["name"] for one in json.loads(out)["classes"]] == list(CLASSES)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predictions_preserve_file_names(encoding: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inside)
    files = {str(path) for path in Path("données/test").rglob("*") if path.is_file()}
    arguments = ["predict", "données/test", "--model", "runs/ä"]
    code, out = printed(monkeypatch, encoding, *arguments, "--json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.decode(encoding).splitlines()]
    assert code == 0
    assert {line["file"] for line in lines} == files
    assert any(b"\xff" in os.fsencode(line["file"]) for line in lines)
    assert {line["label"] for line in lines} <= set(CLASSES)
    code, out = printed(monkeypatch, encoding, *arguments, "--format", "csv")
    rows = list(csv.reader(out.decode("utf-8").splitlines()))[1:]
    assert {row[0] for row in rows} == {name.encode("utf-8", "backslashreplace").decode() for name in files}
    code, out = printed(monkeypatch, encoding, *arguments)
    assert code == 0
    assert len(out.splitlines()) == 1 + len(files), "a table for people degrades, and is all there"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_prediction_files_are_utf8_and_can_be_resumed(ending: str, inside: Path, tmp_path: Path) -> None:
    target = tmp_path / f"predictions.{ending}"
    arguments = ["predict", "données/test", "--model", "runs/ä", "--to", str(target)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(inside)
        assert main(arguments) == 0
        if ending == "parquet":
            import pyarrow.parquet

            names = pyarrow.parquet.read_table(target)["file"].to_pylist()
            assert sum(r"\udcff.png" in name for name in names) == 1
            return
        whole = target.read_bytes()
        assert r"ü\udcff.png" in whole.decode("utf-8")
        # Cut within the last predictions, and in the form that earlier versions wrote.
        lines = whole.splitlines(keepends=True)
        for cut in (len(lines) - 1, len(lines) - 4):
            target.write_bytes(b"".join(lines[:cut]))
            assert main([*arguments, "--resume"]) == 0
            assert target.read_bytes() == whole
        if ending == "csv":
            target.write_bytes(b"".join(lines[:-1]).replace(rb"\udcff", b"\xff"))
            assert main([*arguments, "--resume"]) == 0


def test_the_files_of_a_run_are_utf8(inside: Path) -> None:
    run = inside / "runs" / "ä"
    for path in run.iterdir():
        if path.is_file() and path.suffix:
            path.read_text(encoding="utf-8")
    rows = list(csv.reader((run / "splits.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["split", "name", "label"]
    held_out = {(name, label) for split, name, label in rows[1:] if split == "val"}
    assert held_out == {
        (f"val/{path.parent.name}/{path.name}", path.parent.name) for path in (inside / "données/val").rglob("*.*")
    }
    assert sum(split == "train" for split, _, _ in rows[1:]) == 9
    assert [name for _, name, _ in rows[1:] if r"ü\udcff.png" in name] == [
        f"{split}/日本/ü\\udcff.png" for split in ("train", "test")
    ]


def test_a_real_process_in_the_c_locale(inside: Path) -> None:
    reported = subprocess.run(
        [*STARTED, "predict", "données/test", "--model", "runs/ä", "--json"],
        cwd=inside, env=plain(PYTHONIOENCODING="latin-1"), capture_output=True, check=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in reported.stdout.splitlines()]
    assert {line["label"] for line in lines} <= set(CLASSES)
    assert sum(b"\xff" in os.fsencode(line["file"]) for line in lines) == 1
