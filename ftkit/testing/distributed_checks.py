"""Several processes that train one run together, started by the process that checks a strategy."""

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
"""After which they are taken to wait for each other for ever."""

Make = Callable[[], "tuple[Plan, RunFolder]"]
"""Makes the plan and its run folder, the same in each process; it must be picklable."""


def check_distributed(make: Make, processes: int, notes: Path) -> None:
    """Train a run in several processes on this machine, each of which must end with the same weights.

    Args:
        notes: An empty folder, in which they leave word.

    Raises:
        ContractError: One of them failed, or they ended apart, or not at all.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    try:
        packed = bytes(ForkingPickler.dumps(make))
    except Exception as error:
        raise ContractError(f"it can't be sent to another process with its backbone: {error}") from error
    context = get_context("spawn")
    members = [context.Process(target=_member, args=(packed, r, processes, port, notes)) for r in range(processes)]
    try:
        for member in members:
            member.start()
        for member in members:
            member.join(SECONDS)
    finally:
        for member in members:
            if member.is_alive():
                member.kill()
    words = [_word(notes / f"{rank}.json") for rank in range(processes)]
    for word in words:
        if "error" in word:
            raise ContractError(f"trained by {processes} processes it fails: {word['error']}")
    digests = {word["weights"] for word in words}
    require(len(digests) == 1, f"{processes} processes that train together end with weights that differ")


def _word(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {"error": f"a process has not ended after {SECONDS} seconds, or was killed"}
    word: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return word


def _member(packed: bytes, rank: int, world: int, port: int, notes: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        word = {"weights": _trained(ForkingPickler.loads(packed))}
    except BaseException as error:
        word = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    (notes / f"{rank}.json").write_text(json.dumps(word), encoding="utf-8")
    # The others may still wait for this one in a collective; there is nothing to tidy up.
    os._exit(0)


def _trained(make: Make) -> str:
    """Train, and a digest of what this process has of the network then."""
    import torch

    from ftkit.training.events import Listener
    from ftkit.training.session import open_session
    from ftkit.training.stop_signals import stop_flag
    from ftkit.training.trainer import execute

    torch.set_num_threads(1)
    plan, run = make()
    with stop_flag() as flag:
        session = open_session(plan, run, Listener(), flag)
        execute(session, resume=False)
    found = hashlib.sha256()
    for name, tensor in session.network.state_dict().items():
        found.update(name.encode() + tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    session.accelerator.wait_for_everyone()
    return found.hexdigest()
