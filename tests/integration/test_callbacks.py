"""Callbacks of the config: their state in checkpoints, weights that they bring, errors and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ftkit
from ftkit import FtkitError, resume
from ftkit.errors import RequestError, RunInterrupted
from tests import inside
from tests.conftest import MakeFolder, RunFtkit, typed
from tests.runs import plan, result
from tests.stopping import StopAt

NOISE = str(Path(__file__).parents[1] / "noise_plugin.py")
SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "default",
    "epochs": 4,
    "strategy": "gradual",
    "optimizer": {"lr": 0.003},
    "plugins": [NOISE],
}
"""An epoch has 4 steps."""
ALL: list[dict[str, Any]] = [
    {"name": "ema", "decay": 0.8},
    {"name": "l2-sp", "strength": 1.0},
    {"name": "noise-plugin/noise"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 8, "b": 8, "c": 8}, "val": {"a": 4, "b": 4, "c": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def planned(data: Path, output: Path, *callbacks: dict[str, Any], **settings: Any) -> ftkit.Plan:
    return plan(data, output, name="run", callbacks=list(callbacks), **(SETTINGS | settings))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all callbacks that never stopped."""
    return ftkit.train(planned(data, tmp_path_factory.mktemp("whole"), *ALL)).run.path


@pytest.mark.parametrize("step", [2, 4, 9, 14])
def test_a_stopped_run_ends_with_the_same_bytes(step: int, whole: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, *ALL), StopAt(step))
    resume(tmp_path / "run")
    assert result(tmp_path / "run") == result(whole)


