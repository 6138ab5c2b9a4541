"""Whole processes, measured."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A process that has ended well, with the processes that it started and waited for.

    Attributes:
        seconds: From its start to its end.
        cpu: Processor seconds of all of them; `kernel`: those of them in the kernel.
        peak: Peak memory of the largest one in megabytes; the system counts in kilobytes on Linux, which this is for.
        out: What it wrote to stdout.
    """

    seconds: float
    cpu: float
    kernel: float
    peak: float
    out: str


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command, with more variables in its environment.

    Raises:
        SystemExit: It failed; with the end of its stderr.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | (environment or {}), stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        out.seek(0)
        errors.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command[1:4])} failed:\n{errors.read()[-2000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return Measured(seconds, cpu, usage.ru_stime, usage.ru_maxrss / 1024, out.read())
