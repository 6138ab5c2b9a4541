"""kill -9 at random instants, over strategies, workers and processes: nothing corrupt, every end the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeFolder
from tests.soak import times

pytestmark = pytest.mark.soak

KILLS = 200
WORKERS = (0, 2, 4)
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"name": "full"},
    {"name": "freeze"},
    {"name": "freeze-unfreeze", "unfreeze_epoch": 1},
    {"name": "milestones", "milestones": [1, 2]},
    {"name": "gradual"},
    {"name": "discriminative"},
    {"name": "freezer", "name_starts_with": ["conv1", "conv2"], "until_epoch": 1},
    {"name": "norms"},
    {"name": "bias"},
    {"name": "probe"},
    {"name": "probe-then-finetune"},
    {"name": "scratch"},
    {"name": "then", "first": "freeze", "second": "gradual", "at": 1},
)
CONTEXT = multiprocessing.get_context("forkserver")
"""Each run is a process of its own, from a server that has imported torch and computed nothing."""


@dataclass(frozen=True)
class Trial:
    strategy: dict[str, Any]
    workers: int

    def settings(self, data: Path, output: Path) -> dict[str, Any]:
        # Only this one has normalisation layers, which the strategy wants; only the other has weights at hand.
        normed = self.strategy["name"] == "norms"
        network = ("cifar_resnet20", "none") if normed else ("lenet", "default")
        return {
            "dataset": {"name": "folder", "root": str(data)},
            "backbone": network[0],
            "weights": "none" if self.strategy["name"] == "scratch" else network[1],
            "strategy": self.strategy,
            "workers": self.workers,
            "output": str(output),
            "name": "run",
            "batch_size": 4,
            "epochs": 3,
            "patience": 2,
            "accumulate": 2,
            "checkpoint": {"every_steps": 1, "keep": 2},
        }


def run_here(settings: dict[str, Any]) -> None:
    """In a process of its own: the whole run, or the rest of it."""
    import ftkit
    from ftkit.library import resume

    os.setsid()
    run = Path(settings["output"], "run")
    if (run / "config.yaml").is_file():
        resume(run)
    else:
        ftkit.train(ftkit.plan(**settings))


def started(settings: dict[str, Any]) -> Any:
    process = CONTEXT.Process(target=run_here, args=(settings,))
    process.start()
    return process


def finished(settings: dict[str, Any]) -> float:
    began = time.monotonic()
    process = started(settings)
    process.join(600)
    assert process.exitcode == 0
    return time.monotonic() - began


def result(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": [(run / name / "model.safetensors").read_bytes() for name in ("first", "model", "last")],
        "records": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
    }


def group_members(leader: int) -> Iterator[int]:
    """Processes that are left of the group of one that was killed."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                yield int(entry.name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    CONTEXT.set_forkserver_preload(["ftkit", "ftkit.engine.train", "ftkit.library"])
    layout = {"train": {"a": 12, "b": 12}, "val": {"a": 3, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def test_killed_anywhere_a_run_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("FTKIT_SOAK_SEED", "3")))
    wholes: dict[str, tuple[dict[str, Any], float]] = {}
    outcomes = {"killed": 0, "done before": 0}
    for number in range(times(KILLS)):
        trial = Trial(STRATEGIES[number % len(STRATEGIES)], WORKERS[number % len(WORKERS)])
        name = f"{trial.strategy['name']}-{trial.workers}"
        if name not in wholes:
            seconds = finished(trial.settings(data, tmp_path / f"whole-{name}"))
            wholes[name] = result(tmp_path / f"whole-{name}" / "run"), seconds
        expected, seconds = wholes[name]
        settings = trial.settings(data, tmp_path / str(number))
        process = started(settings)
        time.sleep(chance.uniform(0, seconds))
        process.kill()
        process.join(60)
        outcomes["killed" if process.exitcode == -signal.SIGKILL else "done before"] += 1
        deadline = time.monotonic() + 60
        while list(group_members(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(group_members(process.pid)) == [], "its workers have ended too"
        run = tmp_path / str(number) / "run"
        if run.exists() and not (run / "config.yaml").exists():
            run.rename(run.with_name("never-began"))
        if not (run / "last").is_dir():
            finished(settings)
        assert result(run) == expected, f"trial {number}: {trial}"
    assert outcomes["killed"] > 0.8 * times(KILLS), outcomes
