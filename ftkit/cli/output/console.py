"""Printing: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from ftkit.cli.output.streams import RESULTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMN_PADDING = 3
"""Characters of padding and rules around each column of a table."""


@cache
def out() -> Console:
    """The console for results. Markup is off: a class may be called `[/b]`."""
    from rich.console import Console

    return Console(file=cast("IO[str]", RESULTS), markup=False, highlight=False, emoji=False)


@cache
def err() -> Console:
    """The console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def restart_in_utf8_mode() -> None:
    """Restart the program in Python's UTF-8 mode if the locale has another encoding for file names.

    File names on disk are UTF-8 whatever the locale. Decoded otherwise, they would change class names and the
    dataset's fingerprint. Messages are still printed in the terminal's encoding.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding().lower() == "utf-8" or not sys.orig_argv[1:]:
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{getattr(sys.stdout, 'encoding', 'ascii')}:surrogateescape")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, unwrapped and valid in every locale."""
    from ftkit.files.json_text import dump_json

    print(dump_json(value, indent=2, ascii_only=not is_utf8(RESULTS), default=str), file=RESULTS)


class _Encoded(Protocol):
    @property
    def encoding(self) -> str: ...


def is_utf8(stream: _Encoded) -> bool:
    """Whether a stream encodes as UTF-8; a stream in memory, which has no encoding, counts as UTF-8."""
    return not stream.encoding or stream.encoding.lower().replace("_", "-") in ("utf-8", "utf8")


def expect_data() -> None:
    """Switch stdout to UTF-8 whatever the locale, for output that programs read."""
    stream = RESULTS.target()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_text(text: str) -> None:
    """Print text on stdout without colours, markup or wrapping."""
    print(text, end="" if text.endswith("\n") else "\n", file=RESULTS)


def table(title: str, columns: tuple[str, ...]) -> Table:
    """An empty table: the first column left-aligned for names, the others right-aligned for numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(Text(column), justify="right" if number else "left", overflow="fold")
    return made


def show_table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table without wrapped cells; one that is too wide is split, repeating the first column."""
    widths = [max(len(row[i]) for row in (columns, *rows)) + COLUMN_PADDING for i in range(len(columns))]
    shown = [1]
    for i in range(1, len(columns)):
        if sum(widths[shown[-1] : i + 1]) + widths[0] > out().width and i > shown[-1]:
            shown.append(i)
    for start, stop in zip(shown, [*shown[1:], len(columns)], strict=True):
        part = table(title if start == 1 else "", (columns[0], *columns[start:stop]))
        for row in rows:
            part.add_row(row[0], *row[start:stop])
        out().print(part, soft_wrap=True)


def note(text: str) -> None:
    """Print a message on stderr."""
    print(text, file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"{_coloured('warning:', 33)} {text}", file=sys.stderr)


def error(message: str, hint: str | None = None) -> None:
    """Print an error and a hint on stderr. Lines are not wrapped, so that they can be copied."""
    print(f"{_coloured('error:', 31)} {message}", file=sys.stderr)
    _hint(hint)


def _hint(text: str | None) -> None:
    if text:
        print(f"{_coloured('hint:', 36)} {text}", file=sys.stderr)


def interrupted(message: str | None = None, hint: str | None = None) -> None:
    """Report that a signal ended the command, which is no error, and how to resume."""
    print(_coloured("interrupted", 33) + (f": {message}" if message else ""), file=sys.stderr)
    _hint(hint)


def _coloured(word: str, code: int) -> str:
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return word if plain else f"\033[{code}m{word}\033[0m"
