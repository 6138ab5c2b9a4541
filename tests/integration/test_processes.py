"""Several processes train as one: equal in all, told once, stopped whole."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import MakeFolder, RunFtkit, typed
from tests.runs import is_whole, newest_checkpoint

LIMIT = 300.0
"""Seconds, against hangs alone."""

REPOSITORY = Path(__file__).resolve().parents[2]
LAYOUT = {"train": {"a": 9, "b": 8}, "val": {"a": 4, "b": 3}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("processes") / "data", LAYOUT)


def environment(**more: str) -> dict[str, str]:
    """Without what the tests' own environment may say of launchers and settings."""
    strange = ("FTKIT_", "ACCELERATE_", "SLURM_", "TORCHELASTIC_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(strange) or k == "FTKIT_CACHE_DIR"}
    return kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | more


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


# From within


def process_checks(folder: Path, world: int, *parts: str) -> list[dict[str, Any]]:
    """What tests/process_checks.py finds in each of so many processes that are started as torchrun does."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.process_checks", str(folder), *parts],
            cwd=REPOSITORY,
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        printed = [process.communicate(timeout=2 * LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(printed)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


@pytest.fixture(scope="module", params=["sample", pytest.param("all", marks=pytest.mark.long)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("checks")
    (folder / "data").symlink_to(data)
    return process_checks(folder, 2, request.param)


def test_processes_stay_the_same_to_the_bit_in_each_phase_of_a_strategy(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert {name: each["spread"] for name, each in rank["schedules"].items() if each["spread"]} == {}


def test_what_is_frozen_stays_as_it_was_in_all_processes(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert {name: each["thawed"] for name, each in rank["schedules"].items() if each["thawed"]} == {}


def test_learning_rates_dont_depend_on_the_number_of_processes(found: list[dict[str, Any]]) -> None:
    for name, each in found[0]["schedules"].items():
        for of_two, of_one in zip(each["rates"], each["rates of one"], strict=True):
            assert of_two == pytest.approx(of_one), name


def test_a_signal_to_one_process_stops_all_and_the_run_resumes_to_the_same_end(found: list[dict[str, Any]]) -> None:
    for rank in found:
        for name, each in rank["stops"].items():
            assert each == {"code": 143, "weights": True, "records": True}, name


def test_metrics_are_those_of_one_process_whatever_the_number_of_images(found: list[dict[str, Any]]) -> None:
    assert [rank["metrics"] for rank in found] == [[], []]


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_metrics_of_1_to_200_images(world: int, tmp_path: Path) -> None:
    assert [rank["metrics"] for rank in process_checks(tmp_path, world, "all metrics")] == [[]] * world


# By command


def command(data: Path, output: Path, *more: str) -> list[str]:
    dataset = ("--data", str(data), "--backbone", "cifar_resnet20", "--weights", "none", "--augment", "none")
    return ["train", *dataset, "--output", str(output), "--name", "run", "--workers", "0", "--device", "cpu", *more]


LONG_RUN = ("--epochs", "2000", "--batch-size", "4", "--strategy", "gradual", "--num-processes", "2")


def run(arguments: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftkit", *arguments],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def started(arguments: Sequence[str], **more: str) -> subprocess.Popen[str]:
    """In a process group of its own, as a shell does it."""
    return subprocess.Popen(
        [sys.executable, "-m", "ftkit", *arguments],
        env=environment(**more),
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


def members(session: int) -> Iterator[int]:
    """Processes that live in the session of one that was started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                yield int(entry.name)


def children(process: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def no_orphans(process: subprocess.Popen[str]) -> bool:
    end = time.monotonic() + 60
    while list(members(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    return not list(members(process.pid))


def hit(process: subprocess.Popen[str], whom: str, signum: int) -> None:
    if whom == "the group":
        os.killpg(process.pid, signum)
    else:
        os.kill(process.pid if whom == "the agent" else children(process.pid)[-1], signum)


STOPS = [
    ("the agent", signal.SIGUSR1, 138),
    *(
        pytest.param(*case, marks=pytest.mark.long)
        for case in (
            ("the agent", signal.SIGTERM, 143),
            ("the agent", signal.SIGINT, 130),
            ("the group", signal.SIGINT, 130),
            ("the group", signal.SIGTERM, 143),
            ("a process", signal.SIGTERM, 143),
            ("a process", signal.SIGUSR1, 138),
        )
    ),
]


@pytest.mark.parametrize(("whom", "signum", "code"), STOPS)
def test_a_signal_leaves_one_whole_checkpoint_and_the_command_that_resumes(
    whom: str, signum: signal.Signals, code: int, data: Path, tmp_path: Path
) -> None:
    process = started(command(data, tmp_path, *LONG_RUN))
    wait_for(tmp_path / "run" / "checkpoints" / "LATEST", process)
    hit(process, whom, signum)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err
    assert (err.count("interrupted:"), err.count("error:")) == (1, 0), err
    assert err.splitlines()[-1] == f"hint: ftkit train --resume {tmp_path / 'run'} --num-processes 2"
    assert is_whole(newest_checkpoint(tmp_path / "run"))
    assert no_orphans(process)


@pytest.mark.long
def test_a_process_that_is_killed_ends_all_and_is_named(data: Path, tmp_path: Path) -> None:
    process = started(command(data, tmp_path, *LONG_RUN))
    wait_for(tmp_path / "run" / "checkpoints" / "LATEST", process)
    started_at = time.monotonic()
    hit(process, "a process", signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT)
    assert time.monotonic() - started_at < 60
    assert process.returncode == 137, err
    assert "process 1 was killed by SIGKILL" in err
    assert err.splitlines()[-1] == f"hint: ftkit train --resume {tmp_path / 'run'} --num-processes 2"
    assert no_orphans(process)
    again = run(["train", "--resume", str(tmp_path / "run"), "--num-processes", "1"])
    assert again.returncode == 2
    assert "the run had 2 processes, now there are 1" in again.stderr


@pytest.mark.long
def test_an_agent_that_is_killed_leaves_no_orphan(data: Path, tmp_path: Path) -> None:
    process = started(command(data, tmp_path, *LONG_RUN))
    wait_for(tmp_path / "run" / "checkpoints" / "LATEST", process)
    process.kill()
    process.communicate(timeout=LIMIT)
    assert no_orphans(process)


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(
    data: Path, tmp_path: Path, run_ftkit: RunFtkit
) -> None:
    """No BatchNorm in LeNet; 17 images are uneven shards, and the probe must reach both processes."""
    network = ("--backbone", "lenet", "--weights", "default", "--epochs", "2", "--precision", "fp32")
    one = run_ftkit(*command(data, tmp_path / "1", *network, "--batch-size", "8"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    line = command(data, tmp_path / "2", *network, "--batch-size", "4", "--num-processes", "2")
    two = run(line, TMPDIR=str(scratch))
    left = [path.name for path in scratch.iterdir() if path.name != f"torchinductor_{getpass.getuser()}"]
    assert not left, "the launcher cleans up"
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert "2, each with batches of 4; learning rates are not scaled" in two.stderr
    first, second = (load_file(tmp_path / n / "run" / "last" / "model.safetensors") for n in "12")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)
    plan = json.loads((tmp_path / "2" / "run" / "plan.json").read_text())
    assert (plan["world_size"], plan["per_process_batch"], plan["effective_batch"]) == (2, 4, 8)


@pytest.mark.long
def test_processes_that_have_no_cache_folder_in_common_compute_it_each(data: Path, tmp_path: Path) -> None:
    port, flags = free_port(), ["--strategy", "freeze", "--backbone", "lenet", "--epochs", "2", "--name", "run", "-q"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ftkit", "train", "--data", str(data), "--output", str(tmp_path), *flags],
            cwd=tmp_path,
            env=environment(
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                FTKIT_CACHE_DIR=str(tmp_path / f"cache{rank}"),
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        printed = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], printed
    kept = [{path.name for path in (tmp_path / f"cache{rank}" / "activations").iterdir()} for rank in (0, 1)]
    assert kept[0] == kept[1] != set()


def test_an_error_of_all_processes_is_reported_once(tmp_path: Path) -> None:
    done = run(command(tmp_path / "nowhere", tmp_path / "out", "--num-processes", "2"))
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1, done.stderr
    assert "nowhere" in done.stderr


# Launchers of others


@pytest.mark.long
def test_torchrun_starts_it_too(data: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    arguments = command(data, tmp_path, "--epochs", "1", "--batch-size", "4")
    done = subprocess.run(
        [*launcher, "-m", "ftkit", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["world_size"] == 2
    assert done.stdout.count("best epoch") == 1


@pytest.mark.long
def test_the_library_resumes_in_several_processes(data: Path, tmp_path: Path) -> None:
    """In programs that do nothing else before, so that only `resume` can have joined them."""
    settings = {
        "dataset": {"name": "folder", "root": str(data)},
        "backbone": "lenet",
        "weights": "none",
        "epochs": 2,
        "batch_size": 4,
        "device": "cpu",
        "output": str(tmp_path),
        "name": "run",
    }
    stop = "\nclass Stop(ftkit.Listener):\n    def step_done(self, event):\n        assert event.epoch == 1\n"
    train = f"import ftkit{stop}ftkit.train(ftkit.plan(**{settings!r}), Stop())"
    resume = f"import ftkit; assert len(ftkit.resume({str(tmp_path / 'run')!r}).records) == 2"
    for program, code in ((train, 1), (resume, 0)):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
        script = tmp_path / "program.py"
        script.write_text(program)
        done = subprocess.run(
            [*launch, str(script)], env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
        assert done.returncode == code, done.stderr


@pytest.mark.long
def test_tasks_of_slurm_are_processes(data: Path, tmp_path: Path) -> None:
    """The environment that srun gives two tasks on one node."""
    job = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_JOB_ID": free_port()}
    arguments = command(data, tmp_path, "--epochs", "1", "--batch-size", "4")
    tasks = [started(arguments, SLURM_PROCID=str(task), SLURM_LOCALID=str(task), **job) for task in range(2)]
    printed = [task.communicate(timeout=LIMIT) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], printed
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["world_size"] == 2
    assert "".join(out for out, _ in printed).count("best epoch") == 1


@pytest.mark.long
def test_two_machines_are_two_agents(data: Path, tmp_path: Path) -> None:
    port = free_port()
    several = ("--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}", "--epochs", "1", "--batch-size", "4")
    nodes = [started(command(data, tmp_path, *several, "--node-rank", str(node))) for node in range(2)]
    printed = [node.communicate(timeout=LIMIT) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["world_size"] == 2
    assert "".join(out for out, _ in printed).count("best epoch") == 1


# Shared out


def test_a_network_that_is_sharded_ends_as_one_that_is_not(found: list[dict[str, Any]]) -> None:
    if "shards" not in found[0]:
        pytest.skip("it is in the sample")
    shards = [each["shards"] for each in found]
    for parts in zip(*(each["parts"] for each in shards), strict=True):
        assert all(whole == parts[0][1] for _, whole in parts)
        assert sum(mine for mine, _ in parts) == parts[0][1]
        assert max(mine for mine, _ in parts) < 0.6 * parts[0][1]
    assert [each["codes"] for each in shards] == [[143, 143]] * 2
    assert [each["resumed"] for each in shards] == [[True, True]] * 2
    assert [each["far"] for each in shards] == [[], []]


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed isn't installed: pip install '.[deepspeed]'")
def test_a_run_by_deepspeed_ends_as_one_without_it_and_resumes_exactly(tmp_path: Path, data: Path) -> None:
    (tmp_path / "data").symlink_to(data)
    found = process_checks(tmp_path, 2, "zero")
    for parts in zip(*(each["parts"] for each in found), strict=True):
        whole = parts[0][1]
        assert whole <= sum(mine for mine, _ in parts) < whole + 64, "shards, padded to one length"
        assert max(mine for mine, _ in parts) < 0.6 * whole
    assert len(found[0]["parts"]) > 4
    assert [each["codes"] for each in found] == [[143, 143]] * 2
    assert [each["resumed"] for each in found] == [[True, True]] * 2
    assert [each["far"] for each in found] == [[], []]


# Refused


def test_zero_wants_several_processes(data: Path, tmp_path: Path) -> None:
    done = typed(*command(data, tmp_path, "--zero-stage", "1"))
    assert done.returncode == 2, done.stderr
    assert "--zero-stage 1 shards optimizer state over processes, and there is one" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--num-processes", "0"), "--num-processes 0: must be 1 or more"),
        (("--nnodes", "2"), "--nnodes 2 requires --node-rank, 0 to 1"),
        (("--nnodes", "2", "--node-rank", "2"), "--nnodes 2 requires --node-rank, 0 to 1"),
        (("--nnodes", "2", "--node-rank", "0"), "--nnodes 2 requires --rdzv-endpoint HOST:PORT"),
        (("--node-rank", "0"), "--node-rank is for several machines"),
    ],
)
def test_flags_that_dont_go_together_are_refused(flags: Sequence[str], says: str) -> None:
    done = typed("train", *flags)
    assert done.returncode == 2
    assert says in done.stderr


def test_the_plan_says_what_several_processes_change(data: Path) -> None:
    done = typed(*command(data, Path("nowhere"), "--batch-size", "4", "--num-processes", "2", "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "2, each with batches of 4; learning rates are not scaled" in done.stdout
