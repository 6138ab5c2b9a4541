"""Writing tables: new CSV and JSON files, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ftkit.errors import RequestError
from ftkit.files.durable import replace_file
from ftkit.files.json_text import dump_json, escape_undecodable


def require_new(path: Path, flag: str, suffixes: Sequence[str] = ()) -> None:
    """Refuse a file that exists, has another suffix than allowed, or whose folder is missing.

    Raises:
        RequestError: One of them.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise RequestError(f"{flag} {path}: its name doesn't end in {', '.join(suffixes)}", "give it another name")
    if path.exists():
        raise RequestError(f"{flag} {path}: it exists already", "name another file")
    if not path.absolute().parent.is_dir():
        raise RequestError(f"{flag} {path}: there is no folder {path.parent}", "create it, or name another file")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    """Write a table as CSV in UTF-8.

    Raises:
        FtkitError: It can't be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    replace_file(path, escape_undecodable(text.getvalue()).encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document.

    Raises:
        FtkitError: It can't be written.
    """
    replace_file(path, (dump_json(value, indent=1) + "\n").encode())
