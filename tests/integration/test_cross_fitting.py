"""Cross-fitting: each training image is validated once, by a model that wasn't trained on it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch.testing import assert_close

import ftkit
from ftkit import RequestError
from ftkit.errors import RunInterrupted
from tests import inside, multilabel
from tests.conftest import MakeFolder, typed
from tests.runs import Notes, card, json_lines, models, planner, records, summary, tensors
from tests.stopping import StopAt

CLASSES = {"a": 8, "b": 7, "c": 5}
IMAGES = sum(CLASSES.values())
SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "default",
    "batch_size": 4,
    "epochs": 2,
    "validation": "kfold",
    "folds": 3,
    "precision": "fp32",
}
planned = planner(**SETTINGS)
WRITTEN = ("out-of-fold.csv", "out-of-fold.safetensors", "model", "metrics.jsonl", "cross-fitting.json")
"""What the end of a run writes, in that order."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    folder = image_folder(tmp_path_factory.mktemp("data"), {"train": CLASSES, "test": dict.fromkeys(CLASSES, 2)})
    # Some wrong labels, so that no model is right on all images.
    for one, other in (("a/0001.png", "b/0003.png"), ("b/0004.jpg", "c/0002.jpg")):
        swap(folder / "train" / one, folder / "train" / other)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return ftkit.train(planned(data, tmp_path_factory.mktemp("runs"), name="whole")).run.path


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def table(run: Path) -> list[dict[str, str]]:
    with (run / "out-of-fold.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def found(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "cross-fitting.json").read_text())
    return content


def images_of(run: Path, split: str) -> set[str]:
    with (run / "splits.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"] for row in csv.DictReader(file) if row["split"] == split}


def result(run: Path) -> tuple[Any, ...]:
    """All that a finished run leaves, without times."""
    files = ("out-of-fold.csv", "out-of-fold.safetensors", "cross-fitting.json", "model/model.safetensors")
    folds = sorted((run / "folds").iterdir())
    return (
        [(run / name).read_bytes() for name in files],
        records(run),
        card(run / "model")["decision"],
        [(fold.name, models(fold), records(fold)) for fold in folds],
    )


def test_each_image_is_validated_once(run: Path) -> None:
    every = images_of(run, "train")
    parts = {number: images_of(run / "folds" / str(number), "val") for number in (1, 2, 3)}
    assert len(every) == IMAGES == sum(map(len, parts.values()))
    assert set().union(*parts.values()) == every
    for number, part in parts.items():
        assert images_of(run / "folds" / str(number), "train") == every - part
    rows = table(run)
    assert [row["image"] for row in rows] == sorted(every)
    assert all(row["image"] in parts[int(row["fold"])] for row in rows)
    assert [len(part) for part in parts.values()] == [7, 7, 6]
    assert json.loads((run / "plan.json").read_text())["fold_sizes"] == [7, 7, 6]


def test_the_outputs_are_those_of_the_fold_that_did_not_train_on_the_image(data: Path, tmp_path: Path) -> None:
    # One share alone: that of the first weights, which are the model of epoch 0.
    run = ftkit.train(planned(data, tmp_path, strategy="probe", epochs=0)).run.path
    rows = table(run)
    for number in (1, 2, 3):
        model = ftkit.load(run / "folds" / str(number), device="cpu", precision="fp32")
        mine = [row for row in rows if row["fold"] == str(number)]
        predicted = model.predict([data / row["image"] for row in mine], top_k=3)
        for row, one in zip(mine, predicted, strict=True):
            assert {name: float(row[name]) for name in CLASSES} == pytest.approx(dict(one.top), abs=1e-5)
            assert row["predicted"] == one.top[0][0]


def test_the_model_is_the_mean_of_the_folds_at_the_chosen_share(data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path, epochs=4)).run.path
    assert_is_the_mean_of_the_folds(run)


def test_from_a_new_random_head_the_last_weights_alone_are_evaluated(data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path, probe=False, optimizer={"lr": 0.01}, epochs=4)).run.path
    assert [one["share"] for one in found(run)["shares"]] == [1]
    assert_is_the_mean_of_the_folds(run)
    assert card(run / "model")["epoch"] == 4


