"""Turns exceptions into one line on stderr and an exit code."""

from __future__ import annotations

import errno

import typer

from ftkit.cli.output import console, streams
from ftkit.cli.switches import DEBUG
from ftkit.errors import FtkitError, RunInterrupted

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def name_plugin(error: BaseException) -> BaseException:
    """The error itself, or one that names the plugin whose code raised it."""
    from ftkit.plugin_errors import plugin_error_for

    if isinstance(error, FtkitError | KeyboardInterrupt | typer.Abort) or hasattr(error, "format_message"):
        return error
    failure = plugin_error_for(error)
    if failure is None:
        return error
    failure.__cause__ = error
    return failure


def report(error: BaseException) -> int:
    """Print one line for an error; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        console.interrupted()
        return INTERRUPTED
    if isinstance(error, streams.StdoutClosed) and error.silent:
        return error.exit_code
    if isinstance(error, RunInterrupted):
        console.interrupted(error.message, error.hint)
        return error.exit_code
    if isinstance(error, FtkitError):
        console.error(error.message, error.hint)
        for other in getattr(error, "others", ()):
            console.error(other)
        return error.exit_code
    if hasattr(error, "format_message"):
        return _report_usage_error(error)
    if isinstance(error, typer.Abort):
        console.error("aborted: no answer was given")
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        console.error(message, _os_error_hint(error))
    else:
        _report_internal_error(error)
    return 1


def _report_usage_error(error: BaseException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        return 0
    from ftkit.cli.usage import usage_error

    ours = usage_error(error)
    console.error(ours.message, ours.hint)
    return ours.exit_code


def _report_internal_error(error: BaseException) -> None:
    from ftkit.plugin_errors import is_out_of_memory, memory_error

    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        console.error(
            memory_error(error),
            "lower --batch-size; in training, raise --accumulate to keep the step size, or use --precision bf16",
        )
        return
    console.error(
        f"internal error: {type(error).__name__}{': ' + text if text else ''}",
        f"run it again with {DEBUG}, or with FTKIT_DEBUG=1, for the traceback",
    )


def _os_error_hint(error: OSError) -> str | None:
    if error.errno == errno.ENOSPC:
        return "free some space, or write elsewhere with --output"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "check the permissions, or write elsewhere with --output"
    return None
