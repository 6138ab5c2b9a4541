"""What trains, compiled by torch for as long as a phase lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ftkit.errors import FtkitError, one_line


def compiled(module: nn.Module) -> nn.Module:
    """The module, compiled at its first call; what was compiled before is forgotten.

    Another phase lets gradients pass elsewhere, which is another program. Dynamo gives up, and computes as without it,
    after a few programs for the same code; with those of earlier phases gone, it doesn't come to that.
    """
    torch.compiler.reset()
    return torch.compile(module)  # type: ignore[return-value]


@contextmanager
def compiler_faults(asked: bool) -> Iterator[None]:
    """Says in one line that a network can't be compiled, where that was asked for.

    Raises:
        FtkitError: The compiler failed; other errors pass.
    """
    try:
        yield
    except Exception as error:
        # Its own classes are in modules that take seconds to import, which a run without it needn't.
        if not asked or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FtkitError(f"torch.compile fails on this network: {one_line(reason)}", "drop --compile") from error
