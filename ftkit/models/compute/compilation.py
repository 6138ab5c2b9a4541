"""Compiles the training network with torch, anew for each phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ftkit.errors import FtkitError, one_line


def compiled(module: nn.Module) -> nn.Module:
    """The module, compiled at its first call; earlier compilations are dropped.

    Each phase has other trainable parameters, so another program. After a few programs for the same code Dynamo falls
    back to eager mode, which dropping those of earlier phases avoids.
    """
    torch.compiler.reset()
    return torch.compile(module)  # type: ignore[return-value]


@contextmanager
def compiler_faults(asked: bool) -> Iterator[None]:
    """Reports in one line that a network can't be compiled, where `--compile` is set.

    Raises:
        FtkitError: The compiler failed. Other errors are raised unchanged.
    """
    try:
        yield
    except Exception as error:
        # Their classes are in modules that take seconds to import.
        if not asked or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FtkitError(f"torch.compile fails on this network: {one_line(reason)}", "drop --compile") from error
