"""Training on a GPU: precisions, the cache, transforms and optimizers on the device, compiling, resuming, memory.

All tests together take less than eight minutes on one GPU. `FTKIT_TEST_DEVICE=cpu pytest tests/gpu` runs what isn't
about the hardware itself on a CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import ftkit
from ftkit.activation_cache import table
from ftkit.errors import FtkitError, RunInterrupted
from tests.gpu.conftest import DEVICE, NETWORK, SIZE, Steps
from tests.runs import Notes

on_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="is about CUDA itself")
FROZEN: dict[str, Any] = {"strategy": "freeze", "epochs": 3}


class Started(ftkit.Listener):
    """Keeps what a run says at its start."""

    event: ftkit.RunStarted

    def started(self, event: ftkit.RunStarted) -> None:
        self.event = event


def train(settings: dict[str, Any], name: str = "run", **changes: Any) -> ftkit.Outcome:
    return ftkit.train(ftkit.plan(**{**settings, "name": name, **changes}))


@contextmanager
def memory_limit(nbytes: float) -> Iterator[None]:
    """Lets this process allocate so many bytes more on the device."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(0) + nbytes) / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def losses(outcome: ftkit.Outcome, key: str = "train_loss") -> list[float]:
    return [record[key] for record in outcome.records if record["epoch"]]


def last_weights(outcome: ftkit.Outcome) -> bytes:
    return (outcome.run.path / "last" / "model.safetensors").read_bytes()


def operations(settings: dict[str, Any], **changes: Any) -> set[str]:
    """Names of torch's operations in a run."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        train(settings, **changes)
    return {event.key for event in found.key_averages()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp16", marks=on_cuda)])
def test_a_run_learns_in_each_precision_on_the_device(settings: dict[str, Any], precision: str) -> None:
    listener = Started()
    plan = ftkit.plan(**{**settings, "precision": precision, "epochs": 6, "augment": "none"})
    outcome = ftkit.train(plan, listener)
    assert (torch.device(listener.event.device).type, listener.event.precision) == (DEVICE, precision)
    first, *_, last = losses(outcome)
    assert last < first
    evaluated = ftkit.load(outcome.run.path / "last")
    images = sorted((Path(settings["dataset"]["root"]) / "val").glob("*/*"))
    right = sum(
        found.label == image.parent.name for found, image in zip(evaluated.predict(images), images, strict=True)
    )
    assert right / len(images) == pytest.approx(outcome.records[-1]["val_accuracy"], abs=1.5 / len(images))


def test_auto_is_bf16_where_the_gpu_has_it(settings: dict[str, Any]) -> None:
    listener = Started()
    ftkit.train(ftkit.plan(**{**settings, "precision": "auto", "epochs": 1}), listener)
    if DEVICE == "cuda":
        expected = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        assert listener.event.precision == expected


@on_cuda
def test_the_first_epoch_is_that_of_a_cpu(settings: dict[str, Any]) -> None:
    """The same first weights, order and augmentation: only the last digits differ, which few steps don't amplify."""
    small = {"epochs": 1, "augment_on": "workers", "optimizer": {"name": "sgd", "lr": 0.001}}
    gpu, cpu = (losses(train(settings, device, device=device, **small)) for device in ("cuda", "cpu"))
    assert gpu == pytest.approx(cpu, abs=5e-3)


def test_the_cache_trains_as_without_it(settings: dict[str, Any]) -> None:
    uncached = train(settings, "uncached", **FROZEN, augment="none", cache={"use": False})
    cached = train(settings, "cached", **FROZEN, augment="none")
    assert losses(cached) == pytest.approx(losses(uncached), abs=2e-3)
    assert losses(cached, "val_loss") == pytest.approx(losses(uncached, "val_loss"), abs=5e-3)


