"""What several processes must agree on, checked from within each of them: `python -m tests.process_checks FOLDER PART`.

The environment says which of them this is, as torchrun sets it. Each writes what it found to `FOLDER/RANK.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import ftkit
from ftkit import resume
from ftkit.api import Preprocessing, Split
from ftkit.data.loading.loader import Samples, evaluation_loader
from ftkit.distributed import launch_env
from ftkit.errors import RunInterrupted
from ftkit.evaluation import collect
from ftkit.models.compute.devices import compute_of, make_accelerator
from ftkit.training.callbacks.checkpointing import Checkpointing
from ftkit.training.session import Session
from ftkit.training.steppers.fsdp import own
from ftkit.training.steppers.zero import ZeroStepper
from ftkit.training.trainer import Trainer
from ftkit.transforms import pipeline
from tests.evaluating import evaluate
from tests.stopping import StopAt

STRATEGIES: dict[str, dict[str, Any]] = {
    "full": {},
    "freeze": {},
    "freeze-unfreeze": {"unfreeze_epoch": 1},
    "milestones": {"milestones": [1, 2]},
    "gradual": {},
    "discriminative": {},
    "freezer": {"name_starts_with": ["conv1", "bn1"], "until_epoch": 1},
    "norms": {},
    "bias": {},
    "scratch": {},
    "then": {"first": "freeze", "second": "full", "at": 1},
}
WITH_PROBE: dict[str, dict[str, Any]] = {"gradual": {}, "probe-then-finetune": {}, "probe": {}}
"""On LeNet, the network whose weights come with ftkit."""

SAMPLE = ("gradual", "then")
CALLBACKS: dict[str, Any] = {
    "backbone": "lenet",
    "weights": "default",
    "plugins": [str(Path(__file__).with_name("noise_plugin.py"))],
    "callbacks": [{"name": "ema", "decay": 0.8}, {"name": "l2-sp", "strength": 1.0}, "noise-plugin/noise"],
}
STOPS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("gradual", 5, {}),
    ("gradual", 2, {}),
    ("gradual", 4, CALLBACKS),
    ("full", 4, {}),
    ("gradual", 1, {}),
    ("discriminative", 7, {}),
    ("norms", 6, {}),
    ("full", 5, CALLBACKS),
)
"""Strategies, steps after which a process gets a signal, and further settings; an epoch has three steps."""

SIZES = [1, 2, 3, 6, 7, 8, 13, 14, 15, 97]

PREPROCESSING = Preprocessing(size=4, crop_pct=1.0, fit="stretch")


def digest(session: Session) -> str:
    """Of all that must be the same everywhere: weights, buffers, and what the optimizer remembers."""
    found = hashlib.sha256()
    for name, tensor in session.network.state_dict().items():
        found.update(name.encode() + tensor.contiguous().view(-1).numpy().tobytes())
    for index, values in sorted(session.optimizer.state_dict()["state"].items()):
        for key, value in sorted(values.items()):
            found.update(f"{index}{key}".encode() + torch.as_tensor(value).contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


WRITE = Checkpointing.write


class Watch:
    """At each checkpoint: is everything the same in all processes, and what is frozen as it was?"""

    def __init__(self) -> None:
        self.spread: list[str] = []
        self.thawed: list[str] = []
        self.rates: list[dict[str, float]] = []
        self._before: dict[str, torch.Tensor] = {}

    def __call__(self, checkpointing: Checkpointing) -> None:
        WRITE(checkpointing)
        session = checkpointing.trainer.session
        everywhere: list[Any] = [None] * session.accelerator.num_processes
        torch.distributed.all_gather_object(everywhere, digest(session))
        epoch = session.progress.epoch
        if len(set(everywhere)) > 1:
            self.spread.append(f"after epoch {epoch}")
        state = {name: tensor.clone() for name, tensor in session.network.state_dict().items()}
        if epoch:
            self.rates.append(session.plan.learning_rates((epoch - 1) * session.plan.batches.steps))
        if epoch and self._before:
            rows = session.plan.schedule.rows[epoch - 1]
            frozen = [g for g in session.plan.schedule.groups if g.name not in rows]
            owned = {name for group in frozen for name in session.built.members[group.name]}
            moved = [name for name in owned if not torch.equal(state[name], self._before[name])]
            self.thawed += [f"{name} in epoch {epoch}" for name in moved]
        self._before = state


def settings(
    data: Path, output: Path, name: str, strategy: str, options: dict[str, Any], lenet: bool
) -> dict[str, Any]:
    return {
        "dataset": {"name": "folder", "root": str(data)},
        "backbone": "lenet" if lenet else "cifar_resnet20",
        "weights": "default" if lenet else "none",
        "strategy": {"name": strategy, **options},
        "output": str(output),
        "name": name,
        "batch_size": 4,
        "epochs": 0 if strategy == "probe" else 3,
        "checkpoint": {"min_seconds": 0},
        "workers": 0,
        "device": "cpu",
    }


def schedules(folder: Path, sample: bool) -> dict[str, Any]:
    """Each strategy trained: equal everywhere, frozen is frozen, and the rates are those of one process."""
    found: dict[str, Any] = {}
    cases = [(n, o, False) for n, o in STRATEGIES.items()] + [(n, o, True) for n, o in WITH_PROBE.items()]
    for strategy, options, lenet in [case for case in cases if case[0] in SAMPLE or not sample]:
        watch = Watch()
        setattr(Checkpointing, "write", partialmethod(watch))  # noqa: B010 - a method is replaced
        name = f"{'lenet-' if lenet else ''}{strategy}"
        more = CALLBACKS if lenet and strategy == "gradual" else {}
        plan = ftkit.plan(**settings(folder / "data", folder / "runs", name, strategy, options, lenet) | more)
        ftkit.train(plan)
        alone = [plan.learning_rates(epoch * plan.batches.steps) for epoch in range(plan.config.epochs)]
        found[name] = {"spread": watch.spread, "thawed": watch.thawed, "rates": watch.rates, "rates of one": alone}
    setattr(Checkpointing, "write", WRITE)  # noqa: B010 - a method is put back
    return found


class StopOne(StopAt):
    """A signal that reaches one process alone."""

    def __init__(self, rank: int, step: int, signum: signal.Signals = signal.SIGTERM) -> None:
        super().__init__(step if launch_env.rank() == rank else -1, signum)


def stops(folder: Path, sample: bool) -> dict[str, Any]:
    """A run that a signal to one process stopped, in all kinds of places, and one that went through."""
    found: dict[str, Any] = {}
    for number, (strategy, step, more) in enumerate(STOPS[:3] if sample else STOPS):
        whole = f"{strategy}-callbacks" if more else strategy
        plain = settings(folder / "data", folder / "whole", whole, strategy, {}, lenet=False) | more
        if not (folder / "whole" / whole).exists():
            # The main process makes it a little later than the others look, so all must have looked first.
            torch.distributed.barrier()
            ftkit.train(ftkit.plan(**plain))
        name = f"{whole}-{step}"
        cut = plain | {"output": str(folder / "cut"), "name": name, "checkpoint": {"every_steps": 1}}
        try:
            ftkit.train(ftkit.plan(**cut), StopOne(number % 2, step))
            code = 0
        except RunInterrupted as error:
            code = error.exit_code
        resume(folder / "cut" / name)
        weights = [root / "last" / "model.safetensors" for root in (folder / "whole" / whole, folder / "cut" / name)]
        records = [
            [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines.splitlines()]
            for lines in ((root.parents[1] / "metrics.jsonl").read_text() for root in weights)
        ]
        found[name] = {
            "code": code,
            "weights": weights[0].read_bytes() == weights[1].read_bytes(),
            "records": records[0] == records[1],
        }
    return found


def shards(folder: Path) -> dict[str, Any]:
    """Runs whose network is sharded by FSDP2; the shard of a process."""

    def part(trainer: Trainer) -> tuple[int, int]:
        parameters = list(trainer.session.network.parameters())
        return sum(own(p).numel() for p in parameters), sum(p.numel() for p in parameters)

    given = {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}, "cache": {"use": False}}
    return apart(folder, given, {"fsdp": True}, {}, part, ((1, 5, "sgd"), (0, 2, "adamw")))


def zero(folder: Path) -> dict[str, Any]:
    """Runs by DeepSpeed's ZeRO; what a process has of the state of what trains."""

    def part(trainer: Trainer) -> tuple[int, int] | None:
        stepper = trainer.active.stepper if trainer.active else None
        if not isinstance(stepper, ZeroStepper):
            return None
        return stepper.own_shard_size, sum(p.numel() for p in trainer.session.network.parameters() if p.requires_grad)

    given = {
        "accumulate": 2,
        "batch_size": 3,
        "clip_grad": 1.0,
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    }
    adamw = {"zero_stage": 2, "strategy": {"name": "then", **STRATEGIES["then"]}}
    return apart(folder, given, {"zero_stage": 1}, adamw, part, ((1, 4, "sgd"), (0, 1, "adamw")))


