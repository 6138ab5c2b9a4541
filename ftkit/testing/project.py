"""A project folder, and `ftkit` commands run in it as separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 600.0
"""Timeout of a command in seconds."""


@dataclass(frozen=True)
class Project:
    """A folder in which `ftkit` is run."""

    path: Path

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `ftkit ARGUMENTS` in a new process, without the FTKIT_ environment variables of this one.

        Raises:
            subprocess.TimeoutExpired: The command takes longer than `TIMEOUT`.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FTKIT_")}
        return subprocess.run(
            [sys.executable, "-m", "ftkit", *arguments],
            cwd=self.path,
            env={**kept, **(env or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )


def make_project(folder: Path, files: Mapping[str, str]) -> Project:
    """Write text files into a folder; the keys are relative paths."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    return Project(folder)
