"""`ftkit lr-find`: a curve of the loss over rising rates, and nothing left of it."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeFolder, RunFtkit

FLAGS = (
    *("--data", "data", "--backbone", "lenet", "--weights", "none"),
    *("--batch-size", "8", "--workers", "0", "--augment", "none"),
)


@pytest.fixture
def project(tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    image_folder(tmp_path / "data", {"train": {"a": 12, "b": 12}, "val": {"a": 2, "b": 2}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(run: RunFtkit, *flags: str) -> dict[str, Any]:
    done = run("lr-find", *FLAGS, *flags, "--json")
    assert done.returncode == 0, done.stderr
    curve: dict[str, Any] = json.loads(done.stdout)
    return curve


def test_the_curve_of_a_run_and_the_command_that_uses_it(project: Path, run_ftkit: RunFtkit) -> None:
    curve = found(run_ftkit, "--strategy", "full")
    rates, losses = curve["rates"], curve["losses"]
    assert len(rates) == len(losses) == len(curve["smoothed"]) > 10
    assert rates[0] == pytest.approx(1e-6)
    assert {round(after / before, 6) for before, after in itertools.pairwise(rates)} == {round(1e7 ** (1 / 99), 6)}
    assert curve["diverged"] == (len(rates) < 100)
    assert set(curve["suggestions"]) == {"valley", "steepest", "minimum"}
    assert curve["suggested"] == curve["suggestions"]["valley"]
    assert rates[0] < curve["suggested"] < rates[-1]
    words = f"ftkit train {' '.join(FLAGS)} --strategy full --lr {curve['suggested']:g}"
    assert sorted(curve["command"].split()) == sorted(words.split())
    assert run_ftkit(*curve["command"].split()[1:], "--epochs", "1", "-q").returncode == 0


def test_it_is_the_same_for_a_seed_and_leaves_no_run(project: Path, run_ftkit: RunFtkit) -> None:
    once, again, other = (found(run_ftkit, "--seed", seed) for seed in ("1", "1", "2"))
    assert again == once
    assert other["losses"] != once["losses"]
    assert sorted(path.name for path in project.iterdir()) == ["data"]


def test_it_measures_the_last_phase_at_the_scales_of_the_strategy(project: Path, run_ftkit: RunFtkit) -> None:
    flags = ("--strategy", "gradual", "--epochs", "4")
    curve = found(run_ftkit, *flags)
    planned = json.loads(run_ftkit("plan", *FLAGS, *flags, "--json").stdout)
    assert curve["epochs"] == planned["phases"][-1]["epochs"]
    assert curve["lr_scale"] == planned["epochs"][-1]["lr_scale"]


def test_it_starts_from_the_probe_where_the_run_does(project: Path, run_ftkit: RunFtkit) -> None:
    """The head that the probe solves knows the classes before the first step."""
    assert run_ftkit("train", *FLAGS, "--strategy", "full", "--epochs", "1", "--name", "first", "-q").returncode == 0
    start = ("--weights", "runs/first", "--strategy", "full")
    probed, random = (found(run_ftkit, *start, switch)["losses"][0] for switch in ("--probe", "--no-probe"))
    assert probed < random


def test_the_table(project: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("lr-find", *FLAGS, "--strategy", "full")
    assert "valley  " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ftkit train --data data")
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 120


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr", "0.1"), "--lr has no effect: lr-find tries rates"),
        (("--strategy", "freeze", "--epochs", "0"), "trains no epochs, so no learning rate"),
        (
            ("--strategy", "freeze", "--set", "group_lr.head=0.1"),
            "every group that trains has its rate from group_lr",
        ),
    ],
)
def test_without_a_rate_to_find_it_is_refused(
    project: Path, run_ftkit: RunFtkit, flags: tuple[str, ...], message: str
) -> None:
    done: subprocess.CompletedProcess[str] = run_ftkit("lr-find", *FLAGS, *flags)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
