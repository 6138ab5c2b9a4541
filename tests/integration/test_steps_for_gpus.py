"""What would be wrong on a GPU and can be seen without one; tests/gpu has what needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ftkit
from ftkit.distributed.processes import check_devices
from ftkit.errors import RequestError
from ftkit.training.trainer import Trainer
from tests.conftest import MakeFolder

WAITING = ("aten._local_scalar_dense", "aten.where.Scalar", "aten.nonzero", "aten.masked_select", "aten.lift_fresh")
"""Operations that on a GPU wait for it: they read a value, or make a tensor of a number and copy it to the device."""


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(WAITING):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


CHANGES: list[dict[str, Any]] = [
    {},
    {"clip_grad": 1.0, "accumulate": 2, "label_smoothing": 0.1},
    {"balance": "weights", "callbacks": [{"name": "ema"}]},
    {"strategy": "gradual", "cache": {"use": False}, "optimizer": {"name": "sgd", "momentum": 0.9}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes) or "default")
def test_no_step_reads_a_value_back(
    changes: dict[str, Any], tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}})
    waits, original = Waits(), Trainer.train_step

    def watched(self: Trainer, active: Any, batches: Any, step: int) -> bool:
        waits.steps += 1
        read = [next(batches) for _ in range(self.session.plan.batches.accumulate)]  # in workers, with a GPU
        with waits:
            return original(self, active, iter(read), step)

    monkeypatch.setattr(Trainer, "train_step", watched)
    settings = {
        "dataset": {"name": "folder", "root": str(data)}, "backbone": "cifar_resnet20", "weights": "none",
        "strategy": "full", "epochs": 2, "batch_size": 4, "workers": 0, "precision": "fp32", "device": "cpu",
        "output": str(tmp_path / "runs"),
    }  # fmt: skip
    ftkit.train(ftkit.plan(**{**settings, **changes}))
    assert waits.steps >= 4
    assert waits.found == []


@pytest.mark.parametrize(("gpus", "processes", "refused"), [(1, 2, True), (2, 2, False), (4, 2, False)])
def test_more_processes_than_gpus_are_refused(
    gpus: int, processes: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    check_devices("cpu")
    if not refused:
        check_devices("cuda")
        return
    with pytest.raises(RequestError, match="2 processes on this machine would share 1 GPU") as error:
        check_devices("cuda")
    assert error.value.hint == "give --num-processes 1, or --device cpu"
