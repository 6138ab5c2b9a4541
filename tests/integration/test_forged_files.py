"""Checkpoints and model cards with valid digests but content that ftkit can't have written: refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import RunInterrupted
from tests.conftest import MakeFolder, typed
from tests.stopping import StopAt

MISSING = object()
SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "none",
    "epochs": 3,
    "workers": 0,
    "patience": 3,
    "on_nan": "skip",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """A stopped run `stopped`, and a finished multi-label run `done`."""
    place = tmp_path_factory.mktemp("forged")
    data = image_folder(place / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 3, "b": 3}})
    folder = {"name": "folder", "root": str(data)}
    with pytest.raises(RunInterrupted):
        ftkit.train(ftkit.plan(dataset=folder, output=str(place / "runs"), name="stopped", **SETTINGS), StopAt(2))
    rows = [f"{path.relative_to(place)},{path.parent.name}|big" for path in sorted(data.rglob("*.png"))]
    (place / "labels.csv").write_text("\n".join(["path,label", *rows]))
    table = {"name": "csv", "path": str(place / "labels.csv"), "separator": "|"}
    ftkit.train(ftkit.plan(dataset=table, output=str(place / "runs"), name="done", **SETTINGS | {"epochs": 1}))
    return place


def changed(content: Any, at: tuple[str, ...], value: object) -> Any:
    copy = inner = json.loads(json.dumps(content))
    for part in at[:-1]:
        inner = inner[part]
    if value is MISSING:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("best_epoch",), MISSING),
        (("best_epoch",), {}),
        (("best_epoch", "epoch"), 10**20),
        (("best_epoch", "last_decision"), [1]),
        (("early_stopping",), MISSING),
        (("early_stopping", "best"), MISSING),
        (("nan_guard", "skipped"), "many"),
    ],
)
def test_an_invalid_callback_state_is_refused(place: Path, at: tuple[str, ...], value: object) -> None:
    run = place / "runs" / "forged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(place / "runs" / "stopped", run)
    checkpoint = max((run / "checkpoints").glob("e*"))
    state = changed(json.loads((checkpoint / "state.json").read_text()), ("callbacks", *at), value)
    state["progress"]["epoch"] = max(1, state["progress"]["epoch"])
    written = json.dumps(state).encode()
    (checkpoint / "state.json").write_bytes(written)
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    manifest["state.json"] = {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
    done = typed("train", "--resume", str(run), "--quiet", cwd=place)
    assert done.returncode == 1, done.stderr
    assert "error: " in done.stderr
    assert "forged" in done.stderr
    assert "checkpoint" in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (("task", "name"), MISSING, "task has no name"),
        (("task", "name"), 3, "task has no name"),
        (("task", "tune_thresholds"), "perhaps", "tune_thresholds"),
        (("task", "other"), 1, "other"),
        (("decision", "thresholds"), "half", "decision.thresholds"),
        (("decision", "thresholds"), [0.5], "decision.thresholds"),
        (("decision", "thresholds"), [0.5, None, 0.5], "decision.thresholds"),
    ],
)
def test_a_model_card_with_an_invalid_task_is_refused(
    place: Path, at: tuple[str, ...], value: object, named: str
) -> None:
    forged = place / "forged-model"
    shutil.rmtree(forged, ignore_errors=True)
    shutil.copytree(place / "runs" / "done" / "model", forged)
    card = changed(json.loads((forged / "model.json").read_text()), at, value) | {"sha256": "0" * 64}
    blank = json.dumps(card, indent=2).encode()
    digest = hashlib.sha256(blank).hexdigest().encode()
    (forged / "model.json").write_bytes(blank.replace(b'"' + b"0" * 64 + b'"', b'"' + digest + b'"', 1))
    image = str(next((place / "data" / "val" / "a").iterdir()))
    done = typed("predict", image, "--model", str(forged), cwd=place)
    assert done.returncode == 2, done.stderr
    assert "forged-model" in done.stderr
    assert named in done.stderr
    assert "internal error" not in done.stderr