def apart(
    folder: Path,
    given: dict[str, Any],
    shared: dict[str, Any],
    adamw: dict[str, Any],
    part: Callable[[Trainer], tuple[int, int] | None],
    stops: Sequence[tuple[int, int, str]],
) -> dict[str, Any]:
    """Runs in shards: how much a process has, where they end, and where they end when stopped.

    Args:
        given: What a run with SGD is like, sharded or not.
        shared: What shards it out.
        adamw: What else is different in another one, with AdamW.
        part: How many values this process has, and how many there are, if any are sharded.
        stops: Process, step and optimizer.
    """
    plain = (
        settings(folder / "data", folder / "plain", "sgd", "gradual", {}, lenet=False) | {"precision": "fp32"} | given
    )
    parts: list[tuple[int, int]] = []

    def watch(checkpointing: Checkpointing) -> None:
        WRITE(checkpointing)
        if found := part(checkpointing.trainer):
            parts.append(found)

    ftkit.train(ftkit.plan(**plain))
    setattr(Checkpointing, "write", watch)  # noqa: B010 - a method is replaced
    sgd = plain | {"output": str(folder / "apart"), "checkpoint": {"every_steps": 1}} | shared
    runs = {"sgd": sgd, "adamw": sgd | {"name": "adamw", "optimizer": "adamw"} | adamw}
    for each in runs.values():
        ftkit.train(ftkit.plan(**each))
    setattr(Checkpointing, "write", WRITE)  # noqa: B010 - a method is put back
    codes = []
    for rank, step, name in stops:
        torch.distributed.barrier()
        try:
            ftkit.train(ftkit.plan(**runs[name] | {"name": f"{name}-cut"}), StopOne(rank, step))
        except RunInterrupted as error:
            codes.append(error.exit_code)
        resume(folder / "apart" / f"{name}-cut")
    files = {path.parents[1].name: path.read_bytes() for path in (folder / "apart").glob("*/last/model.safetensors")}
    plain_end, apart_end = (load_file(folder / name / "sgd/last/model.safetensors") for name in ("plain", "apart"))
    return {
        "parts": parts,
        "codes": codes,
        "resumed": [files[name] == files[f"{name}-cut"] for name in runs],
        "far": [
            name
            for name, tensor in plain_end.items()
            if not torch.allclose(apart_end[name].float(), tensor.float(), rtol=1e-3, atol=5e-4)
        ],
    }


