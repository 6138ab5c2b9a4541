"""Several labels per image: the metrics of `evaluate` and `compare`, and the predictions."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import typed
from tests.multilabel import PROPERTIES, card, listed, options, scores_of, trained


def test_metrics_are_those_of_torchmetrics_at_the_thresholds_of_the_card(digits_run: Path, digits: Path) -> None:
    from torchmetrics.functional.classification import (
        multilabel_auroc,
        multilabel_average_precision,
        multilabel_exact_match,
        multilabel_f1_score,
    )

    done = typed("evaluate", str(digits_run), "--json", "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    scores, targets = scores_of(digits_run, digits, "test")
    thresholds = card(digits_run)["decision"]["thresholds"]
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
    digits_run: Path, digits: Path
) -> None:
    own = typed("evaluate", str(digits_run))
    other = typed("evaluate", str(digits_run), "--data", str(digits / "digits.csv"))
    assert (own.returncode, other.returncode) == (0, 0), own.stderr + other.stderr
    assert other.stdout == own.stdout
    assert re.search(r"class +images +precision +recall +F1 +AP +threshold", own.stdout)
    assert "Confusion" not in own.stdout


def test_every_label_above_its_threshold_is_predicted_in_each_format(
    digits_run: Path, digits: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    names = sorted(listed(digits, "test"))
    scores, _ = scores_of(digits_run, digits, "test")
    chosen = (scores > torch.tensor(card(digits_run)["decision"]["thresholds"])).tolist()
    classes = card(digits_run)["classes"]
    expected = {
        name: {c for c, yes in zip(classes, row, strict=True) if yes} for name, row in zip(names, chosen, strict=True)
    }
    options = ("--model", str(digits_run), "--device", "cpu", "--precision", "fp32")
    images = [str(digits / name) for name in names]

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


def test_a_file_of_predictions_is_resumed(digits_run: Path, digits: Path, tmp_path: Path) -> None:
    images = [str(digits / name) for name in sorted(listed(digits, "test"))]
    for kind in ("csv", "jsonl"):
        whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
        for file in (whole, cut):
            done = typed("predict", *images, "--model", str(digits_run), "--to", str(file))
            assert done.returncode == 0, done.stderr
        cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:7]))
        done = typed("predict", *images, "--model", str(digits_run), "--to", str(cut), "--resume")
        assert done.returncode == 0, done.stderr
        assert cut.read_bytes() == whole.read_bytes()


def test_runs_are_compared_by_the_metrics_of_the_task(digits_run: Path, digits: Path) -> None:
    other = trained(digits, digits / "runs", "other", strategy="full", epochs=1)
    done = typed("compare", str(digits_run), str(other))
    assert done.returncode == 0, done.stderr
    assert re.search(r"run +mAP +macro F1 .*subset accuracy +loss", done.stdout, re.DOTALL)
    assert "the null hypothesis is equal subset accuracy" in done.stdout
    done = typed("compare", str(digits_run), str(other), "--json")
    assert set(json.loads(done.stdout)["runs"][0]["metrics"]) == {"map", "macro_f1", "subset_accuracy", "loss"}
    done = typed("runs", "show", str(digits_run))
    assert re.search(r"val loss +val subset accuracy +val macro F1 +val mAP", done.stdout)


def test_strategies_are_compared_by_the_metrics_of_the_task(digits: Path, tmp_path: Path) -> None:
    done = typed(
        "compare", "--strategies", "freeze,full", "--seeds", "1", "--epochs", "1", *options(digits), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "val mAP" in done.stdout
    assert re.search(r"train loss [\d.]+ subset accuracy [\d.]+ +val loss [\d.]+ subset accuracy", done.stderr)
    done = typed(
        "compare", "--strategies", "freeze,full", "--seeds", "1", "--epochs", "1", *options(digits), "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert {"map", "macro_f1", "subset_accuracy", "loss"} == set(json.loads(done.stdout)["strategies"][0]["test"])
