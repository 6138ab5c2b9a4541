"""Standard streams: results alone on stdout whoever prints, and a training that outlives whoever reads its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.broken_plugins import install
from tests.conftest import MakeFolder
from tests.sessions import environment

NOISY = """
import atexit, ctypes, os, subprocess, sys
from dataclasses import dataclass
from ftkit.api import Dataset, Split, Splits, Strategy, hookimpl

def shout(what):
    print("python", what)
    os.write(1, b"descriptor\\n")
    subprocess.run(["echo", "process"], check=False)
    ctypes.CDLL(None).puts(b"in C")
    ctypes.CDLL(None).fflush(None)

atexit.register(shout, "at exit")
shout("at import")

@dataclass(frozen=True)
class Loud(Strategy):
    \"\"\"Prints.\"\"\"

    def lr_scales(self, epoch, epochs, groups):
        print("lr_scales")
        return {groups[-1]: 1.0}

def drawn(index):
    from PIL import Image
    shout("in a worker")
    return Image.new("RGB", (32, 32), (255 * (index % 2), 0, 7 * index))

@dataclass(frozen=True)
class Drawn(Dataset):
    \"\"\"Prints.\"\"\"

    def load(self):
        shout("load")
        split = lambda n: Split(tuple(f"{i}.png" for i in range(n)), tuple(i % 2 for i in range(n)), drawn)
        return Splits(("a", "b"), split(8), split(4))

@hookimpl
def ftkit_datasets():
    return {"drawn": Drawn}

@hookimpl
def ftkit_strategies():
    return {"loud": Loud}

@hookimpl
def ftkit_run_start(run, plan):
    shout("start")

@hookimpl
def ftkit_epoch_end(run, record):
    sys.stdout.write("epoch\\n")
    shout("epoch")
"""

SMALL = ("--backbone", "cifar_resnet20", "--weights", "none", "--epochs", "2", "--device", "cpu", "--batch-size", "4")
LAYOUT = {"train": {"a": 9, "b": 8}, "val": {"a": 4, "b": 3}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("streams") / "data", LAYOUT)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ftkit", *arguments]


def training(data: Path, *more: str) -> list[str]:
    return command("train", "--data", str(data), *SMALL, "--workers", "1", "--name", "run", *more)


def shell(line: str, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A line for bash in which `"$@"` stands for the command."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *arguments],
        cwd=folder,
        env=environment(folder / "site"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("more", [(), pytest.param(("--num-processes", "2"), marks=pytest.mark.long)])
def test_json_stays_json_beside_a_plugin_that_prints(more: tuple[str, ...], tmp_path: Path) -> None:
    install(tmp_path / "site", "noisy", NOISY)
    own = ("--dataset", "noisy/drawn", "--strategy", "noisy/loud", "--workers", "1", "--json")
    done = shell('"$@"', command("train", *SMALL, *own, *more), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["epoch"] in (1, 2)
    reported = ("start", "epoch", "in a worker", *(["at exit"] if not more else []))
    for printed in (*(f"python {when}" for when in reported), "descriptor", "process", "in C"):
        assert printed in done.stderr.splitlines(), printed


@pytest.mark.long
@pytest.mark.parametrize("line", ["plan --json", "plugins list --json"])
def test_json_of_other_commands_stays_json(line: str, data: Path, tmp_path: Path) -> None:
    install(tmp_path / "site", "noisy", NOISY)
    more = ("--data", str(data), *SMALL, "--strategy", "noisy/loud") if line.startswith("plan") else ()
    done = shell('"$@"', command(*line.split(), *more), tmp_path)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


def whole(run: Path) -> None:
    """The run went to its end, and its log says so."""
    assert (run / "last" / "model.safetensors").is_file()
    log = (run / "train.log").read_text()
    assert "epoch 2/2" in log
    assert "best epoch" in log


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('"$@" 2>&1 | head -n 2 >&2; exit ${PIPESTATUS[0]}', 0),
        pytest.param('"$@" >/dev/full', 1, marks=pytest.mark.long),
        *(
            pytest.param(line, 0, marks=pytest.mark.long)
            for line in (
                '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
                '"$@" 2> >(head -n 1 >/dev/null)',
                '"$@" <&- >&- 2>&-',
                '"$@" 2>/dev/full',
                '"$@" 2>&-',
                '"$@" >&-',
                '"$@" | true; exit ${PIPESTATUS[0]}',
            )
        ),
    ],
)
def test_a_training_outlives_whoever_reads_its_messages(line: str, code: int, data: Path, tmp_path: Path) -> None:
    done = shell(line, training(data), tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("stdout can't be written to: No space left on device" in done.stderr) == (code == 1)
    whole(tmp_path / "runs" / "run")


@pytest.mark.long
def test_a_reader_that_leaves_two_processes(data: Path, tmp_path: Path) -> None:
    line = '"$@" 2>&1 | head -n 1 >&2; exit ${PIPESTATUS[0]}'
    done = shell(line, training(data, "--num-processes", "2"), tmp_path)
    assert done.returncode == 0, done.stderr
    whole(tmp_path / "runs" / "run")


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ('"$@" >&-', 1, "error: stdout is closed, so the result can't be written"),
        ('"$@" >/dev/full', 1, "error: stdout can't be written to: No space left on device"),
        ('"$@" | true; exit ${PIPESTATUS[0]}', 1, ""),
    ],
)
def test_a_command_whose_result_nobody_can_have_fails(line: str, code: int, says: str, tmp_path: Path) -> None:
    done = shell(line, command("config", "show", "--json"), tmp_path)
    assert done.returncode == code
    assert done.stderr.splitlines()[:1] == ([says] if says else [])


@pytest.mark.long
def test_why_a_run_ended_is_in_its_log(data: Path, tmp_path: Path) -> None:
    done = shell('"$@"', training(data, "--lr", "1e30", "--clip-grad", "1e30", "--strategy", "scratch"), tmp_path)
    assert done.returncode == 1, done.stderr
    (printed,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f" {printed}\n" in (tmp_path / "runs" / "run" / "train.log").read_text()


def test_stdout_is_given_back_to_a_program_that_calls_a_command(tmp_path: Path) -> None:
    script = "from ftkit.cli.main import main; print('before'); main(['config', 'show', '--json']); print('after')"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *between, last = done.stdout.splitlines()
    assert (first, last) == ("before", "after")
    json.loads("\n".join(between))
    assert os.linesep not in done.stderr
