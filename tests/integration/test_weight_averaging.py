"""Averages of weights at the end of a run: what they are, which is kept, and what is recorded of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ftkit
from ftkit import EpochDone, Listener, resume
from ftkit.errors import RequestError, RunInterrupted
from tests import inside
from tests.conftest import MakeFolder, RunFtkit, typed
from tests.models import save_model
from tests.multilabel import planned as planned_multilabel
from tests.multilabel import write_digits
from tests.runs import card, plan, records, result, summary, tensors
from tests.stopping import StopAt

SETTINGS: dict[str, Any] = {"backbone": "lenet", "weights": "default", "epochs": 4, "monitor": "loss"}
"""An epoch has 4 steps."""
HALF: dict[str, Any] = {"strategy": "full", "optimizer": {"lr": 0.01}}
"""The weights halfway are the best of this run."""
HEAD: dict[str, Any] = {"strategy": "freeze", "optimizer": {"lr": 0.01}}
"""The same of the head alone, on cached activations, at three quarters."""
TIE: dict[str, Any] = {"strategy": "gradual", "optimizer": {"lr": 0.01}, "monitor": "accuracy"}
"""An average is as accurate as the best epoch."""
PROBE: dict[str, Any] = {"strategy": "gradual", "optimizer": {"lr": 0.05}}
"""The probe is better than all that comes after it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 8, "b": 8, "c": 8}, "val": {"a": 4, "b": 4, "c": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def planned(data: Path, output: Path, **settings: Any) -> ftkit.Plan:
    return plan(data, output, name="run", **(SETTINGS | settings))


@pytest.fixture(scope="module")
def half(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ftkit.Outcome:
    return ftkit.train(planned(data, tmp_path_factory.mktemp("half"), **HALF))


def averages(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "averages.json").read_text())["averages"]
    return found


def kept(run: Path) -> dict[str, Any] | None:
    return next((each for each in averages(run) if each["kept"]), None)


def evaluated(run: Path) -> dict[str, Any]:
    """What `ftkit evaluate` finds on the validation images."""
    done = typed("evaluate", str(run), "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class StopAfter(Listener):
    """Sends the process a signal after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def epoch_done(self, event: EpochDone) -> None:
        if event.record["epoch"] == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "share"), [(HALF, 0.5), (HEAD, 0.75), (TIE, None), (PROBE, None)], ids=["half", "head", "tie", "probe"]
)
def test_the_model_is_never_worse_than_an_epoch(
    settings: dict[str, Any], share: float | None, data: Path, tmp_path: Path
) -> None:
    outcome = ftkit.train(planned(data, tmp_path, **settings))
    run, name = outcome.run.path, f"val_{settings.get('monitor', 'loss')}"
    sign = 1 if name == "val_loss" else -1
    best = min(sign * record[name] for record in outcome.records)
    assert sign * outcome.best[name] <= best
    chosen = kept(run)
    assert (chosen or {"share": None})["share"] == share
    assert (sign * outcome.best[name] < best) == (share is not None), "of equals the epoch is kept"
    if share is not None:
        assert outcome.best[name] == min(each["metrics"][name] for each in averages(run))
    # What is said of the model is the same everywhere, and true.
    facts = {"epochs": [0, 4], "share": share} if share is not None else None
    assert outcome.best.get("average") == facts
    assert card(run / "model")["average"] == (facts or {})
    assert card(run / "model")["epoch"] == outcome.best["epoch"]
    assert card(run / "model")["metrics"][name] == outcome.best[name]
    assert summary(run)["best"] == json.loads(json.dumps(outcome.best))
    assert evaluated(run)[name.removeprefix("val_")] == pytest.approx(outcome.best[name], rel=1e-5)
    assert card(run / "last")["average"] == {}
    assert "average" not in json.dumps(records(run)), "the epochs' records are as before"


def test_the_weights_are_those_that_the_card_names(half: ftkit.Outcome) -> None:
    first, last = (tensors(half.run.path, which) for which in ("first", "last"))
    model = tensors(half.run.path, "model")
    for name, tensor in model.items():
        assert torch.equal(tensor, first[name].lerp(last[name], 0.5)), name
        assert not torch.equal(tensor, last[name]), name


def states(run: Path) -> dict[int, dict[str, Tensor]]:
    """The network at the end of each epoch."""
    return {int(path.name[1:5]): load_file(path / "model.safetensors") for path in (run / "checkpoints").glob("e*")}


def test_statistics_are_averaged_too(data: Path, tmp_path: Path) -> None:
    """Those of a network with BatchNorm, which has frozen layers in its first epochs."""
    start = save_model(tmp_path / "start", ["x", "y"])
    settings: dict[str, Any] = {"backbone": "cifar_resnet20", "weights": str(start), "strategy": "gradual"}
    settings |= {"epochs": 10, "checkpoint": {"min_seconds": 0, "keep": 99}, "optimizer": {"lr": 0.01}}
    run = ftkit.train(planned(data, tmp_path, **settings)).run.path
    ends = states(run)
    assert [each["epochs"] for each in averages(run)][-1] == [9, 10]
    newest = max((run / "checkpoints").glob("e*"))
    places = json.loads((newest / "state.json").read_text())["callbacks"]["weight_averaging"]["mean"]
    saved = load_file(newest / "callbacks.safetensors")
    mean = {name: saved[place["__tensor__"]] for name, place in places.items()}
    for name, value in mean.items():
        assert torch.allclose(value, (ends[9][name] + ends[10][name]) / 2, rtol=1e-5, atol=1e-7), name
    moved = [name for name, value in mean.items() if "running" in name and not torch.equal(value, ends[10][name])]
    assert moved, "statistics change in the last epochs"
    chosen = kept(run)
    if chosen is not None and chosen["share"] is None:
        assert all(torch.equal(value, tensors(run, "model")[name]) for name, value in mean.items())


def test_only_what_trains_is_kept_in_memory_and_in_checkpoints(data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path, **HEAD)).run.path
    newest = max((run / "checkpoints").glob("e*"))
    state = json.loads((newest / "state.json").read_text())["callbacks"]["weight_averaging"]
    assert sorted(state["mean"]) == ["head.bias", "head.weight"]
    assert state["count"] == 2


@pytest.mark.parametrize(
    ("settings", "stop"),
    [
        (HALF, partial(StopAt, 6)),
        (HALF, partial(StopAt, 13)),
        (HEAD, partial(StopAfter, 3)),
        (HALF, partial(StopAfter, 4)),
        (HEAD, partial(StopAfter, 4)),
    ],
    ids=["in an epoch", "among the averaged ones", "between them", "at the end", "at the end, of cached activations"],
)
def test_a_stopped_run_ends_with_the_same_bytes(
    settings: dict[str, Any], stop: Callable[[], Listener], half: ftkit.Outcome, data: Path, tmp_path: Path
) -> None:
    never = half if settings is HALF else ftkit.train(planned(data, tmp_path / "whole", **settings))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut", **settings), stop())
    whole, cut = never.run.path, tmp_path / "cut" / "run"
    assert not (cut / "averages.json").exists()
    resume(cut)
    assert result(cut) == result(whole)
    assert (cut / "averages.json").read_bytes() == (whole / "averages.json").read_bytes()


def test_a_signal_in_the_last_evaluations_changes_nothing(
    half: ftkit.Outcome, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.stop_in_evaluation(monkeypatch, "0.75 of the way from epoch 0 to epoch 4", 1)
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path, **HALF))
    assert not (tmp_path / "run" / "averages.json").exists()
    resume(tmp_path / "run")
    assert result(tmp_path / "run") == result(half.run.path)
    assert averages(tmp_path / "run") == averages(half.run.path)


def extended(run: Path, *more: str) -> None:
    done = typed("train", "--resume", str(run), "--quiet", *more)
    assert done.returncode == 0, done.stderr


def test_an_extended_run_keeps_an_average_until_something_is_better(data: Path, tmp_path: Path) -> None:
    before = ftkit.train(planned(data, tmp_path, **HALF))
    extended(before.run.path, "--extend", "3")
    run = before.run.path
    found = summary(run)["best"]
    new = [each for each in averages(run) if each["epochs"][-1] == 7]
    assert len(new) == 4, "the averages of the longer run are evaluated"
    values = [r["val_loss"] for r in records(run)] + [each["metrics"]["val_loss"] for each in new]
    assert found["val_loss"] == min([*values, before.best["val_loss"]])
    assert evaluated(run)["loss"] == pytest.approx(found["val_loss"], rel=1e-5)
    assert card(run / "model")["metrics"]["val_loss"] == found["val_loss"]


def test_an_average_of_before_an_extension_stays_the_model(data: Path, tmp_path: Path) -> None:
    """At such a rate all later epochs, and what lies between, are worse."""
    before = ftkit.train(planned(data, tmp_path, **HALF))
    run = before.run.path
    model = tensors(run, "model")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.01", "lr: 5.0"))
    extended(run, "--extend", "2")
    assert summary(run)["best"]["average"] == before.best["average"] == {"epochs": [0, 4], "share": 0.5}
    assert summary(run)["best"]["epoch"] == 4
    assert all(torch.equal(value, model[name]) for name, value in tensors(run, "model").items())
    assert len(averages(run)) > 1


def test_an_extension_that_was_stopped_ends_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        ftkit.train(planned(data, tmp_path / name, checkpoint={"min_seconds": 0}, **HALF))
    whole, cut = tmp_path / "whole" / "run", tmp_path / "cut" / "run"
    extended(whole, "--extend", "3")
    with pytest.MonkeyPatch.context() as patch:
        inside.interrupt_epoch(patch, 3)
        assert typed("train", "--resume", str(cut), "--quiet", "--extend", "3").returncode == 130
    assert len(records(cut)) == 7, "two of the three epochs were trained"
    resume(cut)
    assert result(cut) == result(whole)
    assert (cut / "averages.json").read_bytes() == (whole / "averages.json").read_bytes()


def test_early_stopping_leaves_what_there_is(data: Path, tmp_path: Path) -> None:
    settings = HALF | {"epochs": 12, "patience": 2, "optimizer": {"lr": 1e-9}, "monitor": "accuracy"}
    outcome = ftkit.train(planned(data, tmp_path, **settings))
    assert outcome.stopped_early
    last = outcome.records[-1]["epoch"]
    assert [(each["share"], each["epochs"]) for each in averages(outcome.run.path)] == [
        (share, [0, last]) for share in (0.25, 0.5, 0.75)
    ], "the last epochs of the plan weren't reached"


def test_with_the_average_of_steps_the_better_one_is_kept(data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(planned(data, tmp_path, callbacks=[{"name": "ema", "decay": 0.8}], **HALF))
    values = [value for r in outcome.records for k, value in r.items() if k in ("val_loss", "val_ema_loss")]
    values += [each["metrics"]["val_loss"] for each in averages(outcome.run.path)]
    assert outcome.best["val_loss"] == min(values)
    assert evaluated(outcome.run.path)["loss"] == pytest.approx(min(values), rel=1e-5)


def test_thresholds_are_those_of_the_average(tmp_path: Path) -> None:
    made = planned_multilabel(
        write_digits(tmp_path), tmp_path, epochs=3, probe=True, strategy="full", optimizer={"lr": 0.05}, monitor="loss"
    )
    outcome = ftkit.train(made)
    assert kept(outcome.run.path) is not None
    found = evaluated(outcome.run.path)
    for name in ("loss", "map"):
        assert found[name] == pytest.approx(outcome.best[f"val_{name}"], abs=1e-5), name
    decisions = [card(outcome.run.path / which)["decision"] for which in ("model", "last")]
    assert decisions[0] != decisions[1]


def test_the_plan_and_the_output_say_it(data: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    flags: tuple[str, ...] = (
        "--data",
        str(data),
        "--backbone",
        "lenet",
        "--strategy",
        "full",
        "--lr",
        "0.01",
        "--epochs",
        "4",
    )
    flags += ("--batch-size", "6", "--workers", "0", "--monitor", "loss", "--name", "run")
    done = run_ftkit("train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "after the last epoch the weights at 0.25, 0.5, 0.75 of the way from epoch 0 to the last epoch and" in said
    assert "the mean of epochs 3 to 4 are evaluated; the best is the model if it is better" in said
    epochs = records(tmp_path / "runs" / "run")
    best = summary(tmp_path / "runs" / "run")["best"]
    assert (
        f"averages of weights: kept 0.5 of the way from epoch 0 to epoch 4, loss {best['val_loss']:.4f} "
        f"(epoch 0: {epochs[0]['val_loss']:.4f}, epoch 4: {epochs[4]['val_loss']:.4f})\n"
    ) in done.stdout
    assert "best model 0.5 of the way from epoch 0 to epoch 4: validation " in done.stdout
    shown = run_ftkit("runs", "show", "run", cwd=tmp_path).stdout
    assert f"best  0.5 of the way from epoch 0 to epoch 4: loss {best['val_loss']:.4f}" in shown
    assert [line for line in shown.splitlines() if line.endswith("best")] == [
        line for line in shown.splitlines() if line.startswith("average ")
    ]
    compared = run_ftkit("compare", "runs/run", "runs/run", "--json", cwd=tmp_path)
    assert [one["average"] for one in json.loads(compared.stdout)["runs"]] == [best["average"]] * 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--epochs", "0"), "--weight-averaging has no effect: the run trains no epochs"),
        (("--strategy", "probe"), "--weight-averaging has no effect: the run trains no epochs"),
        (("--strategy", "scratch", "--weights", "none"), "--weight-averaging has no effect: the weights are none"),
        (("--fsdp",), "--weight-averaging has no effect: --fsdp shards the weights"),
        (
            ("--no-probe", "--epochs", "1"),
            "--weight-averaging has no effect: one epoch from a new random head has nothing to average",
        ),
    ],
)
def test_it_is_refused_where_it_has_no_effect(
    flags: tuple[str, ...], says: str, data: Path, tmp_path: Path, run_ftkit: RunFtkit
) -> None:
    common = ("plan", "--data", str(data), "--backbone", "lenet", *flags)
    done = run_ftkit(*common, "--weight-averaging", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {says}")
    by_default = run_ftkit(*common, "--json", cwd=tmp_path)
    assert json.loads(by_default.stdout)["weight_averaging"] is None
    notes = [note for note in json.loads(by_default.stdout)["notes"] if "averages of weights" in note]
    assert len(notes) == ("--fsdp" in flags), notes


def test_without_it_the_model_is_of_the_best_epoch(half: ftkit.Outcome, data: Path, tmp_path: Path) -> None:
    outcome = ftkit.train(planned(data, tmp_path, weight_averaging=False, **HALF))
    assert not (outcome.run.path / "averages.json").exists()
    assert outcome.best == min(outcome.records, key=lambda record: record["val_loss"])
    assert records(outcome.run.path) == records(half.run.path), "it changes nothing in the epochs"
    with pytest.raises(RequestError, match="weight_averaging has no effect: the weights are none"):
        planned(data, tmp_path, weight_averaging=True, weights="none", strategy="scratch")
