"""The launcher: starts the processes of a training, forwards signals, and exits with the first failure's code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ftkit.cli.multiprocess_errors import FIRST, RUN
from ftkit.cli.output import console
from ftkit.distributed import launch_env
from ftkit.errors import RequestError

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Launch:
    """The processes to start on this machine.

    Attributes:
        processes: Number of processes on this machine.
        nodes: Number of machines.
        node: Rank of this machine, from 0.
        endpoint: `host:port` of the rendezvous on machine 0; empty for one machine.
    """

    processes: int
    nodes: int = 1
    node: int = 0
    endpoint: str = ""


class SignalBeforeStart(BaseException):
    """A signal arrived before any process was started. Not an `Exception`, so that no library catches it."""


def launch_from_flags(
    processes: int | None, nodes: int | None, node: int | None, endpoint: str | None
) -> Launch | None:
    """The launch that the flags request; None if this process trains itself.

    Raises:
        RequestError: The flags contradict each other or the environment.
    """
    if processes is not None and processes < 1:
        raise RequestError(f"--num-processes {processes}: must be 1 or more", "give the processes per machine")
    several = nodes is not None and nodes > 1
    launch_env.prepare(None if several else processes)
    given = [n for n, v in (("--nnodes", nodes), ("--node-rank", node), ("--rdzv-endpoint", endpoint)) if v is not None]
    if given and launch_env.launched() and launch_env.LAUNCH not in os.environ:
        raise RequestError(f"{given[0]}: this process was started by another launcher", f"drop {given[0]}")
    if launch_env.launched():
        return None
    if given and not several:
        raise RequestError(f"{given[0]} is for several machines", "give --nnodes 2 or more, or drop it")
    if not several:
        return Launch(processes) if processes is not None and processes > 1 else None
    assert nodes is not None, "several machines"
    if node is None or not 0 <= node < nodes:
        raise RequestError(f"--nnodes {nodes} requires --node-rank, 0 to {nodes - 1}", "give each machine its own rank")
    host, _, port = (endpoint or "").rpartition(":")
    if not host or not port.isdigit():
        raise RequestError(
            f"--nnodes {nodes} requires --rdzv-endpoint HOST:PORT", "give the address of the machine with --node-rank 0"
        )
    return Launch(processes or 1, nodes, node, f"{host}:{port}")


def run(launch: Launch, arguments: list[str]) -> int:
    """Run `ftkit` with these arguments in each process; returns the exit code of the first failure, or 0."""
    with tempfile.TemporaryDirectory(prefix="ftkit-launch-") as place, _process_state_kept():
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        # The elastic agent's own signal handlers would end the run without a checkpoint, and override ignored signals.
        # An unknown signal name turns them off.
        os.environ |= {launch_env.LAUNCH: place, "TORCHELASTIC_SIGNALS_TO_HANDLE": "none"}
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // launch.processes)))
        return _watch(_make_agent(launch, arguments, place), Path(place))


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Restore environment variables, logging and warnings at the end, for a caller of `main` that continues."""
    before, disabled = dict(os.environ), logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logging.disable(disabled)
        os.environ.clear()
        os.environ.update(before)


def _make_agent(launch: Launch, arguments: list[str], place: str) -> LocalElasticAgent:
    from torch.distributed.elastic.agent.server.api import WorkerSpec
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

    several = launch.nodes > 1
    host, _, port = launch.endpoint.rpartition(":")
    parameters = RendezvousParameters(
        backend="static" if several else "c10d",
        endpoint=launch.endpoint or "127.0.0.1:0",
        run_id="ftkit" if several else uuid.uuid4().hex,
        min_nodes=launch.nodes,
        max_nodes=launch.nodes,
        local_addr=None if several else "127.0.0.1",
        timeout=900,
        **({"rank": launch.node} if several else {}),
    )
    spec = WorkerSpec(
        role="ftkit",
        local_world_size=launch.processes,
        entrypoint=sys.executable,
        args=("-m", "ftkit", *arguments),
        rdzv_handler=registry.get_rendezvous_handler(parameters),
        max_restarts=0,
        monitor_interval=0.1,
        master_addr=host if several else None,
        master_port=int(port) if several else None,
        local_addr=None if several else "127.0.0.1",
    )
    return LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=place), exit_barrier_timeout=300)


def _watch(agent: LocalElasticAgent, place: Path) -> int:
    """Run the agent to its end and forward signals to all of its processes."""
    sent: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        sent.append(number)
        found = [worker.id for worker in agent.get_worker_group().workers]
        if not found or None in found:
            raise SignalBeforeStart
        for process in found:
            try:
                os.kill(int(process), number)
            except ProcessLookupError:
                continue

    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in caught}
    try:
        failures = agent.run("ftkit").failures
    except SignalBeforeStart:
        console.interrupted("stopped before training started")
        return 128 + sent[0]
    except Exception as error:
        if sent:
            return 128 + sent[0]
        console.error(f"can't start the processes: {error}", "check --rdzv-endpoint and that its port is free")
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _report_failures(failures, place, sent) if failures else 0


def _report_failures(failures: dict[int, Any], place: Path, sent: list[int]) -> int:
    """The exit code; prints the reason if none of the processes did."""
    first = place / FIRST
    if first.exists() and (text := first.read_text(encoding="utf-8")):
        return int(text)
    killed: dict[int, int] = {rank: -f.exitcode for rank, f in failures.items() if f.exitcode < 0}
    # The agent terminates the remaining processes by SIGTERM.
    rank: int | None = min(killed, key=lambda r: (killed[r] == signal.SIGTERM, r), default=None)
    if sent:
        console.interrupted("stopped before a checkpoint could be written", _resume_hint(place))
        return 128 + sent[0]
    if rank is None:
        console.error("a process failed", _resume_hint(place) or "see its messages above")
        return int(min(failures.values(), key=lambda f: f.timestamp).exitcode)
    console.error(f"process {rank} was killed by {signal.Signals(killed[rank]).name}", _resume_hint(place))
    return 128 + int(killed[rank])


def _resume_hint(place: Path) -> str | None:
    run = place / RUN
    if not run.exists():
        return None
    world, _, path = run.read_text(encoding="utf-8").partition(" ")
    saved = (Path(path) / "checkpoints" / "LATEST").exists()
    return launch_env.resume_command(path, int(world)) if saved else "no checkpoint was written yet: start it again"
