"""Several labels per image: what a model keeps in its card, an export, a tracker and another run's head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from tests.conftest import typed
from tests.multilabel import PROPERTIES, card, listed, options, scores_of, trained, write_table

CPU = ("--json", "--device", "cpu", "--precision", "fp32")


def evaluated(*arguments: str, cwd: Path | None = None) -> Any:
    done = typed("evaluate", *arguments, *CPU, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {key: value for key, value in json.loads(done.stdout).items() if key not in ("model", "data", "split")}


def test_a_model_without_its_run_reads_a_table_as_the_run_did(digits_run: Path, digits: Path, tmp_path: Path) -> None:
    model = shutil.copytree(digits_run / "model", tmp_path / "model")
    table = ("--data", str(digits / "digits.csv"))
    assert card(digits_run)["dataset"] == {
        "name": "csv", "image_column": "path", "label_column": "label", "split_column": "split", "image_suffix": "",
        "separator": "|", "class_columns": [],
    }  # fmt: skip
    own = evaluated(str(digits_run))
    assert evaluated(str(model), *table) == own
    text = (digits / "digits.csv").read_text().replace("|", ";").replace("label", "tags")
    (tmp_path / "other.csv").write_text(text)
    root = ("--set", f"dataset.root={digits}", "--set", "dataset.label_column=tags", "--set", "dataset.separator=;")
    assert evaluated(str(model), "--data", str(tmp_path / "other.csv"), *root) == own
    done = typed("evaluate", str(model), "--data", str(tmp_path / "other.csv"), *root[:2])
    assert (done.returncode, "has no column 'label', only path, tags, split" in done.stderr) == (2, True), done.stderr
    assert "--set dataset.label_column=" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "epochs=3"), "--set epochs: only options of the dataset can be set here"),
        (("--set", "dataset.seperator=;"), "--set dataset.seperator: unknown key, did you mean 'separator'?"),
        (("--set", "dataset.separator="), "no value"),
        (("--set", "dataset.value_range=[0, 9]"), "dataset.value_range has no effect"),
    ],
)
def test_options_of_other_data_are_validated(digits_run: Path, digits: Path, arguments: Any, says: str) -> None:
    done = typed("evaluate", str(digits_run), "--data", str(digits / "digits.csv"), *arguments)
    if says == "no value":
        # Null is one class per cell, which most cells aren't.
        says = "is not among the training classes"
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_a_project_is_made_for_a_table_and_trains(digits: Path, tmp_path: Path) -> None:
    arguments = ("--data", str(digits / "digits.csv"), "--set", "dataset.separator=|")
    done = typed("init", "tags", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{digits / 'digits.csv'}: 5 classes; train 120, val 60, test 60 images" in done.stdout
    assert '  separator: "|"\n' in (tmp_path / "tags" / "ftkit.yaml").read_text()
    done = typed("train", "--epochs", "1", "--name", "first", "--device", "cpu", cwd=tmp_path / "tags")
    assert done.returncode == 0, done.stderr
    assert card(tmp_path / "tags" / "runs" / "first")["task"]["name"] == "multilabel"


def test_a_project_is_made_for_a_table_with_a_column_for_each_class(digits: Path, tmp_path: Path) -> None:
    rows = [(str(digits / name), *(int(own in labels) for own in PROPERTIES)) for name, labels in
            listed(digits, "val").items()]  # fmt: skip
    write_table(tmp_path / "columns.csv", [("path", *PROPERTIES), *rows])
    arguments = ("--set", "dataset.class_columns=[prime, even, 'loop']")
    done = typed("init", "columns", "--data", "columns.csv", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = typed("plan", "--json", cwd=tmp_path / "columns")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == ["even", "loop", "prime"]
    done = typed("init", "wrong", "--data", "columns.csv", "--set", "dataset.class_columns=[prim]", cwd=tmp_path)
    assert (done.returncode, "has no column 'prim'" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "wrong").exists()
    done = typed("init", "wrong", "--set", "dataset.separator=|", cwd=tmp_path)
    assert (done.returncode, "--set dataset.separator=| has no effect without --data" in done.stderr) == (2, True)


def test_trackers_log_the_metrics_of_the_task(digits: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(digits, tmp_path, tracker=["tensorboard"])
    read = EventAccumulator(str(run / "tensorboard")).Reload()
    logged = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("map", "micro_f1", "macro_f1", "subset_accuracy", "auroc", "loss")
    assert {tag for tag in logged if tag.startswith("val/")} == {f"val/{name}" for name in names}
    for name in names:
        expected = [(one["epoch"], pytest.approx(one[f"val_{name}"], rel=1e-6)) for one in records]
        assert logged[f"val/{name}"] == expected, name
    assert logged["train/accuracy"] == [(one["epoch"], pytest.approx(one["train_accuracy"])) for one in records]


def test_a_kept_head_goes_by_the_names_of_its_classes(digits_run: Path, digits: Path, tmp_path: Path) -> None:
    order = ("straight", "even", "prime", "loop", "large")
    turned = ("--set", f"classes=[{', '.join(order)}]", "--precision", "fp32", "--name", "turned")
    weights = ("--weights", str(digits_run), "--keep-head", "--epochs", "0")
    done = typed("train", *options(digits), *weights, *turned, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores, targets = scores_of(digits_run, digits, "test")
    moved, moved_targets = scores_of(tmp_path / "runs" / "turned", digits, "test")
    places = [card(digits_run)["classes"].index(name) for name in order]
    assert card(tmp_path / "runs" / "turned")["classes"] == list(order)
    assert torch.equal(moved_targets, targets[:, places])
    assert torch.allclose(moved, scores[:, places], atol=1e-6)
    found, own = evaluated(str(tmp_path / "runs" / "turned")), evaluated(str(digits_run))
    assert found["map"] == pytest.approx(own["map"], abs=1e-6)
    renamed = ", ".join(f"{name}: {'round' if name == 'loop' else name}" for name in PROPERTIES)
    other = ("--set", f"label_map={{{renamed}}}", "--epochs", "0")
    done = typed("train", *options(digits), *weights[:3], *other, cwd=tmp_path)
    assert (done.returncode, "it lacks 'round' and has 'loop'" in done.stderr) == (2, True), done.stderr


def test_an_export_has_the_scores_and_the_labels_of_predict(digits_run: Path, digits: Path, tmp_path: Path) -> None:
    done = typed("export", str(digits_run), "--format", "torch-export", "--to", str(tmp_path / "exported"))
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert (about["task"]["name"], about["decision"]) == ("multilabel", card(digits_run)["decision"])
    model, seen = ftkit.load(digits_run, device="cpu", precision="fp32"), list[torch.Tensor]()
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].contiguous()))
    images = [digits / name for name in sorted(listed(digits, "test"))]
    predictions = model.predict(images, top_k=len(about["classes"]))
    program: Any = torch.export.load(tmp_path / "exported" / "model.pt2").module()
    scores = torch.cat([program(batch) for batch in seen]).sigmoid()
    for row, prediction in zip(scores.tolist(), predictions, strict=True):
        named = dict(zip(about["classes"], row, strict=True))
        assert dict(prediction.top) == pytest.approx(named, abs=1e-5)
        thresholds = dict(zip(about["classes"], about["decision"]["thresholds"], strict=True))
        above = {name for name, score in named.items() if score > thresholds[name]}
        assert {name for name, _ in prediction.labels or ()} == above
