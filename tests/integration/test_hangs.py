"""Waiting that can be ended: what workers lack is said before they start, and signals end a run that waits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.broken_plugins import install
from tests.conftest import MakeFolder
from tests.sessions import environment

LIMIT = 120.0
"""Seconds, against hangs alone."""
SMALL = ("--backbone", "cifar_resnet20", "--weights", "none", "--device", "cpu", "--batch-size", "4", "-q")

SLOW = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from ftkit.api import Dataset, Split, Splits, hookimpl

def drawn(index):
    from PIL import Image
    # The images are scanned once before the training.
    if index == 9 and Path("hang").exists() and Path("runs/run/metrics.jsonl").exists():
        Path("hangs").touch()
        time.sleep(600)
    return Image.new("RGB", (32, 32), (255 * (index % 2), 0, 7 * index))

@dataclass(frozen=True)
class Slow(Dataset):
    \"\"\"Has an image that doesn't come.\"\"\"

    def load(self):
        split = lambda n: Split(tuple(f"{i}.png" for i in range(n)), tuple(i % 2 for i in range(n)), drawn)
        return Splits(("a", "b"), split(12), split(4))

@hookimpl
def ftkit_datasets():
    return {"slow": Slow}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 40, "b": 40}, "val": {"a": 4, "b": 3}}
    return image_folder(tmp_path_factory.mktemp("hangs") / "data", layout)


def training(*more: str) -> list[str]:
    return [sys.executable, "-m", "ftkit", "train", *SMALL, "--name", "run", *more]


def run(
    arguments: Sequence[str], folder: Path, before: Callable[[], None] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment(folder / "site", **more),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        preexec_fn=before,
    )


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def long_folder(tmp_path: Path) -> str:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    return str(folder)


def test_a_temporary_folder_that_is_too_long_is_named_before_the_start(data: Path, tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    done = run(training("--data", str(data), "--workers", "2"), tmp_path, TMPDIR=folder)
    assert done.returncode == 2, done.stderr
    first, hint = done.stderr.splitlines()
    assert first.startswith(f"error: TMPDIR {folder} is too long for the sockets of worker processes")
    assert "--workers 0" in hint
    assert not (tmp_path / "runs" / "run").exists()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux: the limit holds for the interpreter too")
def test_a_limit_of_open_files_is_named_before_the_start(data: Path, tmp_path: Path) -> None:
    done = run(training("--data", str(data), "--workers", "2"), tmp_path, few_files)
    assert done.returncode == 2, done.stderr
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: the limit of open files is 64, and 2 workers need ")
    assert "ulimit -n 1024" in hint


@pytest.mark.long
def test_auto_takes_as_many_workers_as_there_is_space_for_and_reports_it(data: Path, tmp_path: Path) -> None:
    more = ("--epochs", "1", "--strategy", "full")
    done = run(training("--data", str(data), *more), tmp_path, few_files)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "runs" / "run" / "train.log").read_text()
    assert "note: the training process itself reads the images: the limit of open files is 64" in log


def in_small_shm(arguments: Sequence[str]) -> list[str]:
    """The command in a mount namespace of its own, whose shared memory is small."""
    line = 'mount -t tmpfs -o size=300k tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--mount", "bash", "-c", line, "bash", *arguments]


@pytest.fixture(scope="module")
def small_shm() -> Callable[[Sequence[str]], list[str]]:
    try:
        done = subprocess.run(in_small_shm(["true"]), capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no unshare")
    if done.returncode:
        pytest.skip("mounting takes privileges that this user lacks")
    return in_small_shm


@pytest.mark.long
def test_shared_memory_that_is_too_small_is_named_before_the_start(
    data: Path, tmp_path: Path, small_shm: Callable[[Sequence[str]], list[str]]
) -> None:
    done = run(small_shm(training("--data", str(data), "--workers", "2")), tmp_path)
    assert done.returncode == 2, done.stderr
    first, hint = done.stderr.splitlines()
    assert first.startswith("error: /dev/shm (shared memory, shm) has 0.29 MB free, and 2 workers with batches of ")
    assert "--shm-size" in hint


LOADER = """
import sys, resource
from pathlib import Path
from ftkit.errors import FtkitError
from tests.inside import evaluation_batches
paths = sorted(Path(sys.argv[1]).rglob("*.png"))
if sys.argv[2] == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (36, 36))
try:
    print(len(list(evaluation_batches(paths, workers=2))))
