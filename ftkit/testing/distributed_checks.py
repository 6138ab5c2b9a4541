"""Train one run in several processes and compare the weights that each of them ends with."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING

from ftkit.testing.contract import ContractError, require

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan
    from ftkit.runs.run_folder import RunFolder

SECONDS = 300
"""Timeout of the processes, which may wait for each other in a collective."""

Make = Callable[[], "tuple[Plan, RunFolder]"]
"""Returns the plan and its run folder, the same in each process; it must be picklable."""


def check_distributed(make: Make, processes: int, results: Path) -> None:
    """Train a run in several processes on this machine; all of them must end with the same weights.

    Args:
        results: An empty folder, into which each process writes its result.

    Raises:
        ContractError: A process failed, the weights differ, or the processes didn't finish.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        packed = bytes(ForkingPickler.dumps(make))
    except Exception as error:
        raise ContractError(f"it can't be sent to another process with its backbone: {error}") from error
    context = get_context("spawn")
    members = [context.Process(target=_member, args=(packed, r, processes, port, results)) for r in range(processes)]
    try:
        for member in members:
            member.start()
        for member in members:
            member.join(SECONDS)
    finally:
        for member in members:
            if member.is_alive():
                member.kill()
    found = [_read_result(results / f"{rank}.json") for rank in range(processes)]
    for result in found:
        if "error" in result:
            raise ContractError(f"training in {processes} processes fails: {result['error']}")
    digests = {result["weights"] for result in found}
    require(len(digests) == 1, f"{processes} processes end with different weights")


def _read_result(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {"error": f"a process didn't finish within {SECONDS} seconds, or was killed"}
    result: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return result


def _member(packed: bytes, rank: int, world: int, port: int, results: Path) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1")
    try:
        result = {"weights": _train(ForkingPickler.loads(packed))}
    except BaseException as error:
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    (results / f"{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    # Other processes may still wait for this one in a collective, so a normal exit could block.
    os._exit(0)


def _train(make: Make) -> str:
    """Train, and return a digest of the weights of this process."""
    import torch

    from ftkit.training.events import Listener
    from ftkit.training.preparation.gradient_check import GradientReach
    from ftkit.training.session import open_session
    from ftkit.training.stop_signals import stop_flag
    from ftkit.training.train import execute
    from ftkit.training.trainer import Trainer

    torch.set_num_threads(1)
    plan, run = make()
    with stop_flag() as flag:
        session = open_session(plan, run, Listener(), flag)
        execute(Trainer(session, GradientReach()))
    found = hashlib.sha256()
    for name, tensor in session.network.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    session.accelerator.wait_for_everyone()
    return found.hexdigest()
