"""Several commands in one process of their own, beside packages that only it finds installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Completed:
    code: int
    out: str
    err: str


SESSION = """
import contextlib, io, json, sys
from ftkit.cli.main import main
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def environment(site: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FTKIT_")}
    paths = [str(site), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "FTKIT_PLUGIN_TIMEOUT": "2", **extra}


def session(site: Path, *lines: str, **extra: str) -> list[Completed]:
    """Several commands in one process, each as if typed; what they print is kept apart."""
    done = subprocess.run(
        [sys.executable, "-c", SESSION, json.dumps([line.split() for line in lines])],
        cwd=site.parent,
        env=environment(site, **extra),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Completed(*json.loads(line)) for line in done.stdout.splitlines()]