def assert_is_the_mean_of_the_folds(run: Path) -> None:
    share = found(run)["share"]
    folds = [run / "folds" / str(number) for number in (1, 2, 3)]
    states = [
        {name: tensors(fold, "first")[name].lerp(tensor, share) for name, tensor in tensors(fold, "last").items()}
        for fold in folds
    ]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    assert_close(tensors(run, "model"), mean)
    assert found(run)["model"] == "average of the folds' weights"


def test_the_best_share_is_chosen_on_all_images(run: Path) -> None:
    content = found(run)
    shares = {one["share"]: one["metrics"] for one in content["shares"]}
    assert list(shares) == [0, 0.25, 0.5, 0.75, 1]
    best = max(shares, key=lambda share: (shares[share]["accuracy"], -shares[share]["loss"], -share))
    assert content["share"] == best
    assert content["metrics"] == shares[best]
    folds = [records(run / "folds" / str(number)) for number in (1, 2, 3)]
    for share, epoch in ((0, 0), (1, -1)):
        values = [(fold[epoch]["val_accuracy"], fold[epoch]["val_loss"]) for fold in folds]
        accuracy, loss = (
            sum(n * x for n, x in zip((7, 7, 6), some, strict=True)) for some in zip(*values, strict=True)
        )
        assert shares[share]["accuracy"] == pytest.approx(accuracy / IMAGES)
        assert shares[share]["loss"] == pytest.approx(loss / IMAGES, rel=1e-4)
    rows = table(run)
    right = [row["label"] == row["predicted"] for row in rows]
    assert content["metrics"]["accuracy"] == pytest.approx(sum(right) / IMAGES)
    (record,) = records(run)
    assert (record["share"], record["val_accuracy"]) == (best, content["metrics"]["accuracy"])


def test_evaluate_has_the_metrics_of_the_stored_outputs(run: Path, data: Path) -> None:
    done = typed("evaluate", str(run), "--split", "val", "--json")
    assert done.returncode == 0, done.stderr
    assert "out-of-fold" in done.stderr
    measured, rows = json.loads(done.stdout), table(run)
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    scores = [[float(row[name]) for name in CLASSES] for row in rows]
    assert (measured["split"], measured["images"]) == ("out-of-fold", IMAGES)
    assert measured["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert measured["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert measured["loss"] == pytest.approx(log_loss(labels, scores, labels=list(CLASSES)))
    assert measured["intervals"]["accuracy"]["low"] < measured["accuracy"] < measured["intervals"]["accuracy"]["high"]
    assert not measured["data_changed"]
    test = json.loads(typed("evaluate", str(run), "--json").stdout)
    assert (test["split"], test["images"]) == ("test", 6)


def test_mistakes_are_those_of_the_stored_outputs(run: Path, data: Path, tmp_path: Path) -> None:
    done = typed("evaluate", str(run), "--split", "val", "--mistakes", str(tmp_path / "wrong.csv"))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "wrong.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    wrong = {row["image"]: row for row in table(run) if row["label"] != row["predicted"]}
    assert {row["image"] for row in listed} == {str(data / name) for name in wrong}
    for row in listed:
        stored = wrong[str(Path(row["image"]).relative_to(data))]
        score = float(stored[stored["predicted"]])
        assert (row["label"], row["predicted"]) == (stored["label"], stored["predicted"])
        assert float(row["score"]) == pytest.approx(score, abs=1e-6)
        assert float(row["margin"]) == pytest.approx(score - float(stored[stored["label"]]), abs=1e-6)


def test_what_train_and_plan_print(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--validation", "kfold", "--folds", "3", "--epochs", "1"]
    flags += ["--workers", "0", "--device", "cpu"]
    plan = typed("plan", *flags, cwd=tmp_path)
    assert (
        "3, trained one after another, which takes 3 times as long: about 13 training and 6 or 7 validation images each"
        in plan.stdout
    )
    assert "train 20, test 6" in plan.stdout
    done = typed("train", *flags, "--name", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fold 2 of 3: 7 of 20 training images are for validation" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  share")] == ["0", "0.25", "0.5", "0.75", "1"]
    (estimate,) = (line for line in lines if line.startswith("out-of-fold: "))
    assert estimate.endswith("20 images, each by a model that wasn't trained on it")
    listed = json.loads(typed("runs", "list", "--json", cwd=tmp_path).stdout)
    assert [(one["name"], one["state"]) for one in listed] == [("mine", "finished")]
    shown = typed("runs", "show", "mine", cwd=tmp_path).stdout
    assert "cross-fitted, 3 folds" in shown
    assert "out-of-fold.csv" in shown


def test_where_no_epoch_is_trained_the_head_is_the_mean_of_the_probes(data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path, strategy="probe", epochs=0)).run.path
    assert [one["share"] for one in found(run)["shares"]] == [0]
    states = [tensors(run / "folds" / str(number)) for number in (1, 2, 3)]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    assert_close(tensors(run, "model"), mean)
    assert card(run / "model")["epoch"] == 0


