"""Memory that runs out: batches are divided, with the same gradient, and where they can't be, one line says what to do.

The network fails as torch does where it is called with more images than `limits.json` allows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import MakeFolder, RunFtkit
from tests.runs import config, newest_checkpoint, records, result, tensors, weights

PLUGIN = """
import json
import os
from pathlib import Path

from ftkit.api import Backbone, BatchTransform, LayerGroup, Preprocessing, hookimpl


def build(num_classes, norm=False, drop=0.0):
    import torch
    from torch import nn

    class Hungry(nn.Sequential):
        calls = 0

        def forward(self, images):
            limits = json.loads(Path("limits.json").read_text())
            if self.training and len(images) > 2:
                Hungry.calls += 1
            most = limits.get("training" if self.training else "evaluation", 99)
            if self.training and os.environ.get("RANK", "0") == "1":
                most = limits.get("training of 1", 99)
            # What torch does where the last of several layers doesn't fit: those before have seen the images.
            outputs = super().forward(images)
            if len(images) > most or (self.training and Hungry.calls == limits.get("fails at")):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 1 GiB")
            return outputs

    torch.manual_seed(0)
    first = nn.BatchNorm2d(4) if norm else nn.Identity()
    return Hungry(
        nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(drop),
        nn.Linear(4, num_classes),
    )


@hookimpl
def ftkit_backbones():
    groups = (LayerGroup("stem", "[0-5]."), LayerGroup("head", "6."))
    kinds = {"hungry": {}, "normed": {"norm": True}, "dropping": {"drop": 0.5}}
    return {
        name: Backbone(f"mine/{name}", groups, ("6",), lambda n, kind=kind: build(n, **kind), Preprocessing(size=16))
        for name, kind in kinds.items()
    }
"""
SETTINGS = "--weights none --epochs 3 -q --batch-size 8 --precision fp32 --device cpu --workers 0 --augment none"


@pytest.fixture
def project(tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 3}})
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\ncheckpoint: {min_seconds: 0}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Trained:
    """Trains the network in the project's folder with limits of its memory."""

    def __init__(self, run: RunFtkit) -> None:
        self._run = run

    def __call__(
        self, name: str, *flags: str, backbone: str = "hungry", strategy: str = "full", **limits: int
    ) -> subprocess.CompletedProcess[str]:
        Path("limits.json").write_text(json.dumps({key.replace("_", " "): most for key, most in limits.items()}))
        words = [*SETTINGS.split(), "--data", "data", "--backbone", f"mine/{backbone}", "--strategy", strategy]
        return self._run("train", *words, "--name", name, *flags)

    def resume(self, name: str, **limits: int) -> subprocess.CompletedProcess[str]:
        Path("limits.json").write_text(json.dumps(limits))
        return self._run("train", "--resume", name)


@pytest.fixture
def trained(project: Path, run_ftkit: RunFtkit) -> Trained:
    return Trained(run_ftkit)


def log_of(name: str) -> str:
    return Path("runs", name, "train.log").read_text()


def divisions(name: str) -> list[str]:
    """The lines of the log on it, without their times."""
    return [line[line.index("note: ") :] for line in log_of(name).splitlines() if "from now on" in line]


def micro_batches(name: str) -> int:
    found: int = json.loads((newest_checkpoint(name) / "state.json").read_text())["progress"]["micro_batches"]
    return found


def assert_close(one: str, other: str) -> None:
    before, after = tensors(one), tensors(other)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs")


def assert_same_records(one: str, other: str) -> None:
    for first, second in zip(records(one), records(other), strict=True):
        assert {k: v for k, v in first.items() if not isinstance(v, dict)} == pytest.approx(
            {k: v for k, v in second.items() if not isinstance(v, dict)}, rel=1e-5
        )


def test_a_divided_batch_has_the_same_gradient(trained: Trained) -> None:
    assert trained("whole").returncode == 0
    done = trained("divided", training=3)
    assert done.returncode == 0, done.stderr
    assert divisions("divided") == [
        "note: out of memory: could not allocate 20.00 MiB on cpu in epoch 1, step 1 of 2: from now on batches of 8 "
        "images are computed as 4 of 2, and their gradients accumulated"
    ]
    assert (micro_batches("whole"), micro_batches("divided")) == (1, 4)
    assert_close("whole", "divided")
    assert [r["train_accuracy"] for r in records("divided")] == [r["train_accuracy"] for r in records("whole")]
    assert [r["train_loss"] for r in records("divided")] == pytest.approx([r["train_loss"] for r in records("whole")])


