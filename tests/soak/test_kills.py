"""kill -9 at random instants, over strategies, workers and processes: nothing corrupt, every end the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeFolder
from tests.runs import models, records
from tests.soak import times

pytestmark = pytest.mark.soak

LOG = logging.getLogger(__name__)
"""`--log-cli-level INFO` shows how far it is."""
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
    processes: int = 1

    @property
    def name(self) -> str:
        return f"{self.strategy['name']}-{self.workers}-{self.processes}"

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
            # Without them, ends of epochs this short are not written one by one.
            "checkpoint": {"every_steps": None if self.workers == 4 else 1, "keep": 2},
        }


def run_here(settings: dict[str, Any], environment: dict[str, str]) -> None:
    """In a process of its own: the whole run, or the rest of it."""
    os.setsid()
    os.environ |= environment
    import ftkit
    from ftkit import resume

    run = Path(settings["output"], "run")
    # Not by the folder alone, which the main one of two processes may have made since.
    if settings.pop("begun"):
        resume(run)
    else:
        ftkit.train(ftkit.plan(**settings))


def started(trial: Trial, data: Path, output: Path) -> list[Any]:
    """Its processes, which find each other as those of torchrun do."""
    settings = trial.settings(data, output) | {"begun": (output / "run" / "config.yaml").is_file()}
    world = {"WORLD_SIZE": str(trial.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    processes = []
    for rank in map(str, range(trial.processes)):
        own = {"RANK": rank, "LOCAL_RANK": rank, **world} if trial.processes > 1 else {}
        processes.append(CONTEXT.Process(target=run_here, args=(settings, own)))
        processes[-1].start()
    return processes


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def finished(trial: Trial, data: Path, output: Path) -> float:
    started_at = time.monotonic()
    processes = started(trial, data, output)
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * trial.processes
    return time.monotonic() - started_at


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
    CONTEXT.set_forkserver_preload(["ftkit", "torch", "torchvision"])
    layout = {"train": {"a": 12, "b": 12}, "val": {"a": 3, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


def test_killed_anywhere_a_run_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("FTKIT_SOAK_SEED", "3")))
    wholes: dict[str, tuple[Any, float]] = {}
    outcomes = {"killed": 0, "done before": 0}
    for number in range(times(KILLS)):
        # The three numbers have no common divisor, so that all combinations come.
        trial = Trial(STRATEGIES[number % 13], WORKERS[number % 3], 1 + (number % 4 == 3))
        if trial.name not in wholes:
            whole = tmp_path / f"whole-{trial.name}"
            seconds = finished(trial, data, whole)
            wholes[trial.name] = (models(whole / "run"), records(whole / "run")), seconds
        expected, seconds = wholes[trial.name]
        output = tmp_path / str(number)
        processes = started(trial, data, output)
        time.sleep(chance.uniform(0, seconds))
        # Of two, both or either; the one that is left ends by itself, or, where they hadn't met yet, by the agent.
        doomed = chance.choice([processes, processes[:1], processes[-1:]])
        for process in doomed:
            process.kill()
        for process in processes:
            process.join(20)
            process.kill()
            process.join(60)
        outcomes["killed" if doomed[0].exitcode == -signal.SIGKILL else "done before"] += 1
        deadline = time.monotonic() + 60
        left = [member for process in processes for member in group_members(process.pid)]
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [member for process in processes for member in group_members(process.pid)]
        assert left == [], "their workers have ended too"
        run = output / "run"
        if run.exists() and not (run / "config.yaml").exists():
            run.rename(run.with_name("never-began"))
        if not (run / "last").is_dir():
            finished(trial, data, output)
        assert (models(run), records(run)) == expected, f"trial {number}: {trial}"
        LOG.info("%d: %s, %.1f s when whole; %s", number, trial.name, seconds, outcomes)
    assert outcomes["killed"] > 0.8 * times(KILLS), outcomes