def metrics(sizes: list[int]) -> list[int]:
    """Sizes of a split at which the processes together don't get the very metrics of one."""
    accelerator = make_accelerator(ftkit.plan(device="cpu").config, "fp32")
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 3)).eval()
    pixels = np.random.default_rng(3).integers(0, 256, (max(sizes), 4, 4, 3), dtype=np.uint8)
    wrong = []
    for size in sizes:
        split = Split([str(i) for i in range(size)], [i % 3 for i in range(size)], lambda i: Image.fromarray(pixels[i]))
        samples = Samples(split, pipeline.evaluation(PREPROCESSING))
        share = evaluation_loader(samples, 7, 0, accelerator.process_index, accelerator.num_processes)
        together = collect.collect_outputs(network, share, accelerator, compute_of(accelerator))
        logits, labels, _ = collect.infer(network, evaluation_loader(samples, 7, 0), compute_of(accelerator))
        # Of batches of other sizes, the last digit of a sum may be another.
        same = torch.equal(together[1], labels) and torch.allclose(together[0], logits, rtol=1e-5, atol=1e-4)
        summaries = [evaluate(*each, ("a", "b", "c")).values for each in (together, (logits, labels))]
        if not (same and all(summaries[0][name] == pytest.approx(value) for name, value in summaries[1].items())):
            wrong.append(size)
    return wrong


def main(folder: Path, part: str) -> None:
    found: dict[str, Any] = {}
    if part == "zero":
        (folder / f"{launch_env.rank()}.json").write_text(json.dumps(zero(folder)))
        return
    if part == "sample":
        found["shards"] = shards(folder)
    if part != "all metrics":
        found["schedules"] = schedules(folder, part == "sample")
        found["stops"] = stops(folder, part == "sample")
    found["metrics"] = metrics(list(range(1, 201)) if part == "all metrics" else SIZES)
    (folder / f"{launch_env.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(0)