def test_a_checkpoint_never_has_the_average_in_place_of_the_weights(
    whole: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while the average is validated."""
    inside.stop_in_evaluation(monkeypatch, "ema", 4)
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, *ALL))
    resume(tmp_path / "run")
    assert result(tmp_path / "run") == result(whole)


def test_a_callback_that_saves_no_state_ends_elsewhere(whole: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, *ALL[:2], {**ALL[2], "forgets": True}), StopAt(9))
    resume(tmp_path / "run")
    assert result(tmp_path / "run") != result(whole)


def test_each_run_of_a_plan_has_callbacks_of_its_own(whole: Path, data: Path, tmp_path: Path) -> None:
    made = planned(data, tmp_path, *ALL)
    ftkit.train(made)
    (tmp_path / "run").rename(tmp_path / "first")
    ftkit.train(made)
    assert result(tmp_path / "run") == result(tmp_path / "first") == result(whole)


def test_the_average_is_the_model_where_it_is_better(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "full", "monitor": "loss", "lr_curve": "constant", "epochs": 3}
    settings |= {"optimizer": {"name": "sgd", "lr": 0.001}, "probe": False}
    swings = {"name": "noise-plugin/noise", "scale": 0, "swing": 5}
    run = ftkit.train(planned(data, tmp_path, swings, {"name": "ema", "decay": 0.9}, **settings))
    for record in run.records:
        better = record["val_ema_loss"] < record["val_loss"]
        assert record["selected_weights"] == ("ema" if better else "trained")
    values = [min(r["val_loss"], r["val_ema_loss"]) for r in run.records]
    assert run.best["epoch"] == 1 + values.index(min(values))
    assert run.best["val_loss"] == min(values)
    card = json.loads((run.run.model / "model.json").read_text())
    assert (card["epoch"], card["metrics"]["val_loss"]) == (run.best["epoch"], min(values))
    assert run.best["selected_weights"] == "ema", "the swings average out"
    shown = typed("runs", "show", str(run.run.path)).stdout
    assert f"best  epoch {run.best['epoch']}: loss {min(values):.4f}\n" in shown
    last = json.loads((run.run.last / "model.json").read_text())["metrics"]
    assert last["val_loss"] == run.records[-1]["val_loss"]
    assert not [name for name in last if "ema" in name]


def test_the_average_is_that_of_the_steps(data: Path, tmp_path: Path) -> None:
    """With frozen layers left alone, and cached activations in use."""
    settings: dict[str, Any] = {"strategy": "freeze", "epochs": 1, "probe": False, "checkpoint": {"every_steps": 1}}
    settings["checkpoint"]["keep"] = 99
    run = ftkit.train(planned(data, tmp_path, {"name": "ema", "decay": 0.5}, **settings)).run
    steps = [load_file(path / "model.safetensors") for path in sorted(run.checkpoints.glob("e*"), key=by_step)]
    first = load_file(run.first / "model.safetensors")
    state = json.loads((run.checkpoints / "e0001-s00000" / "state.json").read_text())["callbacks"]["ema"]
    tensors = load_file(run.checkpoints / "e0001-s00000" / "callbacks.safetensors")
    assert state["steps"] == len(steps) == 4
    for name, place in state["average"].items():
        average = first[name]
        for step, values in enumerate(steps, start=1):
            average = average.lerp(values[name], 1 - min(0.5, (1 + step) / (10 + step)))
        assert torch.allclose(tensors[place["__tensor__"]], average, rtol=1e-5, atol=1e-7)
    assert all(name.startswith("head") for name in state["average"]), list(state["average"])


def by_step(checkpoint: Path) -> tuple[str, int]:
    """A checkpoint at the end of an epoch comes after those within."""
    epoch, step = checkpoint.name.split("-s")
    return (f"e{int(epoch[1:]) - 1:04d}", 10**6) if int(step) == 0 else (epoch, int(step))


def test_l2_sp_keeps_weights_near_the_first_ones(data: Path, tmp_path: Path) -> None:
    drifts = []
    for strength in (None, 1.0, 100.0):
        callbacks = [] if strength is None else [{"name": "l2-sp", "strength": strength}]
        outcome = ftkit.train(planned(data, tmp_path / str(strength), *callbacks, strategy="full", probe=False))
        drifts.append(outcome.records[-1]["weight_drift"]["fc1"])
    assert drifts[0] > drifts[1] > drifts[2] > 0


def test_a_step_of_l2_sp_is_the_decay_after_the_optimizers(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "full", "epochs": 1, "batch_size": 24, "probe": False}
    settings["optimizer"] = {"name": "sgd", "lr": 0.1}
    plain, decayed = (
        ftkit.train(planned(data, tmp_path / str(len(callbacks)), *callbacks, **settings))
        for callbacks in ([], [{"name": "l2-sp", "strength": 20.0}])
    )
    rate = plain.records[0]["lr"]["conv2"]
    before, after = (load_file(each.run.last / "model.safetensors") for each in (plain, decayed))
    first = load_file(plain.run.first / "model.safetensors")
    assert 0 < 20 * rate < 1
    for name, value in first.items():
        expected = before[name] if name.startswith("head") else before[name].lerp(value, 20 * rate)
        assert torch.allclose(after[name], expected, atol=1e-6), name


@pytest.mark.parametrize(
    ("callback", "settings", "says"),
    [
        ({"name": "l2-sp"}, {"weights": "none"}, "l2-sp decays toward the pretrained weights"),
        ({"name": "l2-sp", "strength": 0}, {}, "l2-sp: strength is 0"),
        ({"name": "ema", "decay": 1}, {}, "ema: decay is 1"),
        ({"name": "ema"}, {"fsdp": True}, "callback 'ema' needs whole weights in each process, and --fsdp shards them"),
        (
            {"name": "l2-sp"},
            {"zero_stage": 1},
            "callback 'l2-sp' needs whole weights in each process",
        ),
    ],
)
def test_a_run_that_a_callback_cannot_work_in_is_refused(
    callback: dict[str, Any], settings: dict[str, Any], says: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=says):
        planned(data, tmp_path, callback, **settings)


def test_flags_add_callbacks_and_the_plan_describes_them(data: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    flags = ("--ema", "0.95", "--l2-sp", "0.2", "--backbone", "lenet", "--dry-run")
    done = run_ftkit("train", "--data", str(data), *flags, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["callbacks"] == [
        {"name": "ema", "decay": 0.95},
        {"name": "l2-sp", "strength": 0.2},
    ]
    shown = " ".join(run_ftkit("train", "--data", str(data), *flags, cwd=tmp_path).stdout.split())
    assert "the average of the weights, with decay 0.95, is evaluated after each epoch as val_ema_*" in shown
    refused = run_ftkit("train", "--data", str(data), *flags, "--weights", "none", cwd=tmp_path)
    assert refused.stderr.startswith("error: --ema, --l2-sp: l2-sp decays toward the pretrained weights")


def test_an_error_of_a_callback_names_plugin_part_and_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FtkitError) as raised:
        ftkit.train(planned(data, tmp_path, {"name": "noise-plugin/noise", "fail_at": 2}))
    for part in ("'noise-plugin'", "on_step_end of callback 'noise-plugin/noise'", "as it was asked to", f"{NOISE}:"):
        assert part in raised.value.message


def test_a_callback_ends_the_run_and_adds_numbers_to_its_records(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(planned(data, tmp_path, {"name": "noise-plugin/noise", "stop_after": 2}, probe=False))
    assert [(r["epoch"], r["noise_steps"]) for r in outcome.records] == [(1, 4), (2, 8)]
    assert outcome.stopped_early
