"""A run that was stopped ends with the very bytes of one that wasn't."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ftkit
from ftkit import resume
from ftkit.errors import RequestError, RunInterrupted
from tests import inside
from tests.conftest import MakeFolder
from tests.runs import Notes, newest_checkpoint, planner, result
from tests.stopping import StopAt

planned = planner(name="run", epochs=4, augment="standard", optimizer={"name": "adamw", "lr": 0.01})

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "in the first epoch": ({"strategy": "gradual"}, 1),
    "at a thaw": ({"strategy": "gradual"}, 4),
    "just after a thaw": ({"strategy": "gradual"}, 5),
    "in the middle of accumulated epochs": ({"strategy": "full", "accumulate": 2, "batch_size": 4}, 4),
    "under momentum and one-cycle": (
        {"strategy": "discriminative", "optimizer": {"name": "sgd", "momentum": 0.9}, "lr_curve": "one-cycle"},
        6,
    ),
    "while patience runs": ({"strategy": "freeze", "patience": 2, "epochs": 8, "optimizer": {"lr": 1e-9}}, 9),
    "while patience runs in the second phase": (
        {
            "strategy": {"name": "freeze-unfreeze", "unfreeze_epoch": 2},
            "patience": 2,
            "epochs": 9,
            "optimizer": {"lr": 1e-9},
        },
        19,
    ),
    "with every means on": (
        {
            "strategy": "gradual",
            "augment": {"name": "strong", "rotate": 10, "brightness": 0.2, "hue": 0.1},
            "label_smoothing": 0.1,
            "clip_grad": 0.5,
            "group_lr": {"layer3": 0.002},
            "balance": "sampler",
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        },
        7,
    ),
    "after a thaw in 16 bits": ({"strategy": "gradual", "precision": "bf16"}, 6),
    "with plain numbers in the optimizer's state": ({"strategy": "scratch", "optimizer": "nadam"}, 7),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 9, "b": 9, "c": 9}, "val": {"a": 4, "b": 4, "c": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


MORE = ("just after a thaw", "under momentum and one-cycle", "with plain numbers in the optimizer's state")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.long) if c in MORE else c for c in CASES])
def test_stopped_and_resumed_equals_never_stopped(case: str, data: Path, tmp_path: Path) -> None:
    settings, step = CASES[case]
    ftkit.train(planned(data, tmp_path / "whole", **settings))
    with pytest.raises(RunInterrupted) as caught:
        ftkit.train(planned(data, tmp_path / "cut", **settings), StopAt(step))
    assert caught.value.exit_code == 128 + signal.SIGTERM
    resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run") == result(tmp_path / "whole" / "run")


def test_two_interruptions_in_one_epoch_equal_none(data: Path, tmp_path: Path) -> None:
    ftkit.train(planned(data, tmp_path / "whole"))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut"), StopAt(6))
    with pytest.raises(RunInterrupted):
        resume(tmp_path / "cut" / "run", StopAt(2))
    resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run") == result(tmp_path / "whole" / "run")


def test_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        ftkit.train(planned(data, tmp_path / str(workers), workers=workers))
    assert result(tmp_path / "0" / "run") == result(tmp_path / "2" / "run")


def test_the_comparison_can_fail(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a resume that starts its epoch anew ends elsewhere."""
    ftkit.train(planned(data, tmp_path / "whole"))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut"), StopAt(6))
    inside.start_epochs_over(monkeypatch)
    resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run")[0] != result(tmp_path / "whole" / "run")[0]


def test_a_damaged_newest_checkpoint_costs_only_the_work_since_the_one_before(data: Path, tmp_path: Path) -> None:
    ftkit.train(planned(data, tmp_path / "whole"))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut"), StopAt(8))
    newest = newest_checkpoint(tmp_path / "cut" / "run") / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    resume(tmp_path / "cut" / "run", listener := Notes())
    assert any("model.safetensors" in note for note in listener.notes)
    assert result(tmp_path / "cut" / "run") == result(tmp_path / "whole" / "run")


def test_a_damaged_file_of_the_first_weights_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, weight_averaging=False), StopAt(8))
    first = tmp_path / "run" / "first" / "model.safetensors"
    whole = first.read_bytes()
    for content, says in ((whole[:-1], "can't be read"), (None, "is missing")):
        first.unlink() if content is None else first.write_bytes(content)
        with pytest.raises(RequestError, match=rf"first/model.safetensors {says}"):
            resume(tmp_path / "run")
    first.write_bytes(whole)
    resume(tmp_path / "run")


def test_frozen_groups_stay_byte_identical_buffers_included(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = {"name": "freeze-unfreeze", "unfreeze_epoch": 2}
    made = planned(data, tmp_path, strategy=strategy, epochs=3, checkpoint={"min_seconds": 0})
    seen: list[dict[str, torch.Tensor]] = []

    def watch(state: Mapping[str, torch.Tensor]) -> None:
        seen.append({k: v.clone() for k, v in state.items() if not k.startswith(("fc.", "linear."))})

    inside.watch_checkpoints(monkeypatch, watch)
    ftkit.train(made)
    first, second, third = seen
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(second[k], third[k]) for k in first)
    assert any("running_mean" in k for k in first)


def test_learning_rates_on_record_are_those_of_the_plan(data: Path, tmp_path: Path) -> None:
    made = planned(data, tmp_path, strategy={"name": "gradual", "every": 1, "decay": 0.1}, epochs=3)
    outcome = ftkit.train(made)
    for epoch, record in enumerate(outcome.records):
        last_step = (epoch + 1) * made.batches.steps - 1
        assert record["lr"] == made.learning_rates(last_step)
    assert [list(r["lr"]) for r in outcome.records] == [["head"], ["layer3", "head"], ["layer2", "layer3", "head"]]


def test_a_finished_run_has_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    ftkit.train(planned(data, tmp_path, epochs=1, strategy="freeze"))
    with pytest.raises(RequestError, match="is finished"):
        resume(tmp_path / "run")


def test_changed_data_is_refused(image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 9, "b": 9}, "val": {"a": 2, "b": 2}})
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path), StopAt(1))
    (data / "train" / "a" / "0000.jpg").unlink()
    with pytest.raises(RequestError, match="its data has changed"):
        resume(tmp_path / "run")


def test_a_number_of_processes_that_somebody_wrote_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, strategy="freeze"), StopAt(1))
    (place,) = (tmp_path / "run" / "checkpoints").glob("e*")
    manifest = json.loads((place / "MANIFEST.json").read_text())
    for world, says in ((2, "the run had 2 processes"), (0, "world was 0"), (False, "world was False")):
        state = json.loads((place / "state.json").read_text())
        state["identity"]["world"] = world
        (place / "state.json").write_text(json.dumps(state, indent=1))
        content = (place / "state.json").read_bytes()
        manifest["state.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        (place / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
        with pytest.raises(RequestError, match=says):
            resume(tmp_path / "run")


def test_the_saved_config_starts_the_same_run_again(data: Path, tmp_path: Path) -> None:
    ftkit.train(planned(data, tmp_path, strategy="gradual"))
    again = ftkit.train(ftkit.plan(tmp_path / "run" / "config.yaml"))
    first, second = (load_file(r / "last" / "model.safetensors") for r in (tmp_path / "run", again.run.path))
    assert again.run.path != tmp_path / "run"
    assert all(torch.equal(first[k], second[k]) for k in first)
