"""Several labels per image: what a request may ask for, and what is refused in one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import typed
from tests.multilabel import listed, options, write_table

MACHINE = ("--backbone", "lenet", "--device", "cpu", "--workers", "0")


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
        ("plan", ("--set", "loss.pos_weight=balanced"), "name the loss too; pos_weight is an option of binary-cross"),
        ("plan", ("--monitor", "accuracy"), "metric 'accuracy' isn't defined for task multilabel"),
        ("plan", ("--metric", "top5"), "metric 'top5' isn't defined for task multilabel"),
        ("plan", ("--balance", "weights"), "--balance: weights are for one class per image"),
        ("plan", ("--set", "task=multiclass"), "may have several labels each, and task multiclass takes one"),
    ],
)
def test_what_doesnt_fit_the_task_is_refused_in_one_line(
    command: str, more: Sequence[str], says: str, digits: Path, tmp_path: Path
) -> None:
    done = typed(command, *options(digits), *more, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines() if line][-2:] == ["error", "hint"]


def test_a_multilabel_metric_is_refused_for_one_class_per_image(tmp_path: Path) -> None:
    done = typed("plan", "--dataset", "digits", "--backbone", "lenet", "--monitor", "map", cwd=tmp_path)
    assert (done.returncode, "metric 'map' isn't defined for task multiclass" in done.stderr) == (2, True)


def test_advise_measures_the_map_of_frozen_features(digits: Path, tmp_path: Path) -> None:
    # Without --no-probe, with which the probe can't be recommended.
    arguments = options(digits)[:-1]
    done = typed("advise", *arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    facts = found["facts"]
    labels = sum(map(len, listed(digits, "train").values()))
    assert (facts["images"], facts["classes"], facts["measured_on"], facts["metric"]) == (120, 5, 120, "mAP")
    assert facts["per_class"] == pytest.approx(labels / 5)
    assert facts["chance"] == pytest.approx(labels / 5 / 120)
    assert facts["chance"] < facts["nearest_mean"] < facts["probe"] < 1
    assert facts["similarity"] == pytest.approx((facts["nearest_mean"] - facts["chance"]) / (1 - facts["chance"]))
    assert facts["similarity"] < 0.85, "properties of a digit aren't what the weights were trained for"
    assert (found["advice"]["strategy"], found["advice"]["options"]) == ("full", {"backbone_lr_scale": 1.0})
    words = shlex.split(found["command"])
    assert words[:4] == ["ftkit", "train", *options(digits)[:2]]
    assert 'dataset.separator="|"' in words
    text = typed("advise", *arguments, cwd=tmp_path).stdout
    assert "mAP of logistic regression on frozen features, in cross-validation on 120 training images" in text
    done = typed(*words[1:], "--epochs", "1", "--name", "advised", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    auto = ("--strategy", "auto", "--epochs", "1", "--name", "auto")
    done = typed("train", *arguments, *auto, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weights = [(tmp_path / "runs" / name / "last" / "model.safetensors").read_bytes() for name in ("advised", "auto")]
    assert weights[0] == weights[1]


def test_classes_that_fit_the_features_get_the_probe(tmp_path: Path) -> None:
    # Digits themselves as sets of one label: what the weights were trained for.
    data = ("--dataset", "digits", "--task", "multilabel", "--train-samples", "200")
    found = typed("advise", *data, *MACHINE, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    facts, advice = (json.loads(found.stdout)[key] for key in ("facts", "advice"))
    assert facts["similarity"] > 0.85
    assert advice["strategy"] == "probe"


def test_too_few_images_to_measure_leave_a_low_rate(digits: Path, tmp_path: Path) -> None:
    rows = [(digits / f"train{n:03d}.png", label, "train") for n, label in enumerate("ab")]
    rows += [(digits / f"val{n:03d}.png", label, "val") for n, label in enumerate("ab")]
    write_table(tmp_path / "few.csv", [("path", "label", "split"), *rows])
    found = typed("advise", "--data", "few.csv", "--set", "dataset.separator=|", *MACHINE, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "the features couldn't be measured: no class has at least two images, and two without it" in found.stdout


def digit_columns(digits: Path, folder: Path) -> Sequence[str]:
    """Columns `ab`, `rare`, `train` and `none`; only a training image is rare or train. Returns flags for the table."""
    rows = [(digits / f"train{n:03d}.png", "train", n % 2, int(n in (3, 4)), int(n > 8), 0) for n in range(16)]
    rows += [(digits / f"val{n:03d}.png", "val", n % 2, 0, 0, 0) for n in range(8)]
    write_table(folder / "columns.csv", [("path", "split", "ab", "rare", "train", "none"), *rows])
    return ("--data", "columns.csv", *MACHINE, "--weights", "none", "--strategy", "scratch")


def test_classes_without_an_image_are_noted_and_trained(digits: Path, tmp_path: Path) -> None:
    data = (*digit_columns(digits, tmp_path), "--set", "dataset.class_columns=[ab, rare, train, none]")
    done = typed("train", *data, "--epochs", "1", "--name", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    notes = json.loads((tmp_path / "runs" / "run" / "plan.json").read_text())["notes"]
    assert "no training image has 1 class of 4: 'none'" in notes
    assert "no validation image has 3 classes of 4: 'rare', 'train', 'none'" in notes
    found = json.loads(typed("evaluate", "run", "--json", cwd=tmp_path).stdout)
    assert [one["average_precision"] is None for one in found["classes"]] == [False, True, True, True]
    assert found["map"] == found["classes"][0]["average_precision"]


def test_one_class_is_enough(digits: Path, tmp_path: Path) -> None:
    data = (*digit_columns(digits, tmp_path), "--set", "dataset.class_columns=[ab]")
    done = typed("train", *data, "--epochs", "1", "--name", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = typed("predict", "--model", "run", str(digits / "val000.png"), "--format", "jsonl", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert [one["label"] for one in found["top"]] == ["ab"]
    threshold = json.loads((tmp_path / "runs" / "run" / "model" / "model.json").read_text())["decision"]["thresholds"][
        0
    ]
    assert bool(found["labels"]) == (found["top"][0]["probability"] > threshold)


def test_images_without_any_label_are_refused(digits: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "none.csv", [("path", "label"), *((digits / f"train{n:03d}.png", "") for n in range(9))])
    done = typed("plan", "--data", "none.csv", "--set", "dataset.separator=|", *MACHINE, cwd=tmp_path)
    assert (done.returncode, "error: no training image has a label" in done.stderr) == (2, True), done.stderr
