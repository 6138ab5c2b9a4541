"""Checkpoints are whole or not at all, and a damaged one is never used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftkit.errors import FtkitError, RequestError
from ftkit.runs.checkpoint import load_checkpoint, save_checkpoint
from ftkit.runs.checkpoint_files import Progress, State

FROZEN = {"stem": torch.tensor([0.0, float("nan"), 2.0]), "seen": torch.tensor(7)}


def state(epoch: int, step: int = 0) -> State:
    return State(
        progress=Progress(epoch=epoch, step=step, loss_sum=0.1 + 0.2, seen=7),
        identity={"seed": 3},
        model={"weight": torch.full((2, 3), float(epoch)), "count": torch.tensor(epoch), **FROZEN},
        optimizer={0: {"step": torch.tensor(4.0), "exp_avg": torch.ones(2, 3)}, 1: {"mu": 0.25, "buffer": None}},
        scaler={},
        frozen=frozenset(FROZEN),
        callbacks={"lab/mine": {"steps": 3, "rows": [{"mean": torch.ones(2)}, 0.1 + 0.2, None]}},
    )


def rewrite_state(checkpoint: Path, text: str) -> None:
    """Put another state into a checkpoint, with the hash that goes with it."""
    (checkpoint / "state.json").write_text(text)
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    manifest["state.json"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "size": len(text.encode())}
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(3, step=12), keep=2)
    loaded, damaged = load_checkpoint(tmp_path)
    assert damaged == ()
    assert loaded.progress == state(3, step=12).progress
    assert loaded.identity == {"seed": 3}
    assert torch.equal(loaded.model["weight"], torch.full((2, 3), 3.0))
    assert loaded.model["stem"].numpy().tobytes() == FROZEN["stem"].numpy().tobytes()
    assert loaded.model["seen"] == 7
    assert torch.equal(loaded.optimizer[0]["exp_avg"], torch.ones(2, 3))
    assert loaded.optimizer[1] == {"mu": 0.25, "buffer": None}
    rows = loaded.callbacks["lab/mine"]["rows"]
    assert torch.equal(rows[0]["mean"], torch.ones(2))
    assert (loaded.callbacks["lab/mine"]["steps"], rows[1:]) == (3, [0.1 + 0.2, None])


def test_the_newest_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    for epoch in range(5):
        save_checkpoint(tmp_path, state(epoch), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "e0003-s00000", "e0004-s00000"]
    assert (tmp_path / "LATEST").read_text() == "e0004-s00000"


def inode(checkpoint: Path) -> int:
    return (checkpoint / "frozen.safetensors").stat().st_ino


def test_what_is_frozen_is_written_twice_and_neighbours_share_no_file(tmp_path: Path) -> None:
    files = [inode(save_checkpoint(tmp_path, state(epoch), keep=2)) for epoch in range(6)]
    assert len(set(files)) == 2
    assert files[::2] == [files[0]] * 3


@pytest.mark.parametrize("changed", [torch.tensor([-0.0, float("nan"), 2.0]), torch.tensor([0.0, 1.0])])
def test_what_was_expected_to_stay_is_written_anew_where_it_did_not(tmp_path: Path, changed: torch.Tensor) -> None:
    for epoch in range(3):
        save_checkpoint(tmp_path, state(epoch), keep=2)
    now = state(3)
    save_checkpoint(tmp_path, replace(now, model={**now.model, "stem": changed}), keep=2)
    loaded, damaged = load_checkpoint(tmp_path)
    assert (damaged, loaded.progress.epoch) == ((), 3)
    assert loaded.model["stem"].numpy().tobytes() == changed.numpy().tobytes()


def test_a_damaged_file_of_what_is_frozen_is_not_taken_over(tmp_path: Path) -> None:
    for epoch in range(3):
        newest = save_checkpoint(tmp_path, state(epoch), keep=3)
    spare = newest.with_name("e0001-s00000") / "frozen.safetensors"
    spare.write_bytes(spare.read_bytes()[:-1] + b"?")
    save_checkpoint(tmp_path, state(3), keep=3)
    assert load_checkpoint(tmp_path)[1] == ()


def test_where_a_file_cant_have_two_names_it_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for epoch in range(4):
        save_checkpoint(tmp_path, state(epoch), keep=2)
    assert load_checkpoint(tmp_path)[0].progress.epoch == 3


@pytest.mark.parametrize(
    "name", ["model.safetensors", "frozen.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, name: str, damage: str) -> None:
    for epoch in range(2):
        save_checkpoint(tmp_path, state(epoch), keep=2)
    newest = save_checkpoint(tmp_path, state(2), keep=2)
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    if damage == "remove":
        (newest / name).unlink()
    else:
        (newest / name).write_bytes(content if damage == "flip" else content[: len(content) // 2])
    loaded, damaged = load_checkpoint(tmp_path)
    assert loaded.progress.epoch == 1
    assert len(damaged) == 1
    assert str(newest) in damaged[0]


def test_none_whole_is_an_error_that_names_the_damaged_one(tmp_path: Path) -> None:
    newest = save_checkpoint(tmp_path, state(2), keep=2)
    (newest / "state.json").write_text("{}")
    with pytest.raises(RequestError, match=r"no whole checkpoint .*state\.json"):
        load_checkpoint(tmp_path)


def test_what_a_kill_left_behind_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state(1), keep=2)
    (tmp_path / ".tmp-e0002-s00000").mkdir()
    (tmp_path / ".tmp-e0002-s00000" / "model.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path)[0].progress.epoch == 1


def test_no_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no checkpoint in"):
        load_checkpoint(tmp_path / "checkpoints")


def test_a_full_disk_keeps_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, state(1), keep=2)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftkit.runs.checkpoint_files.save_tensors", full)
    with pytest.raises(FtkitError, match="No space left on device"):
        save_checkpoint(tmp_path, state(2), keep=1)
    assert load_checkpoint(tmp_path)[0].progress.epoch == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


def test_steps_are_counted_and_not_spelt(tmp_path: Path) -> None:
    for step in (99_999, 100_000, 100_001):
        save_checkpoint(tmp_path, state(0, step), keep=2)
    assert load_checkpoint(tmp_path)[0].progress.step == 100_001
    assert {p.name for p in tmp_path.glob("e*")} == {"e0000-s100000", "e0000-s100001"}


def test_a_damaged_newer_one_never_pushes_out_a_whole_one(tmp_path: Path) -> None:
    """It is further on than where the resumed run writes next, so that by name it would stay the newest."""
    for epoch in (1, 2):
        newest = save_checkpoint(tmp_path, state(epoch), keep=2)
    (newest / "state.json").write_text("{}")
    save_checkpoint(tmp_path, state(1, step=5), keep=1)
    loaded, damaged = load_checkpoint(tmp_path)
    assert (loaded.progress.epoch, loaded.progress.step) == (1, 5)
    assert damaged == ()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "MANIFEST.json"])
def test_a_manifest_names_the_three_files_alone(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, state(1), keep=2)
    newest = save_checkpoint(tmp_path, state(2), keep=2)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((newest / "MANIFEST.json").read_text())
    manifest[name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    (newest / "MANIFEST.json").write_text(json.dumps(manifest))
    loaded, damaged = load_checkpoint(tmp_path)
    assert loaded.progress.epoch == 1
    assert "MANIFEST.json isn't what ftkit wrote" in damaged[0]


STATES = [
    "[]",
    "null",
    '{"format": "x"}',
    '{"format": 1, "progress": {"epoch": 1, "speed": 9}}',
    '{"format": 1, "progress": {}, "identity": 3, "optimizer": {}, "scaler": {}}',
    '{"format": 1, "progress": {}, "identity": {}, "optimizer": {"one": {}}, "scaler": {}}',
]


@pytest.mark.parametrize("text", STATES)
def test_a_state_that_somebody_wrote_is_one_line(tmp_path: Path, text: str) -> None:
    """Its hash is right, so that what is in it must be read with care."""
    newest = save_checkpoint(tmp_path, state(2), keep=2)
    rewrite_state(newest, text)
    with pytest.raises(FtkitError, match="not a checkpoint that ftkit wrote") as caught:
        load_checkpoint(tmp_path)
    assert str(newest) in str(caught.value)


def test_a_checkpoint_from_before_versions_were_noted_is_read(tmp_path: Path) -> None:
    newest = save_checkpoint(tmp_path, state(2), keep=2)
    content = json.loads((newest / "state.json").read_text())
    del content["versions"]
    text = json.dumps(content)
    rewrite_state(newest, text)
    assert load_checkpoint(tmp_path)[0].versions == {}


def test_a_checkpoint_of_format_2_gives_the_callbacks_their_state(tmp_path: Path) -> None:
    """Until then the best epoch and early stopping were part of the progress."""
    place = save_checkpoint(tmp_path, replace(state(3), callbacks={}, identity={"seed": 3, "epochs": 9}), keep=2)
    content = json.loads((place / "state.json").read_text())
    del content["callbacks"]
    old = {"best": 0.5, "best_epoch": 2, "waited": 1, "patience_best": 0.4, "skipped": 0}
    rewrite_state(place, json.dumps({**content, "format": 2, "progress": {**content["progress"], **old}}))
    loaded, _ = load_checkpoint(tmp_path)
    assert loaded.progress == state(3).progress
    assert loaded.callbacks["best_epoch"] == {"value": 0.5, "epoch": 2}
    assert loaded.callbacks["early_stopping"] == {"waited": 1, "best": 0.4, "epochs": 9}


@pytest.mark.parametrize("value", [float("nan"), {3: "three"}, object()])
def test_a_state_that_cannot_be_saved_is_refused_with_the_callbacks_name(value: object, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the state of callback 'lab/mine' has"):
        save_checkpoint(tmp_path, replace(state(1), callbacks={"lab/mine": {"value": value}}), keep=1)
