"""Standard streams: stdout is for results alone, and a command goes on where nobody reads stderr any more.

Plugins and libraries print, in Python, in C, and in processes that they start. While a command runs, all of it goes to
stderr: only what is written to `RESULTS` gets to stdout, so that JSON stays JSON.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TextIO, cast

from ftkit.errors import FtkitError

STDOUT, STDERR = 1, 2


class StdoutGone(FtkitError):
    """Nobody can read the results: stdout was closed, or whoever read it has left."""

    def __init__(self, message: str, silent: bool) -> None:
        super().__init__(message, "open it, or redirect it to a file or /dev/null")
        self.silent = silent


class Lasting:
    """A text stream for messages. Once it can't be written to, it takes everything and passes nothing on.

    A log reader that left (EPIPE), a terminal that was closed (EIO) or a full disk must not end a training.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BlockingIOError:
            return len(text)
        except OSError:
            _discard(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BlockingIOError:
            return
        except OSError:
            _discard(self._stream)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Results:
    """Where commands write what was asked for: stdout, wherever that is at the moment.

    Attributes:
        stream: Stdout, while the rest of what is printed goes to stderr; None where it is closed.
        diverted: Whether that is so now.
        descriptor: Whether it holds for the whole process, and not for Python alone.
        program: Whether it holds until the process ends.
    """

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.diverted = self.descriptor = self.program = False

    def target(self) -> TextIO:
        found = self._found()
        if found is None:
            raise StdoutGone("stdout is closed, and the result goes there", silent=False)
        return found

    def _found(self) -> TextIO | None:
        return self.stream if self.diverted else sys.stdout

    def write(self, text: str) -> int:
        with _explained(self.target()) as stream:
            return stream.write(text)

    def flush(self) -> None:
        if self._found() is not None:
            with _explained(self.target()) as stream:
                stream.flush()

    def isatty(self) -> bool:
        found = self._found()
        return found is not None and found.isatty()

    def fileno(self) -> int:
        return self.target().fileno()

    @property
    def encoding(self) -> str:
        return getattr(self._found(), "encoding", None) or "utf-8"


RESULTS = _Results()


@contextmanager
def prepared(program: bool) -> Iterator[None]:
    """Make the standard streams fit for a command.

    Args:
        program: This is the whole process, so stdout is left to results until its very end: libraries print at exit.
    """
    _occupy()
    before, RESULTS.program = (sys.stdout, sys.stderr), program
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, Lasting(sys.stderr or open(os.devnull, "w", encoding="utf-8")))  # noqa: SIM115, PTH123
    try:
        yield
    finally:
        if not program:
            sys.stdout, sys.stderr = before


def reserve_stdout(command: Any) -> None:
    """Let each command of a group, or this one, write nothing but its results to stdout."""
    for part in getattr(command, "commands", {}).values():
        reserve_stdout(part)
    if not hasattr(command, "commands"):
        command.callback = reserve_stdout_for_results(command.callback)


def reserve_stdout_for_results(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A command that keeps stdout for what it writes to `RESULTS`."""

    @wraps(callback)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with _diverted():
            try:
                return callback(*args, **kwargs)
            except BrokenPipeError as error:
                # That of stdout has become StdoutGone. The parser would take any other for it, and end without a word.
                raise FtkitError(f"a connection was closed at its other end: {error}") from error

    return alone


@contextmanager
def stdout_for_children() -> Iterator[None]:
    """Give stdout to the processes that are started meanwhile, which keep it for results themselves."""
    if RESULTS.stream is None or not RESULTS.descriptor:
        yield
        return
    os.dup2(RESULTS.stream.fileno(), STDOUT)
    try:
        yield
    finally:
        os.dup2(STDERR, STDOUT)


def finish() -> None:
    """Write out what waits in stdout.

    Raises:
        StdoutGone, FtkitError: It can't be written.
    """
    RESULTS.flush()


@contextmanager
def _diverted() -> Iterator[None]:
    own = sys.stdout
    RESULTS.descriptor = _is_stdout(own)
    if own is not None:
        own.flush()
    RESULTS.stream, RESULTS.diverted = _copy(own) if RESULTS.descriptor else own, True
    if RESULTS.descriptor:
        os.dup2(STDERR, STDOUT)
        sys.stdout = cast(TextIO, Lasting(own))
    else:
        sys.stdout = sys.stderr
    try:
        yield
        RESULTS.flush()
    finally:
        if not RESULTS.program:
            _restore(own)


def _restore(own: TextIO) -> None:
    if RESULTS.descriptor and RESULTS.stream is not None:
        sys.stdout.flush()
        os.dup2(RESULTS.stream.fileno(), STDOUT)
        with suppress(OSError):
            RESULTS.stream.close()
    RESULTS.stream, RESULTS.diverted, RESULTS.descriptor = None, False, False
    sys.stdout = own


def _copy(stream: TextIO) -> TextIO:
    """Another way to where a stream goes now."""
    return open(  # noqa: PTH123 - it lives as long as the process
        os.dup(stream.fileno()),
        "w",
        encoding=stream.encoding,
        errors=stream.errors,
        buffering=1 if stream.isatty() else -1,
    )


def _is_stdout(stream: TextIO | None) -> bool:
    with suppress(OSError, AttributeError):
        return stream is not None and stream.fileno() == STDOUT
    return False


def _occupy() -> None:
    """Open what the parent has closed: the next file that is opened would else be taken for stdout or stderr."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def _explained(stream: TextIO) -> Iterator[TextIO]:
    try:
        yield stream
    except BrokenPipeError:
        _discard(stream)
        raise StdoutGone("whoever read stdout has left", silent=True) from None
    except OSError as error:
        _discard(stream)
        raise FtkitError(f"stdout can't be written to: {error.strerror or error}", "redirect it elsewhere") from None


def _discard(stream: TextIO) -> None:
    """Send what is written from now on nowhere, Python's own last flush at exit included."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
