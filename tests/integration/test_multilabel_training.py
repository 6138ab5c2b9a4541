"""Several labels per image: training with each loss, resumed, cached, and in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ftkit
from tests.conftest import typed
from tests.integration.test_processes import environment
from tests.multilabel import planned, scores_of, trained, write_table
from tests.runs import result
from tests.stopping import StopAt


def test_the_probe_is_scikit_learns_logistic_regression_of_each_class(digits: Path, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    probe = trained(digits, tmp_path, strategy="probe", epochs=0, probe=True)
    record = json.loads((probe / "metrics.jsonl").read_text().splitlines()[0])
    (features, _, targets), (unseen, scores, _) = (features_of(probe, digits, split) for split in ("train", "test"))
    mean, spread = features.mean(axis=0), features.std()
    model = OneVsRestClassifier(LogisticRegression(C=record["probe_strength"], max_iter=1000))
    model.fit((features - mean) / spread, targets.numpy())
    expected = model.predict_proba((unseen - mean) / spread)
    assert np.abs(scores.numpy() - expected).max() < 2e-3


def features_of(digits_run: Path, digits: Path, split: str) -> tuple[np.ndarray[Any, Any], torch.Tensor, torch.Tensor]:
    """What the head takes for each image of a split, float64 `(n, features)`; scores and targets as in `scores_of`."""
    model, seen = ftkit.load(digits_run, device="cpu", precision="fp32"), list[torch.Tensor]()
    model.network.get_submodule("head").register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    scores, targets = scores_of(digits_run, digits, split, model)
    return torch.cat(seen).double().numpy(), scores, targets


LOSSES: dict[str, dict[str, Any]] = {
    "asymmetric": {"loss": "asymmetric", "callbacks": [{"name": "ema", "decay": 0.9}]},
    "focal": {"loss": {"name": "sigmoid-focal", "gamma": 1.5}},
    "balanced": {"loss": {"name": "binary-cross-entropy", "pos_weight": "balanced"}, "label_smoothing": 0.1},
    "sampler": {"balance": "sampler", "probe": True},
    "mixup": {"strategy": "full", "batch_transforms": ["mixup"]},
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_wasnt(case: str, digits: Path, tmp_path: Path) -> None:
    trained(digits, tmp_path / "whole", **LOSSES[case])
    with pytest.raises(ftkit.FtkitError):
        ftkit.train(planned(digits, tmp_path / "cut", **LOSSES[case]), StopAt(11))
    ftkit.resume(tmp_path / "cut" / "run")
    assert result(tmp_path / "cut" / "run") == result(tmp_path / "whole" / "run")


def test_a_run_on_cached_activations_has_the_bytes_of_one_without(digits: Path, tmp_path: Path) -> None:
    # LeNet's linear layers round differently in batches of other sizes, whatever the task; see docs/promises.md.
    settings: dict[str, Any] = {"strategy": "freeze", "epochs": 3, "augment": "none", "backbone": "cifar_resnet20"}
    settings |= {"weights": "none"}
    cached = trained(digits, tmp_path / "cached", cache={"dir": str(tmp_path / "kept")}, **settings)
    uncached = trained(digits, tmp_path / "uncached", cache={"use": False}, **settings)
    assert any(path.is_file() for path in (tmp_path / "kept").rglob("*"))
    assert result(cached)[0] == result(uncached)[0]
    assert result(cached)[2] == result(uncached)[2]


@pytest.mark.long
def test_two_processes_have_the_metrics_of_one(digits: Path, tmp_path: Path) -> None:
    arguments = (
        "train", "--dataset", "csv", "--set", f"dataset.path={digits / 'digits.csv'}", "--set", "dataset.separator='|'",
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


DRAWN = """
from dataclasses import dataclass
from ftkit.api import BatchTransform, hookimpl


@dataclass(frozen=True)
class Drawn(BatchTransform):
    def apply(self, images, targets, generator):
        with open("drawn.txt", "a") as file:
            for row in targets.tolist():
                file.write("".join(str(int(value)) for value in row) + "\\n")
        return images, targets


@hookimpl
def ftkit_batch_transforms():
    return {"drawn": Drawn}
"""


def drawn(folder: Path, balance: str) -> list[str]:
    """The targets of all drawn images, one digit for each class, over 8 epochs."""
    (folder / "seen.py").write_text(DRAWN)
    (folder / "ftkit.yaml").write_text("plugins: [seen.py]\nbatch_transforms: [seen/drawn]\n")
    (folder / "drawn.txt").unlink(missing_ok=True)
    arguments = ("--set", "dataset.path=rare.csv", "--set", "dataset.separator=|", "--epochs", "8", "--no-probe")
    machine = ("--backbone", "lenet", "--weights", "none", "--strategy", "scratch", "--device", "cpu", "--workers", "0")
    done = typed("train", "--dataset", "csv", *arguments, *machine, "--balance", balance, cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "drawn.txt").read_text().split()


def test_the_sampler_draws_images_by_the_weight_of_their_rarest_class(digits: Path, tmp_path: Path) -> None:
    # Of 80 images 40 have a, 8 of these b too, 4 have c, and 36 no label.
    sets = ["a|b"] * 8 + ["a"] * 32 + ["c"] * 4 + [""] * 36
    rows = [(digits / f"train{n:03d}.png", labels, "train") for n, labels in enumerate(sets)]
    rows += [(digits / f"val{n:03d}.png", "abc"[n % 3], "val") for n in range(9)]
    write_table(tmp_path / "rare.csv", [("path", "label", "split"), *rows])
    assert Counter(drawn(tmp_path, "none")) == {"110": 64, "100": 256, "001": 32, "000": 288}
    labels = 52
    weights = {"110": 8 * labels / 24, "100": 32 * labels / 120, "001": 4 * labels / 12, "000": 36 * 1.0}
    counts, total = Counter(drawn(tmp_path, "sampler")), sum(weights.values())
    for targets, weight in weights.items():
        share = weight / total
        assert abs(counts[targets] - 640 * share) < 4 * (640 * share * (1 - share)) ** 0.5, targets