def test_one_fold_alone_is_that_fold_of_the_whole(run: Path, data: Path, tmp_path: Path) -> None:
    alone = ftkit.train(planned(data, tmp_path, fold=2)).run.path
    assert models(alone) == models(run / "folds" / "2")
    assert not (alone / "folds").exists()


def test_all_folds_read_the_same_cached_activations(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    inside.watch_cached_rows(monkeypatch, after=rows.append)
    cache = {"dir": str(tmp_path / "cache"), "augmentations": 2}
    ftkit.train(planned(data, tmp_path / "runs", strategy="freeze", epochs=4, cache=cache, seed=3))
    # Each image without augmentation, and augmented once.
    assert sum(rows) == 2 * IMAGES


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.long), 9])
def test_stopped_in_a_fold_and_resumed_equals_never_stopped(step: int, run: Path, data: Path, tmp_path: Path) -> None:
    # Each fold has 2 epochs of 4 steps: the first, second and third fold are stopped.
    with pytest.raises(RunInterrupted) as caught:
        ftkit.train(planned(data, tmp_path, name="cut"), StopAt(step))
    assert f"fold {(step - 1) // 8 + 1} of 3: " in caught.value.message
    assert caught.value.hint == f"ftkit train --resume {tmp_path / 'cut'}"
    ftkit.resume(tmp_path / "cut")
    assert result(tmp_path / "cut") == result(run)


def test_stopped_after_the_folds_and_resumed_equals_never_stopped(run: Path, data: Path, tmp_path: Path) -> None:
    class StopAfterFolds(ftkit.Listener):
        def note(self, text: str) -> None:
            if text.startswith("the 3 folds are trained"):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterrupted, match="all folds are trained") as caught:
        ftkit.train(planned(data, tmp_path, name="cut"), StopAfterFolds())
    assert (caught.value.exit_code, caught.value.hint) == (143, f"ftkit train --resume {tmp_path / 'cut'}")
    shown = typed("runs", "show", str(tmp_path / "cut")).stdout
    assert "stopped" in shown
    assert "cross-fitted, 3 folds, 3 trained" in shown
    ftkit.resume(tmp_path / "cut")
    assert result(tmp_path / "cut") == result(run)


KILLED = """
import os, signal, sys
import ftkit

class Killer(ftkit.Listener):
    steps = 0

    def step_done(self, event):
        self.steps += 1
        if self.steps == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, text):
        if {step} is None and text.startswith("the 3 folds are trained"):
            os.kill(os.getpid(), signal.SIGKILL)

ftkit.train(ftkit.plan(dataset={{"name": "folder", "root": sys.argv[1]}}, output=sys.argv[2], **{settings}), Killer())
"""


