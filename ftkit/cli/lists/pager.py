"""Long text through a pager, where stdout is a terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

from ftkit.cli.output import console
from ftkit.cli.output.streams import RESULTS

PAGER = "less"
LESS = "FRSX"
"""Options of less if the user has set none, nearly as in git: leave short text on the screen, don't wrap lines."""


def print_paged(text: str) -> None:
    """Print text on stdout: in $PAGER, by default less, if stdout is a terminal with fewer lines; else all of it."""
    pager = shlex.split(os.environ.get("PAGER") or PAGER)
    target = RESULTS.target()
    is_short = text.count("\n") + 2 <= shutil.get_terminal_size().lines
    if not target.isatty() or is_short or shutil.which(pager[0]) is None:
        console.print_text(text)
        return
    target.flush()
    environment = {"LESS": LESS, **os.environ}
    with subprocess.Popen(pager, stdin=subprocess.PIPE, stdout=target.fileno(), env=environment) as process:
        process.communicate(f"{text}\n".encode(errors="backslashreplace"))
