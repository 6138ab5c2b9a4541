"""Names of files and folders that are no UTF-8 text: read, trained on, logged and predicted like any others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml

from tests.conftest import MakeFolder, typed

ODD = os.fsdecode(b"d\xff")
SMALL = ["--backbone", "lenet", "--weights", "none", "--strategy", "scratch", "--epochs", "0", "--device", "cpu"]


def test_data_of_such_names(tmp_path: Path, image_folder: MakeFolder) -> None:
    layout = {"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}}
    image_folder(tmp_path / "even", layout, (8, 8)).rename(tmp_path / ODD)
    odd = tmp_path / ODD / "train" / "a" / os.fsdecode(b"\xfe.png")
    (tmp_path / ODD / "train" / "a" / "0001.png").rename(odd)
    for place in (["--output", f"o{ODD}"], ["--name", f"n{ODD}"]):
        refused = typed("train", "--data", ODD, *SMALL, *place, cwd=tmp_path)
        assert refused.returncode == 2, "weights can't be written there"
        assert "is not UTF-8 text, which files of weights need" in refused.stderr
    assert typed("train", "--data", ODD, *SMALL, "--name", "first", cwd=tmp_path).returncode == 0
    run = tmp_path / "runs" / "first"
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["dataset"]["root"] == str(tmp_path / ODD)
    again = typed("train", "-c", str(run / "config.yaml"), "--name", "again", "--output", "runs", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    done = typed("predict", ODD, "--model", "runs/again/model", "--to", "o.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = [json.loads(line)["file"] for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert str(odd.relative_to(tmp_path)) in files
    assert len(files) == 8


def test_a_project_on_such_data(tmp_path: Path, image_folder: MakeFolder) -> None:
    image_folder(tmp_path / "even", {"a": 3, "b": 3}, (8, 8)).rename(tmp_path / ODD)
    made = typed("init", "p", "--data", ODD, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert yaml.safe_load((tmp_path / "p" / "ftkit.yaml").read_text(encoding="utf-8"))["dataset"]["root"] == str(
        tmp_path / ODD
    )
    assert r"d\xff" in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
