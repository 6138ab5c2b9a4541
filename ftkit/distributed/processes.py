"""Work of several processes: done once by the main process, with its result or error sent to all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, RequestError, plural

T = TypeVar("T")


class ReportedByMain(FtkitError):
    """The main process's error, in the others: they end with its exit code, and only it is printed."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


def run_on_main(work: Callable[[], Any]) -> Any:
    """The JSON values that `work` returns in the main process, in every process; the others wait for it.

    All processes must have joined, and call this at the same point.

    Raises:
        ReportedByMain: In the others, if it failed in the main process.
    """
    if launch_env.world() == 1:
        return work()
    if launch_env.rank() == 0:
        try:
            value = work()
        except BaseException as error:
            _send({"error": _described(error)})
            raise
        _send({"value": value})
        return value
    sent = _send(None)
    if "error" in sent:
        raise ReportedByMain(*sent["error"])
    return sent["value"]


def main_first(work: Callable[[], T]) -> T:
    """Do `work` in every process, in the main one first, so that its downloads are there for the others.

    Raises:
        ReportedByMain: As `run_on_main`.
    """
    if launch_env.world() == 1:
        return work()
    own: list[T] = []

    def first() -> None:
        own.append(work())

    run_on_main(first)
    return own[0] if own else work()


def check_devices(device: str) -> None:
    """Check that each process of this machine has a GPU of its own, which NCCL requires.

    Raises:
        RequestError: There are more processes than GPUs.
    """
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device == "cuda" and processes > max(1, gpus):
        raise RequestError(
            f"{processes} processes on this machine would share {plural(gpus, 'GPU')}, and each needs its own",
            f"give --num-processes {gpus}, or --device cpu",
        )


def make_reproducible(device: str) -> None:
    """Have CUDA compute the same bits at each run, as other devices do: exact resuming depends on it.

    Operations without such an implementation still run; torch warns of them.
    """
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is initialised
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Only programs that read uninitialised memory need it filled.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_backend(device: str, processes: int) -> None:
    """Check that the processes have joined as the launcher asked.

    Raises:
        RequestError: Another number of processes, or another backend.
    """
    wanted = launch_env.world()
    if processes != wanted:
        raise RequestError(f"asked for {wanted} processes, got {processes}", "start with ftkit train --num-processes N")
    if wanted == 1:
        return
    backend = str(torch.distributed.get_backend())
    if backend != {"cuda": "nccl", "cpu": "gloo"}.get(device):
        raise RequestError(
            f"{wanted} processes on {device} would communicate through {backend}", "use --device cpu, or one process"
        )


def broadcast_tensor(tensor: Tensor) -> Tensor:
    """The main process's values, in all processes; shapes must be the same."""
    if launch_env.world() == 1:
        return tensor
    shared = tensor.detach().clone(memory_format=torch.contiguous_format)
    torch.distributed.broadcast(shared, 0)
    return shared


def broadcast_buffers(network: nn.Module) -> None:
    """Set all processes' buffers to the main one's.

    Each process's BatchNorm had other images in the last step, which only the next step would even out.
    """
    if launch_env.world() == 1:
        return
    with torch.no_grad():
        for buffer in network.buffers():
            buffer.copy_(broadcast_tensor(buffer))


def _described(error: BaseException) -> tuple[str, str | None, int]:
    if isinstance(error, FtkitError):
        return error.message, error.hint, error.exit_code
    return str(error), None, 130 if isinstance(error, KeyboardInterrupt) else 1


def _send(value: Any) -> Any:
    """The main process's JSON value, in all processes."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    data = json.dumps(value).encode()
    size = torch.tensor([len(data)], device=device)
    torch.distributed.broadcast(size, 0)
    text = torch.zeros(int(size), dtype=torch.uint8, device=device)
    if launch_env.rank() == 0:
        text.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    torch.distributed.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))
