"""Fixtures that every test may use: folders of small drawn images, the real data, and `ftkit` as if typed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import pytest

from ftkit.cli.main import main
from ftkit.testing import make_image_folder

# Before torch is imported, and for the processes that tests start: two test processes share the cores, and
# OpenMP's threads spin where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever starts the tests in the background may have them ignore Ctrl-C, which what they start would ignore too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What is remembered of images goes where it harms nobody, and where nothing is known at the start.
_CACHE = tempfile.TemporaryDirectory(prefix="ftkit-tests-")
os.environ["FTKIT_CACHE_DIR"] = _CACHE.name

collect_ignore = ["fixtures"]
"""Projects as earlier versions made them, with tests of their own."""


def pytest_unconfigure() -> None:
    """Workers of pytest-xdist end without the finalizer that would do it."""
    _CACHE.cleanup()


@pytest.fixture(scope="module", autouse=True)
def no_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs end without a report, but in the tests of reports; a process that a test starts writes one."""
    from tests import inside  # It imports torch, which must find the number of threads set.

    with pytest.MonkeyPatch.context() as patch:
        if not request.node.name.rpartition("/")[2].startswith(("test_report", "test_novelty")):
            inside.without_reports(patch)
        yield


Layout = Mapping[str, int | Mapping[str, int]]
"""Numbers of images by class, or by split and class."""


class MakeFolder(Protocol):
    def __call__(self, root: Path, layout: Layout, size: tuple[int, int] = (40, 32)) -> Path: ...


class RunFtkit(Protocol):
    def __call__(
        self, *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def image_folder() -> MakeFolder:
    """Makes a folder of small images whose classes can be learnt, the same every time."""

    return make_image_folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that lies beside the repository on some machines."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("../shared isn't there")
    return path


def typed(
    *args: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What `ftkit` does as if typed in a folder, without the settings of the shell that runs the tests.

    It runs in the test's own process, which has imported torch already; what is about processes, signals or imports
    starts one itself.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith("FTKIT_") and name != "FTKIT_CACHE_DIR"]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.chdir(cwd or Path.cwd())
        try:
            code: Any = main(list(args))
        except SystemExit as stop:
            code = stop.code
        finally:
            assert "LAUNCH_FOLDER_OF_FTKIT" not in os.environ, "a launcher leaves the environment as it was"
    return subprocess.CompletedProcess(args, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run_ftkit() -> RunFtkit:
    """Runs `ftkit` as `typed` says."""
    return typed
