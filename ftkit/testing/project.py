"""A project on disk, and ftkit run in it as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 600.0
"""Seconds after which a command counts as hanging."""


@dataclass(frozen=True)
class Project:
    """A folder that ftkit is run in."""

    path: Path

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `ftkit ARGUMENTS` as a process of its own, without the FTKIT_ variables of this one.

        Raises:
            subprocess.TimeoutExpired: It hangs.
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
    """Write text files, by path relative to the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    return Project(folder)