def test_it_is_what_a_smaller_batch_size_with_accumulation_computes(trained: Trained) -> None:
    """Down to the statistics of BatchNorm: the pass that failed has left nothing behind."""
    smaller = ("--batch-size", "8", "--accumulate", "2")
    assert trained("asked", *smaller, backbone="normed").returncode == 0
    done = trained("divided", "--batch-size", "16", backbone="normed", training=8)
    assert done.returncode == 0, done.stderr
    assert divisions("divided")[0].endswith(
        "as 2 of 8, and their gradients accumulated; BatchNorm layers that train see 8 images at a time"
    )
    assert_close("asked", "divided")
    assert tensors("divided")["1.num_batches_tracked"] == tensors("asked")["1.num_batches_tracked"] == 6


def test_batchnorm_does_not_train_on_a_few_images_without_being_asked_to(trained: Trained) -> None:
    done = trained("stopped", backbone="normed", training=4)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: out of memory: could not allocate 20.00 MiB on cpu with 8 images of 16 x 16 pixels a batch, in the "
        "run, at epoch 1, step 1 of 2; BatchNorm layers that train would see fewer than 8 images at a time; no "
        "checkpoint yet",
        "hint: give --batch-size 4 --accumulate 2, which keeps the size of a step, or --precision bf16, or a smaller "
        "--image-size",
    ]
    assert trained("asked", "--batch-size", "4", "--accumulate", "2", backbone="normed", training=4).returncode == 0


def test_frozen_batchnorm_is_no_reason_against_it(trained: Trained) -> None:
    flags = "--no-cache"
    assert trained("whole", flags, backbone="normed", strategy="freeze").returncode == 0
    assert trained("divided", flags, backbone="normed", strategy="freeze", training=2).returncode == 0
    assert micro_batches("divided") == 4
    assert_close("whole", "divided")


def test_the_division_is_resumed(trained: Trained) -> None:
    """On a machine with more memory too, and from before it."""
    assert trained("whole", backbone="dropping", training=4).returncode == 0
    assert trained("stopped", backbone="dropping", training=4, fails_at=8).returncode == 1
    assert micro_batches("stopped") == 2
    resumed = trained.resume("stopped")
    assert resumed.returncode == 0, resumed.stderr
    assert "each batch is computed as 2 micro-batches, as before" in resumed.stderr
    assert result("stopped") == result("whole")


def test_random_transforms_of_batches_stay_those_of_whole_batches(trained: Trained) -> None:
    assert trained("whole", "--mixup", "0.4").returncode == 0
    assert trained("divided", "--mixup", "0.4", training=4).returncode == 0
    assert_close("whole", "divided")


def test_steps_that_are_skipped_are_skipped_all_the_same(trained: Trained) -> None:
    assert trained("whole", "--on-nan", "skip").returncode == 0
    assert trained("divided", "--on-nan", "skip", training=4).returncode == 0
    assert_close("whole", "divided")


def test_evaluation_in_parts_gives_the_same(trained: Trained, run_ftkit: RunFtkit) -> None:
    """Validation, predictions and metrics, but for last digits: torch adds up other sizes in another order."""
    assert trained("whole").returncode == 0
    assert trained("parts", evaluation=2).returncode == 0
    assert weights("parts") == weights("whole")
    assert_same_records("parts", "whole")
    evaluate, predict = ("evaluate", "runs/whole"), ("predict", "data/val", "--model", "runs/whole")
    found = []
    for limits in ("{}", '{"evaluation": 1}'):
        Path("limits.json").write_text(limits)
        done = [run_ftkit(*command, "--json") for command in (evaluate, predict)]
        assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
        predictions = [json.loads(line) for line in done[1].stdout.splitlines()]
        found.append([json.loads(done[0].stdout)["loss"], *(one["probability"] for one in predictions)])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.long
def test_features_and_frozen_activations_are_computed_in_parts(trained: Trained) -> None:
    assert trained("first").returncode == 0
    flags = ("--weights", "runs/first/last/model.safetensors", "--epochs", "1")
    assert trained("whole", "--cache-dir", "one", *flags, strategy="freeze").returncode == 0
    done = trained("parts", "--cache-dir", "other", *flags, strategy="freeze", evaluation=2)
    assert done.returncode == 0, done.stderr
    assert "probe_strength" in records("parts")[0]
    assert_same_records("parts", "whole")
    assert_close("whole", "parts")


