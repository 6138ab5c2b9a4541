"""Standard streams: stdout is for results only, and a closed stderr doesn't stop a command.

Plugins and libraries print from Python, from C, and from child processes. While a command runs, all of that goes to
stderr: only what is written to `RESULTS` reaches stdout, so that JSON output stays valid.
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


class StdoutClosed(FtkitError):
    """Results can't be written: stdout is closed, or its reader has exited (`silent`)."""

    def __init__(self, message: str, silent: bool) -> None:
        super().__init__(message, "redirect it to a file or to /dev/null")
        self.silent = silent


class MessageStream:
    """A text stream for messages, which discards everything once the underlying stream can't be written to.

    A log reader that exited (EPIPE), a closed terminal (EIO) or a full disk must not end a training.
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
    """The stream for results: the real stdout, also while it is reserved.

    Attributes:
        stream: The real stdout while it is reserved; None if it is closed.
        diverted: Whether stdout is reserved now, so that other output goes to stderr.
        descriptor: Whether it is reserved for the whole process (file descriptor 1), not only for Python.
        program: Whether it stays reserved until the process exits.
    """

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.diverted = self.descriptor = self.program = False

    def target(self) -> TextIO:
        found = self._found()
        if found is None:
            raise StdoutClosed("stdout is closed, so the result can't be written", silent=False)
        return found

    def _found(self) -> TextIO | None:
        return self.stream if self.diverted else sys.stdout

    def write(self, text: str) -> int:
        with _write_errors(self.target()) as stream:
            return stream.write(text)

    def flush(self) -> None:
        if self._found() is not None:
            with _write_errors(self.target()) as stream:
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
    """Prepare the standard streams for a command.

    Args:
        program: This is the whole process, so stdout stays reserved until it exits: libraries print at exit.
    """
    _open_missing_descriptors()
    before, RESULTS.program = (sys.stdout, sys.stderr), program
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = cast(TextIO, MessageStream(sys.stderr or open(os.devnull, "w", encoding="utf-8")))  # noqa: SIM115, PTH123
    try:
        yield
    finally:
        if not program:
            sys.stdout, sys.stderr = before


def reserve_stdout(command: Any) -> None:
    """Reserve stdout for results in a command, or in each command of a group."""
    for part in getattr(command, "commands", {}).values():
        reserve_stdout(part)
    if not hasattr(command, "commands"):
        command.callback = reserve_stdout_for_results(command.callback)


def reserve_stdout_for_results(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that only what it writes to `RESULTS` reaches stdout."""

    @wraps(callback)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _diverted():
            try:
                return callback(*args, **kwargs)
            except BrokenPipeError as error:
                # stdout's own BrokenPipeError became StdoutClosed; the parser would exit silently on any other.
                raise FtkitError(f"a connection was closed at its other end: {error}") from error

    return wrapped


@contextmanager
def stdout_for_children() -> Iterator[None]:
    """Give the real stdout to child processes started inside the context; they reserve it themselves."""
    if RESULTS.stream is None or not RESULTS.descriptor:
        yield
        return
    os.dup2(RESULTS.stream.fileno(), STDOUT)
    try:
        yield
    finally:
        os.dup2(STDERR, STDOUT)


def finish() -> None:
    """Flush stdout.

    Raises:
        StdoutClosed, FtkitError: It can't be written.
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
        sys.stdout = cast(TextIO, MessageStream(own))
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
    """A second stream to the stream's present target."""
    return open(  # noqa: PTH123 - open until the process exits
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


def _open_missing_descriptors() -> None:
    """Open standard descriptors that the parent closed: otherwise the next opened file becomes stdout or stderr."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def _write_errors(stream: TextIO) -> Iterator[TextIO]:
    """Turn write errors of stdout into errors for the user."""
    try:
        yield stream
    except BrokenPipeError:
        _discard(stream)
        raise StdoutClosed("the reader of stdout has exited", silent=True) from None
    except OSError as error:
        _discard(stream)
        raise FtkitError(f"stdout can't be written to: {error.strerror or error}", "redirect it elsewhere") from None


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device, including Python's last flush at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