@pytest.mark.parametrize(
    "step",
    [pytest.param(11, marks=pytest.mark.long), None],
    ids=["in the second fold", "between the folds and the final model"],
)
def test_killed_and_resumed_equals_never_stopped(step: int | None, run: Path, data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "workers": 0, "name": "cut", "checkpoint": {"every_steps": 1}, "budget": None}
    code = KILLED.format(step=step, settings=settings)
    done = subprocess.run([sys.executable, "-c", code, str(data), str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    resumed = typed("train", "--resume", str(tmp_path / "cut"))
    assert resumed.returncode == 0, resumed.stderr
    assert result(tmp_path / "cut") == result(run)


@pytest.mark.parametrize("written", [0, pytest.param(1, marks=pytest.mark.long), 3])
def test_killed_while_the_end_is_written_and_resumed_ends_with_the_same_bytes(
    written: int, run: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    for name in WRITTEN[written:]:
        (shutil.rmtree if name == "model" else Path.unlink)(cut / name)
    assert summary(cut)["state"] == "stopped"
    ftkit.resume(cut)
    assert result(cut) == result(run)


def test_a_fold_that_was_killed_while_its_folder_was_made_is_made_anew(run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    (cut / "cross-fitting.json").unlink()
    for path in (cut / "folds" / "3").iterdir():
        if path.name != "config.yaml":
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    ftkit.resume(cut)
    assert result(cut) == result(run)


@pytest.mark.parametrize("name", ["share-outputs.safetensors", "first/model.safetensors"])
def test_a_damaged_file_of_a_fold_is_named(name: str, run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(run, cut)
    (cut / "cross-fitting.json").unlink()
    damaged, outputs = cut / "folds" / "1" / name, cut / "folds" / "1" / "share-outputs.safetensors"
    whole = damaged.read_bytes()
    outputs.unlink()
    damaged.write_bytes(whole[:-1])
    failed = typed("train", "--resume", str(cut))
    assert failed.returncode == 2
    assert f"{damaged} can't be read" in failed.stderr
    assert "Traceback" not in failed.stderr
    damaged.unlink() if damaged == outputs else damaged.write_bytes(whole)
    ftkit.resume(cut)
    assert result(cut) == result(run)


def test_a_finished_run_and_changed_data_are_not_resumed(data: Path, run: Path, tmp_path: Path) -> None:
    assert "is finished" in typed("train", "--resume", str(run)).stderr
    other = tmp_path / "data"
    shutil.copytree(data, other)
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(other, tmp_path / "runs", name="cut"), StopAt(11))
    shutil.copy(other / "train" / "a" / "0000.jpg", other / "train" / "a" / "0002.jpg")
    with pytest.raises(RequestError, match=r"can't resume: its train images have changed"):
        ftkit.resume(tmp_path / "runs" / "cut")


def test_a_network_that_loads_no_weights_without_their_version(data: Path, tmp_path: Path) -> None:
    # torchvision's MNASNet refuses them; files of tensors have no version.
    settings = {"backbone": "mnasnet0_5", "preprocessing": {"size": 32}, "epochs": 1}
    first = ftkit.train(
        planned(data, tmp_path, name="first", weights="none", validation="holdout", folds=5, **settings)
    )
    again = planned(data, tmp_path, name="again", weights=str(first.run.path), strategy="full", **settings)
    assert (ftkit.train(again).run.path / "cross-fitting.json").is_file()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--folds", "4", "--budget", "none"], "--folds has no effect without kfold"),
        (["--fold", "1", "--budget", "none"], "--fold has no effect without kfold"),
        (["--validation", "kfold", "--fold", "6"], "--fold is 6, but there are 5 folds"),
        (["--validation", "kfold", "--set", "val_fraction=0.1"], "val_fraction has no effect with kfold"),
        (["--validation", "kfold", "--folds", "21"], "20 training images can't be divided into 21 parts"),
        (["--validation", "kfold", "--folds", "1"], "--folds"),
        (["--validation", "kfold", "--ema", "0.9"], "callback 'ema' has no effect with kfold"),
        (["--validation", "k-fold"], "--validation"),
    ],
)
def test_refused_requests(flags: list[str], expected: str, data: Path, tmp_path: Path) -> None:
    done = typed("train", "--data", str(data), "--backbone", "lenet", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (tmp_path / "runs").exists()


def test_data_with_a_validation_split_or_a_single_image_of_a_class_is_refused(
    tmp_path: Path, image_folder: MakeFolder
) -> None:
    own = image_folder(tmp_path / "own", {"train": {"a": 4, "b": 4}, "val": {"a": 2, "b": 2}})
    done = typed("plan", "--data", str(own), "--backbone", "lenet", "--validation", "kfold")
    assert "kfold is for data without a validation split" in done.stderr
    single = image_folder(tmp_path / "single", {"a": 6, "b": 1})
    done = typed("plan", "--data", str(single), "--backbone", "lenet", "--validation", "kfold")
    assert "class 'b': a single image can't be in both train and val" in done.stderr
    rare = image_folder(tmp_path / "rare", {"a": 6, "b": 2})
    done = typed("plan", "--data", str(rare), "--backbone", "lenet", "--validation", "kfold")
    assert "1 class has fewer images than 5 folds, so not each fold validates them: 'b'" in done.stdout
    done = typed("plan", "--data", str(rare), "--backbone", "lenet", "--validation", "kfold", "--set", "monitor=auroc")
    assert "auroc is undefined for the validation images" in done.stderr


def test_unreadable_images_are_left_out(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "train" / "a" / "0000.jpg").write_bytes(b"no image")
    run = ftkit.train(planned(broken, tmp_path / "runs", on_bad_image="skip", epochs=1)).run.path
    assert {row["image"] for row in table(run)} == images_of(run, "train")
    assert len(table(run)) == IMAGES - 1
    assert json_lines(run / "bad-images.jsonl")[0]["file"].endswith("a/0000.jpg")


def test_train_samples_are_drawn_before_the_division(data: Path, tmp_path: Path) -> None:
    run = ftkit.train(planned(data, tmp_path, train_samples=12, epochs=1)).run.path
    assert len(table(run)) == len(images_of(run, "train")) == 12


def test_other_commands_take_the_run(run: Path, data: Path, tmp_path: Path) -> None:
    other = ftkit.train(planned(data, tmp_path, name="other", seed=4)).run.path
    compared = typed("compare", str(run), str(other), "--split", "val", "--json")
    assert compared.returncode == 0, compared.stderr
    both = json.loads(compared.stdout)["runs"]
    assert [one["images"] for one in both] == [IMAGES, IMAGES]
    assert both[0]["metrics"]["accuracy"]["value"] == pytest.approx(found(run)["metrics"]["accuracy"])
    predicted = typed("predict", str(data / "test"), "--model", str(run), "--json")
    assert predicted.returncode == 0, predicted.stderr
    again = planner(**{**SETTINGS, "weights": str(run), "epochs": 1})(data, tmp_path, name="again")
    assert again.weights.path == run / "model" / "model.safetensors"
    with pytest.raises(RequestError, match="is finished"):
        ftkit.resume(run)


def test_stored_outputs_are_of_the_images_as_they_are(run: Path) -> None:
    for words in (("evaluate", str(run)), ("compare", str(run), str(run))):
        done = typed(*words, "--split", "val", "--tta", "flip")
        assert (done.returncode, "--tta flip: out-of-fold metrics come from stored" in done.stderr) == (2, True), words


def test_a_listener_is_called_for_each_fold(data: Path, tmp_path: Path) -> None:
    class Started(Notes):
        runs: list[Path]

        def started(self, event: ftkit.RunStarted) -> None:
            self.runs = [*getattr(self, "runs", []), event.run]

    listener = Started()
    outcome = ftkit.train(planned(data, tmp_path, name="run", epochs=1), listener)
    assert listener.runs == [tmp_path / "run" / "folds" / str(number) for number in (1, 2, 3)]
    assert outcome.records == [outcome.best] == json_lines(tmp_path / "run" / "metrics.jsonl")


def test_several_labels_per_image(tmp_path: Path) -> None:
    data = multilabel.write_digits(tmp_path)
    rows = (data / "digits.csv").read_text().splitlines()
    # The images of val become training images.
    (data / "digits.csv").write_text("\n".join(row.replace(",val", ",train") for row in rows) + "\n")
    run = multilabel.trained(data, tmp_path / "runs", validation="kfold", folds=3)
    stored = table(run)
    listed = multilabel.listed(data, "train")
    assert {row["image"]: set(filter(None, row["label"].split("|"))) for row in stored} == listed
    measured = json.loads(typed("evaluate", str(run), "--split", "val", "--json").stdout)
    assert measured["images"] == 180
    right = [set(row["label"].split("|")) == set(row["predicted"].split("|")) for row in stored]
    assert measured["subset_accuracy"] == pytest.approx(sum(right) / 180)
    thresholds = [one["threshold"] for one in measured["classes"]]
    assert thresholds == card(run / "model")["decision"]["thresholds"]


@pytest.mark.long
def test_two_processes_make_the_same_folds_and_resume(data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--validation", "kfold", "--folds", "3", "--epochs", "2"]
    flags += ["--workers", "0", "--device", "cpu", "--output", str(tmp_path), "--num-processes", "2"]
    for name in ("one", "two"):
        done = subprocess.run(
            [sys.executable, "-m", "ftkit", "train", *flags, "--name", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert result(tmp_path / "one") == result(tmp_path / "two")
    (tmp_path / "two" / "cross-fitting.json").unlink()
    shutil.rmtree(tmp_path / "two" / "folds" / "3")
    again = [sys.executable, "-m", "ftkit", "train", "--resume", str(tmp_path / "two"), "--num-processes", "2"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "one") == result(tmp_path / "two")
    assert sorted(row["image"] for row in table(tmp_path / "one")) == sorted(images_of(tmp_path / "one", "train"))