def test_activations_on_the_device_and_in_pinned_memory_give_the_same_bytes(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []
    for kind in (table.DeviceTable, table.PinnedTable):

        def noted(self: Any, *args: Any, made: Any = kind.__init__, name: str = kind.__name__) -> None:
            kept.append(name)
            made(self, *args)

        monkeypatch.setattr(kind, "__init__", noted)
    changes = {**FROZEN, "cache": {"augmentations": 2}}
    on_device = last_weights(train(settings, "device", **changes))
    assert set(kept) == ({"DeviceTable"} if DEVICE == "cuda" else set())
    kept.clear()
    monkeypatch.setattr(table, "SHARE", 0.0)
    assert last_weights(train(settings, "pinned", **changes)) == on_device
    assert set(kept) == ({"PinnedTable"} if DEVICE == "cuda" else set())


@pytest.mark.parametrize("augment", ["standard", "strong", "trivialaugment"])
def test_augmentation_on_the_device_is_that_of_the_workers(settings: dict[str, Any], augment: str) -> None:
    """Within the few levels of 255 by which single operations differ."""
    small = {"epochs": 1, "augment": augment, "optimizer": {"name": "sgd", "lr": 0.001}}
    device, workers = (losses(train(settings, where, augment_on=where, **small)) for where in ("device", "workers"))
    assert device == pytest.approx(workers, abs=0.02)


@pytest.mark.parametrize(("optimizer", "operation"), [("adamw", "aten::_fused_adamw_"), ("adam", "aten::_fused_adam_")])
def test_optimizers_are_fused(settings: dict[str, Any], optimizer: str, operation: str) -> None:
    assert operation in operations(settings, epochs=1, optimizer={"name": optimizer}, precision="bf16")


@pytest.mark.skipif(sys.platform != "linux", reason="wants a C++ compiler where torch looks for it")
def test_a_compiled_network_learns_the_same(settings: dict[str, Any]) -> None:
    plain = losses(train(settings, "plain", epochs=1, augment="none"))
    compiled = losses(train(settings, "compiled", epochs=1, augment="none", compile=True))
    assert compiled == pytest.approx(plain, abs=0.01)


STEPS: dict[str, dict[str, Any]] = {
    "full": {},
    "bf16": {"precision": "bf16"},
    "clipped": {"precision": "bf16", "clip_grad": 1.0},
    "accumulated": {"accumulate": 2},
    "smoothed": {"label_smoothing": 0.1, "balance": "weights"},
    "mixed": {"batch_transforms": [{"name": "mixup"}, {"name": "cutmix"}]},
    "averaged": {"callbacks": [{"name": "ema"}]},
    "augmented": {"augment": "strong"},
    "cached": FROZEN,
    "gradual": {"strategy": "gradual", "epochs": 5},
    "discriminative": {"strategy": "discriminative"},
}


@pytest.mark.parametrize("name", STEPS)
def test_no_step_waits_for_the_device(settings: dict[str, Any], steps: Steps, name: str) -> None:
    """So the GPU always has work: the next step is prepared while it computes."""
    train(settings, name, **STEPS[name])
    assert steps.taken > 5
    assert steps.waits == []


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"strategy": "gradual", "epochs": 4}], ids=str)
def test_a_run_resumes_to_the_same_bytes(settings: dict[str, Any], steps: Steps, changes: dict[str, Any]) -> None:
    whole = last_weights(train(settings, "whole", **changes))
    assert last_weights(train(settings, "again", **changes)) == whole, "a second run must be the same to begin with"
    steps.stop_at = steps.taken + 5
    with pytest.raises(RunInterrupted):
        train(settings, "stopped", **changes)
    resumed = ftkit.resume(Path(settings["output"]) / "stopped")
    assert last_weights(resumed) == whole


def ftkit_command(settings: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    flags = ("--weights", "none", "--no-probe", "--epochs", "1", "--image-size", str(SIZE), "--device", DEVICE, "-q")
    data = ("--data", settings["dataset"]["root"], "--backbone", NETWORK, "--output", settings["output"])
    command = [sys.executable, "-m", "ftkit", "train", *data, *flags, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=os.environ)


def test_more_processes_than_gpus_are_refused_in_one_line(settings: dict[str, Any]) -> None:
    count = torch.cuda.device_count() if DEVICE == "cuda" else 1
    done = ftkit_command(settings, "--num-processes", str(count + 1))
    if DEVICE != "cuda":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    assert f"{count + 1} processes on this machine would share" in done.stderr
    assert f"--num-processes {count}" in done.stderr
    assert "Traceback" not in done.stderr


@on_cuda
def test_running_out_of_memory_is_one_line_and_keeps_the_checkpoint(settings: dict[str, Any]) -> None:
    # Enough for two images, which are tried first, but not for eight, from which BatchNorm would learn.
    with memory_limit(1.0e9), pytest.raises(FtkitError) as failed:
        train(settings, batch_size=12, preprocessing={"size": 512}, cache={"use": False})
    assert failed.value.message.startswith("out of memory: could not allocate ")
    assert "with 12 images of 512 x 512 pixels a batch" in failed.value.message
    assert "BatchNorm layers that train would see fewer than 8 images" in failed.value.message
    assert failed.value.hint is not None
    assert "--batch-size 6 --accumulate 2" in failed.value.hint
    assert (Path(settings["output"]) / "run").is_dir()


@on_cuda
def test_a_batch_that_does_not_fit_is_divided(settings: dict[str, Any]) -> None:
    """Without BatchNorm that trains, so that the result is that of whole batches."""
    large = {"batch_size": 96, "preprocessing": {"size": 224}, "cache": {"use": False}, "strategy": "norms"}
    network = {**settings, **large, "backbone": "convnext_tiny", "augment": "none"}
    whole, notes = train(network, "whole"), Notes()
    with memory_limit(6.0e9):
        divided = ftkit.train(ftkit.plan(**{**network, "name": "divided"}), notes)
    assert any("from now on batches of 96 images are computed as" in note for note in notes.notes)
    assert losses(divided) == pytest.approx(losses(whole), abs=5e-3)
    assert losses(divided, "val_loss") == pytest.approx(losses(whole, "val_loss"), abs=5e-3)


@on_cuda
def test_the_batch_size_that_fits_is_found(settings: dict[str, Any]) -> None:
    auto = {**settings, "batch_size": "auto", "accumulate": 4, "preprocessing": {"size": 224}, "cache": {"use": False}}
    notes = Notes()
    with memory_limit(4.0e9):
        outcome = ftkit.train(ftkit.plan(**auto), notes)
    plan = json.loads((outcome.run.path / "plan.json").read_text())
    assert plan["effective_batch"] == 128
    assert plan["per_process_batch"] in (8, 16, 32, 64)
    assert not any("from now on batches of" in note for note in notes.notes)


def test_a_run_is_evaluated_on_the_device_as_in_training(settings: dict[str, Any]) -> None:
    outcome = train(settings, epochs=2)
    command = [sys.executable, "-m", "ftkit", "evaluate", str(outcome.run.path), "--device", DEVICE, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss"] == pytest.approx(outcome.best["val_loss"], abs=2e-3)