def test_processes_divide_their_batches_alike(trained: Trained) -> None:
    """One of them has less memory. It is found before the phase, since in a step the others would wait for it."""
    assert trained("whole").returncode == 0
    Path("limits.json").write_text(json.dumps({"training of 1": 2}))
    words = [*SETTINGS.split(), "--data", "data", "--backbone", "mine/hungry", "--strategy", "full"]
    command = [sys.executable, "-m", "ftkit", "train", *words, "--batch-size", "4", "--num-processes", "2"]
    done = subprocess.run(
        [*command, "--name", "divided"], capture_output=True, text=True, check=False, timeout=240, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert divisions("divided") == [
        "note: out of memory in another process on cpu:0 in epoch 1, step 1 of 2: from now on batches of 4 images are "
        "computed as 2 of 2, and their gradients accumulated"
    ]
    assert_close("whole", "divided")


def division(name: str) -> tuple[int, int]:
    found = config(name)
    return found["batch_size"], found["accumulate"]


def test_auto_is_the_largest_batch_that_fits(trained: Trained) -> None:
    """The images of a step stay the same, and so does the result."""
    assert trained("whole", "--batch-size", "32").returncode == 0
    done = trained("auto", "--batch-size", "auto", training=5)
    assert done.returncode == 0, done.stderr
    assert division("auto") == (8, 4)
    planned = json.loads(Path("runs/auto/plan.json").read_text())
    assert (planned["per_process_batch"], planned["effective_batch"]) == (8, 32)
    note = "batch size auto: 8 x 4 accumulated, since 4 images of 16 x 16 pixels at a time fit on cpu, 8 don't"
    assert [text for text in planned["notes"] if "batch size auto" in text] == [note]
    assert note in log_of("auto")
    assert not divisions("auto")
    assert_close("whole", "auto")


def test_a_run_from_what_auto_found_is_the_same_run(trained: Trained, run_ftkit: RunFtkit) -> None:
    flags = ("--batch-size", "auto", "--accumulate", "2")
    assert trained("auto", *flags).returncode == 0
    assert division("auto") == (64, 1)
    again = run_ftkit("train", "-c", "runs/auto/config.yaml", "--name", "again", "-q")
    assert again.returncode == 0, again.stderr
    assert result("again") == result("auto")


def test_auto_is_kept_by_a_resumed_run(trained: Trained) -> None:
    flags = ("--batch-size", "auto", "--epochs", "8")
    assert trained("whole", *flags, backbone="dropping", training=4).returncode == 0
    stopped = trained("stopped", *flags, backbone="dropping", training=4, fails_at=16)
    assert stopped.returncode == 1, stopped.stderr
    resumed = trained.resume("stopped")
    assert resumed.returncode == 0, resumed.stderr
    assert division("stopped") == division("whole")
    assert result("stopped") == result("whole")


def test_auto_leaves_batchnorm_enough_images(trained: Trained) -> None:
    done = trained("failed", "--batch-size", "auto", backbone="normed", training=5)
    assert (done.returncode, done.stderr.splitlines()[-2:]) == (
        1,
        [
            "error: batch size auto: out of memory: could not allocate 20.00 MiB on cpu with 8 images at a time, and "
            "BatchNorm layers that train want 8 or more at a time",
            "hint: give --batch-size 8 --accumulate 4, or a smaller --image-size",
        ],
    )
    assert not Path("runs/failed").exists()


def test_the_plan_says_that_auto_is_measured(project: Path, run_ftkit: RunFtkit) -> None:
    words = ("plan", "--data", "data", "--backbone", "mine/hungry", "--weights", "none", "--batch-size", "auto")
    done = run_ftkit(*words)
    assert "32 images per step (32 x 1 process)" in done.stdout
    assert "batch size auto: how many images fit at a time is tried on the device before the run starts" in done.stdout
    planned = json.loads(run_ftkit(*words, "--json").stdout)
    assert (planned["per_process_batch"], planned["effective_batch"]) == (None, 32)


@pytest.mark.parametrize("value", ["0", "-1", "largest"])
def test_other_batch_sizes_are_refused(project: Path, run_ftkit: RunFtkit, value: str) -> None:
    done = run_ftkit("plan", "--data", "data", "--batch-size", value)
    assert done.returncode == 2
    assert "--batch-size" in done.stderr
    assert "auto" in done.stderr


def test_runs_that_are_compared_have_the_same_batches(project: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("compare", "--strategies", "full,freeze", "--data", "data", "--batch-size", "auto")
    assert (done.returncode, "give a number" in done.stderr) == (2, True)
