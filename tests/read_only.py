"""Commands for which a folder can only be read, whoever runs the tests: root may write where the mode forbids it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def with_read_only(folder: Path, *command: str) -> list[str]:
    """The command, run where `folder` is mounted read-only; skips the test where the system can't do that."""
    start = ["unshare", "--map-root-user", "--mount", "sh", "-c", SCRIPT, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare with mounts, to make a folder read-only")
    return [*start, *command]
