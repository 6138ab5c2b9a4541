"""Several labels per image from end to end: the digits, with properties of each digit as its labels."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ftkit
from ftkit import Predictor, resume
from ftkit.errors import RunInterrupted
from tests.conftest import typed
from tests.integration.test_processes import environment
from tests.runs import result
from tests.stopping import StopAt

PROPERTIES = {
    "even": {0, 2, 4, 6, 8},
    "large": {5, 6, 7, 8, 9},
    "loop": {0, 6, 8, 9},
    "prime": {2, 3, 5, 7},
    "straight": {1, 4, 7},
}
COUNTS = {"train": 120, "val": 60, "test": 60}
SETTINGS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "default",
    "batch_size": 16,
    "epochs": 2,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "probe": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and `digits.csv`; each has no label to four."""
    folder = tmp_path_factory.mktemp("multilabel")
    splits, rows = ftkit.plan(dataset="digits").splits, []
    for name, count in COUNTS.items():
        split = splits.get(name)  # type: ignore[arg-type]
        assert split is not None
        for place in range(count):
            image, digit = split[place]
            assert isinstance(image, Image.Image)
            image.save(folder / f"{name}{place:03d}.png")
            labels = [own for own, digits in PROPERTIES.items() if digit in digits]
            rows.append((f"{name}{place:03d}.png", "|".join(labels), name))
    with (folder / "digits.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return folder


def trained(data: Path, output: Path, name: str = "run", **settings: Any) -> Path:
    ftkit.train(planned(data, output, name, **settings))
    return output / name


def planned(data: Path, output: Path, name: str = "run", **settings: Any) -> Any:
    dataset = {"name": "csv", "path": str(data / "digits.csv"), "separator": "|"}
    return ftkit.plan(dataset=dataset, output=str(output), name=name, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A finished run with a probe, an epoch of the head, and one of all layers."""
    return trained(data, data / "runs", "run", probe=True)


def card(run: Path) -> Any:
    return json.loads((run / "model" / "model.json").read_text(encoding="utf-8"))


def listed(data: Path, split: str) -> dict[str, set[str]]:
    """The labels of each image of a split."""
    with (data / "digits.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    return {row["path"]: set(filter(None, row["label"].split("|"))) for row in rows}


def scores_of(run: Path, data: Path, split: str, model: Predictor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities `(n, classes)` and targets bool `(n, classes)` of a split, by image name."""
    model, labels = model or ftkit.load(run, device="cpu", precision="fp32"), listed(data, split)
    classes = len(model.classes)
    found = [dict(one.top) for one in model.predict([data / name for name in labels], top_k=classes)]
    scores = torch.tensor([[one[name] for name in model.classes] for one in found])
    return scores, torch.tensor([[name in own for name in model.classes] for own in labels.values()])


def test_the_probe_is_scikit_learns_logistic_regression_of_each_class(data: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    probe = trained(data, tmp_path, strategy="probe", epochs=0, probe=True)
    record = json.loads((probe / "metrics.jsonl").read_text().splitlines()[0])
    (features, _, targets), (unseen, scores, _) = (features_of(probe, data, split) for split in ("train", "test"))
    mean, spread = features.mean(axis=0), features.std()
    model = OneVsRestClassifier(LogisticRegression(C=record["probe_strength"], max_iter=1000))
    model.fit((features - mean) / spread, targets.numpy())
    expected = model.predict_proba((unseen - mean) / spread)
    assert np.abs(scores.numpy() - expected).max() < 2e-3


def features_of(run: Path, data: Path, split: str) -> tuple[np.ndarray[Any, Any], torch.Tensor, torch.Tensor]:
    """What the head takes for each image of a split, float64 `(n, features)`; scores and targets as in `scores_of`."""
    model, seen = ftkit.load(run, device="cpu", precision="fp32"), list[torch.Tensor]()
    model.network.get_submodule("head").register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    scores, targets = scores_of(run, data, split, model)
    return torch.cat(seen).double().numpy(), scores, targets


def test_metrics_are_those_of_torchmetrics_at_the_thresholds_of_the_card(run: Path, data: Path) -> None:
    from torchmetrics.functional.classification import (
        multilabel_auroc,
        multilabel_average_precision,
        multilabel_exact_match,
        multilabel_f1_score,
    )

    done = typed("evaluate", str(run), "--json", "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    scores, targets = scores_of(run, data, "test")
    thresholds = card(run)["decision"]["thresholds"]
    truth, size = targets.long(), len(PROPERTIES)
    predicted = (scores > torch.tensor(thresholds)).long()

    def close(value: Any) -> Any:
        return pytest.approx(float(value), abs=1e-5)

    assert found["map"] == close(multilabel_average_precision(scores, truth, size))
    assert found["auroc"] == close(multilabel_auroc(scores, truth, size))
    assert found["micro_f1"] == close(multilabel_f1_score(predicted, truth, size, average="micro"))
    assert found["macro_f1"] == close(multilabel_f1_score(predicted, truth, size, average="macro"))
    assert found["subset_accuracy"] == close(multilabel_exact_match(predicted, truth, size))
    assert [one["threshold"] for one in found["classes"]] == thresholds
    precisions = multilabel_average_precision(scores, truth, size, average="none")
    assert [one["average_precision"] for one in found["classes"]] == [close(value) for value in precisions]
    assert "confusion" not in found


def test_evaluate_lists_average_precision_and_threshold_and_reads_other_data_as_the_run_does(
    run: Path, data: Path
) -> None:
    own = typed("evaluate", str(run))
    other = typed("evaluate", str(run), "--data", str(data / "digits.csv"))
    assert (own.returncode, other.returncode) == (0, 0), own.stderr + other.stderr
    assert other.stdout == own.stdout
    assert re.search(r"class +images +precision +recall +F1 +AP +threshold", own.stdout)
    assert "Confusion" not in own.stdout


def test_every_label_above_its_threshold_is_predicted_in_each_format(run: Path, data: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    names = sorted(listed(data, "test"))
    scores, _ = scores_of(run, data, "test")
    chosen = (scores > torch.tensor(card(run)["decision"]["thresholds"])).tolist()
    classes = card(run)["classes"]
    expected = {
        name: {c for c, yes in zip(classes, row, strict=True) if yes} for name, row in zip(names, chosen, strict=True)
    }
    options = ("--model", str(run), "--device", "cpu", "--precision", "fp32")
    images = [str(data / name) for name in names]

    lines = typed("predict", *images, *options, "--format", "jsonl").stdout.splitlines()
    assert {Path(one["file"]).name: {x["label"] for x in one["labels"]} for one in map(json.loads, lines)} == expected
    table = list(csv.DictReader(typed("predict", *images, *options, "--format", "csv").stdout.splitlines()))
    assert {Path(row["file"]).name: set(filter(None, row["labels"].split("|"))) for row in table} == expected
    rows = typed("predict", *images, *options).stdout.splitlines()[1:]
    shown = {Path(row.split("  ")[0]).name: set(re.findall(r"(\w+) \d\.\d{4}", row.split("  ")[1])) for row in rows}
    assert shown == expected
    done = typed("predict", *images, *options, "--to", str(tmp_path / "p.parquet"))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert {Path(row["file"]).name: {x["label"] for x in row["labels"]} for row in rows} == expected


def test_a_file_of_predictions_is_resumed(run: Path, data: Path, tmp_path: Path) -> None:
    images = [str(data / name) for name in sorted(listed(data, "test"))]
    for kind in ("csv", "jsonl"):
        whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
        for file in (whole, cut):
            done = typed("predict", *images, "--model", str(run), "--to", str(file))
            assert done.returncode == 0, done.stderr
        cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:7]))
        done = typed("predict", *images, "--model", str(run), "--to", str(cut), "--resume")
        assert done.returncode == 0, done.stderr
        assert cut.read_bytes() == whole.read_bytes()


LOSSES: dict[str, dict[str, Any]] = {
    "asymmetric": {"loss": "asymmetric", "callbacks": [{"name": "ema", "decay": 0.9}]},
    "focal": {"loss": {"name": "sigmoid-focal", "gamma": 1.5}},
    "balanced": {"loss": {"name": "binary-cross-entropy", "pos_weight": "balanced"}, "label_smoothing": 0.1},
    "mixup": {"strategy": "full", "batch_transforms": ["mixup"]},
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_wasnt(case: str, data: Path, tmp_path: Path) -> None:
    trained(data, tmp_path / "whole", **LOSSES[case])
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, tmp_path / "cut", **LOSSES[case]), StopAt(11))
    resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run") == result(tmp_path / "whole" / "run")


def test_a_run_on_cached_activations_has_the_bytes_of_one_without(data: Path, tmp_path: Path) -> None:
    # LeNet's linear layers round differently in batches of other sizes, whatever the task; see docs/promises.md.
    settings: dict[str, Any] = {"strategy": "freeze", "epochs": 3, "augment": "none", "backbone": "cifar_resnet20"}
    settings |= {"weights": "none"}
    cached = trained(data, tmp_path / "cached", cache={"dir": str(tmp_path / "kept")}, **settings)
    uncached = trained(data, tmp_path / "uncached", cache={"use": False}, **settings)
    assert any(path.is_file() for path in (tmp_path / "kept").rglob("*"))
    assert result(cached)[:2] == result(uncached)[:2]
    assert result(cached)[3] == result(uncached)[3]


def test_two_processes_have_the_metrics_of_one(data: Path, tmp_path: Path) -> None:
    arguments = (
        "train", "--dataset", "csv", "--set", f"dataset.path={data / 'digits.csv'}", "--set", "dataset.separator='|'",
        "--backbone", "lenet", "--weights", "default", "--strategy", "full", "--augment", "none", "--device", "cpu",
        "--workers", "0", "--epochs", "1", "--output", str(tmp_path), "--precision", "fp32", "--set", "probe=false",
    )  # fmt: skip
    for name, more in (
        ("one", ("--batch-size", "16")),
        ("two", ("--batch-size", "8", "--num-processes", "2")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ftkit", *arguments, "--name", name, *more],
            env=environment(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("one", "two"))
    for key in ("val_map", "val_micro_f1", "val_subset_accuracy", "val_loss", "train_loss", "train_accuracy"):
        assert two[key] == pytest.approx(one[key], abs=1e-3), key
    weights = [load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-4) for key in weights[0])


def test_runs_are_compared_by_the_metrics_of_the_task(run: Path, data: Path) -> None:
    other = trained(data, data / "runs", "other", strategy="full", epochs=1)
    done = typed("compare", str(run), str(other))
    assert done.returncode == 0, done.stderr
    assert re.search(r"run +mAP +macro F1 .*subset accuracy +loss", done.stdout, re.DOTALL)
    assert "the null hypothesis is equal subset accuracy" in done.stdout
    done = typed("compare", str(run), str(other), "--json")
    assert set(json.loads(done.stdout)["runs"][0]["metrics"]) == {"map", "macro_f1", "subset_accuracy", "loss"}
    done = typed("runs", "show", str(run))
    assert re.search(r"val loss +val subset accuracy +val macro F1 +val mAP", done.stdout)


def test_strategies_are_compared_by_the_metrics_of_the_task(data: Path, tmp_path: Path) -> None:
    done = typed(
        "compare", "--strategies", "freeze,full", "--seeds", "1", "--epochs", "1", *options(data), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "val mAP" in done.stdout
    assert re.search(r"train loss [\d.]+ subset accuracy [\d.]+ +val loss [\d.]+ subset accuracy", done.stderr)
    done = typed(
        "compare", "--strategies", "freeze,full", "--seeds", "1", "--epochs", "1", *options(data), "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert {"map", "macro_f1", "subset_accuracy", "loss"} == set(json.loads(done.stdout)["strategies"][0]["test"])


def test_a_model_of_several_labels_is_exported(run: Path, tmp_path: Path) -> None:
    done = typed("export", str(run), "--format", "torch-export", "--to", str(tmp_path / "exported"))
    assert done.returncode == 0, done.stderr


def test_a_head_is_kept_where_its_classes_are_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    done = typed("train", *options(data), "--weights", str(run), "--keep-head", "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def options(data: Path) -> Sequence[str]:
    dataset = ("--dataset", "csv", "--set", f"dataset.path={data / 'digits.csv'}", "--set", "dataset.separator='|'")
    return (*dataset, "--backbone", "lenet", "--device", "cpu", "--workers", "0", "--set", "probe=false")


def test_data_with_one_class_per_image_trains_as_several_and_isnt_paired_with_one(tmp_path: Path) -> None:
    settings = (
        "--dataset",
        "digits",
        "--backbone",
        "lenet",
        "--strategy",
        "freeze",
        "--epochs",
        "1",
        "--device",
        "cpu",
    )
    for name in ("multilabel", "multiclass"):
        more = ("--task", name, "--name", name, "--train-samples", "100", "--set", "probe=false", "--workers", "0")
        done = typed("train", *settings, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = typed("evaluate", "multilabel", "--json", cwd=tmp_path)
    assert "map" in json.loads(done.stdout), done.stderr
    done = typed("compare", "multilabel", "multiclass", cwd=tmp_path)
    assert (done.returncode, "tasks differ: multilabel and multiclass" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("command", "more", "says"),
    [
        (
            "plan",
            ("--set", "loss=cross-entropy"),
            "loss 'cross-entropy' is for multiclass targets, and the task is multilabel",
        ),
        ("plan", ("--monitor", "accuracy"), "metric 'accuracy' isn't defined for task multilabel"),
        ("plan", ("--metric", "top5"), "metric 'top5' isn't defined for task multilabel"),
        ("plan", ("--balance", "weights"), "balance"),
        ("plan", ("--balance", "sampler"), "balance"),
        ("plan", ("--set", "task=multiclass"), "may have several labels each, and task multiclass takes one"),
        ("plan", ("--strategy", "auto"), "one per image, and the task is multilabel"),
        ("advise", (), "one per image, and the task is multilabel"),
    ],
)
def test_what_doesnt_fit_the_task_is_refused_in_one_line(
    command: str, more: Sequence[str], says: str, data: Path, tmp_path: Path
) -> None:
    done = typed(command, *options(data), *more, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if line][-2:] == ["error", "hint"]


def test_a_multilabel_metric_is_refused_for_one_class_per_image(tmp_path: Path) -> None:
    done = typed("plan", "--dataset", "digits", "--backbone", "lenet", "--monitor", "map", cwd=tmp_path)
    assert (done.returncode, "metric 'map' isn't defined for task multiclass" in done.stderr) == (2, True)


CIFAR = {
    "airplane": "vehicle flies", "automobile": "vehicle wheels", "bird": "animal flies", "cat": "animal four-legs",
    "deer": "animal four-legs", "dog": "animal four-legs", "frog": "animal four-legs", "horse": "animal four-legs",
    "ship": "vehicle swims", "truck": "vehicle wheels",
}  # fmt: skip


def test_properties_of_photographs_are_learnt(shared: Path, tmp_path: Path) -> None:
    archive, weights = shared / "data" / "cifar10-subset.tar", shared / "weights" / "resnet20-12fca82f.th"
    if not (archive.is_file() and weights.is_file()):
        pytest.skip("shared/data has no CIFAR-10")
    columns = sorted({label for labels in CIFAR.values() for label in labels.split()})
    rows: list[Sequence[object]] = []
    with tarfile.open(archive) as packed:
        for split in ("train", "test"):
            for name, labels in CIFAR.items():
                for number in range(20):
                    member = f"{split}/{name}/{number:04d}.jpg"
                    packed.extract(member, tmp_path, filter="data")
                    rows.append((member, split, *(int(column in labels.split()) for column in columns)))
    with (tmp_path / "photos.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "split", *columns), *rows])
    dataset = ("--dataset", "csv", "--set", "dataset.path=photos.csv", "--set", f"dataset.class_columns={columns}")
    settings = ("--backbone", "cifar_resnet20", "--weights", str(weights), "--device", "cpu", "--workers", "0")
    done = typed("train", *dataset, *settings, "--strategy", "probe", "--name", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(typed("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert found["map"] > 0.85
    assert {one["name"]: one["support"] for one in found["classes"]}["four-legs"] == 100