except FtkitError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("lack", "says"),
    [
        ("files", "the limit of open files, 36, is too low for the worker processes"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("TMPDIR", "TMPDIR {folder} is too long for the sockets of worker processes"),
                ("shm", "a worker process had no space for a batch in /dev/shm"),
            )
        ),
    ],
)
def test_what_workers_lack_later_ends_the_wait_in_one_line(
    lack: str, says: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The look before the start can't know what other programs will take meanwhile."""
    arguments = [sys.executable, "-c", LOADER, str(data), lack]
    more = {"TMPDIR": long_folder(tmp_path)} if lack == "TMPDIR" else {}
    if lack == "shm":
        arguments = request.getfixturevalue("small_shm")(arguments)
    done = run(arguments, Path(__file__).parents[2], None, **more)
    assert done.stdout.startswith(says.format(folder=more.get("TMPDIR"))), done.stdout + done.stderr
    assert "Traceback" not in done.stderr.split("Exception ignored")[0]


def started(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        training(*more),
        cwd=folder,
        env=environment(folder / "site"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} doesn't come"
        time.sleep(0.05)


def workers_of(process: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_worker_that_is_killed_ends_the_run_in_one_line(data: Path, tmp_path: Path) -> None:
    process = started(tmp_path, "--data", str(data), "--workers", "1", "--epochs", "2000", "--strategy", "full")
    wait_for(tmp_path / "runs" / "run" / "metrics.jsonl", process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, err
    first, hint = err.splitlines()
    assert first.startswith("error: data loading worker ")
    assert "was killed by SIGKILL, probably because memory ran out" in first
    assert hint == "hint: give fewer --workers, or 0"


LOST = """
import socket, sys
from multiprocessing import connection
import ftkit

connect = connection.Client

def after_a_lost_one(address, *args, **kwargs):
    with socket.socket(socket.AF_UNIX) as lost:
        lost.connect(address)
    return connect(address, *args, **kwargs)

connection.Client = after_a_lost_one
folder = sys.argv[1]
ftkit.train(ftkit.plan(dataset={"name": "folder", "root": folder}, backbone="lenet", weights="none", strategy="full",
    epochs=1, batch_size=2, workers=1, device="cpu", report=False, output=sys.argv[2]))
print("trained")
"""


def test_workers_print_no_traceback_where_the_main_process_stops_receiving(data: Path, tmp_path: Path) -> None:
    """As it does for one worker when another one is killed; a connection is reset before each batch here."""
    done = run([sys.executable, "-c", LOST, str(data), str(tmp_path / "runs")], Path(__file__).parents[2], None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained"
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "0"])
def test_a_signal_ends_a_run_that_waits_for_an_image(workers: str, tmp_path: Path) -> None:
    install(tmp_path / "site", "slow", SLOW)
    own = ("--dataset", "slow/slow", "--workers", workers, "--epochs", "2000", "--strategy", "full")
    process = started(tmp_path, *own)
    wait_for(tmp_path / "runs" / "run" / "checkpoints" / "LATEST", process)
    (tmp_path / "hang").touch()
    wait_for(tmp_path / "hangs", process)
    time.sleep(3)  # until the batches before it are trained on
    started_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    assert time.monotonic() - started_at < 60
    assert process.returncode == 143, err
    (first, hint) = [line for line in err.splitlines() if line.startswith(("interrupted:", "hint:"))]
    assert "s after SIGTERM the step hadn't ended; the newest checkpoint is whole" in first
    assert hint == f"hint: ftkit train --resume {tmp_path / 'runs' / 'run'}"


@pytest.mark.parametrize(("ignored", "code"), [(False, 129), pytest.param(True, None, marks=pytest.mark.long)])
@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_a_hangup_leaves_a_checkpoint_unless_it_is_ignored(
    ignored: bool, code: int | None, processes: str, data: Path, tmp_path: Path
) -> None:
    more = ("--workers", "1", "--epochs", "2000", "--strategy", "full", "--num-processes", processes)
    process = subprocess.Popen(
        [*(["nohup"] if ignored else []), *training("--data", str(data), *more)],
        cwd=tmp_path,
        env=environment(tmp_path / "site"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run_folder = tmp_path / "runs" / "run"
    wait_for(run_folder / "checkpoints" / "LATEST", process)
    os.killpg(process.pid, signal.SIGHUP)
    if code is None:
        time.sleep(3)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == (code or 143), err
    (printed,) = [line for line in err.splitlines() if line.startswith(("error:", "interrupted:"))]
    assert printed.startswith("interrupted: stopped after epoch ")
    assert printed.endswith("a checkpoint is on disk")
