"""Bring a project up to date with its template, by a three-way merge of each file.

The files that the template last rendered are stored in the project's `.ftkit/template.zip`; they are the base of the
merge. Neither the project's nor the template's history is needed.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftkit.errors import FtkitError, RequestError, one_line
from ftkit.files.json_text import dump_json
from ftkit.project import rendering

RECORD = Path(".ftkit", "template.json")
BASE = Path(".ftkit", "template.zip")
FORMAT = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LARGEST = 100 * 2**20

Action = Literal["added", "replaced", "merged", "conflict", "removed", "kept", "deleted"]


@dataclass(frozen=True)
class TemplateRecord:
    """The template and the values that a project was created from.

    Attributes:
        template: The value of `--template`.
        kind: The kind of part, for the plugin template.
        values: The values of the placeholders.
        ftkit: The version of ftkit that rendered it.
    """

    template: str
    kind: str
    values: Mapping[str, str]
    ftkit: str

    def files(self, rendered: Mapping[Path, bytes]) -> dict[Path, bytes]:
        """The files of the record, to be written into the project with the rendered ones."""
        facts = {"format": FORMAT, **vars(self)}
        text = dump_json(facts, indent=2, ascii_only=False, default=dict) + "\n"
        return {RECORD: text.encode(), BASE: _pack(rendered)}


@dataclass(frozen=True)
class FileChange:
    """The change to one file.

    Attributes:
        action: `kept`: no longer in the template, but edited in the project. `deleted`: changed in the template, but
            deleted from the project. Both are left as they are.
        content: The new content, or None where nothing is written.
    """

    path: Path
    action: Action
    content: bytes | None = None


def read_record(folder: Path) -> tuple[TemplateRecord, dict[Path, bytes]]:
    """The record of the project in `folder`, and the files that the template last rendered.

    Raises:
        RequestError: There is no record, or it can't be read.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if facts["format"] > FORMAT:
            raise RequestError(f"{folder / RECORD} is from a newer ftkit, {facts['ftkit']}", "pip install -U ftkit")
        values = {str(key): str(value) for key, value in facts["values"].items()}
        record = TemplateRecord(str(facts["template"]), str(facts["kind"]), values, str(facts["ftkit"]))
    except FileNotFoundError as error:
        raise _no_record(error) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(folder / RECORD, error) from None
    try:
        return record, _unpack(folder / BASE)
    except FileNotFoundError as error:
        raise _no_record(error) from None
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(folder / BASE, error) from None


def _no_record(error: FileNotFoundError) -> RequestError:
    return RequestError(
        f"no {error.filename}: the folder wasn't created by ftkit init, or by a version without --update",
        "ftkit init NEW-FOLDER creates a project that can be updated",
    )


def _unreadable(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} can't be read: {one_line(str(error))}", "restore the original file")


def find_changes(base: Mapping[Path, bytes], new: Mapping[Path, bytes], folder: Path) -> list[FileChange]:
    """The changes that the difference between `base` and `new` means for the project in `folder`; writes nothing."""
    found = []
    for path in sorted(base.keys() | new.keys()):
        if base.get(path) != new.get(path):
            change = _change(path, base.get(path), new.get(path), _read_mine(folder / path))
            if change is not None:
                found.append(change)
    return found


def apply_changes(found: list[FileChange], record: TemplateRecord, new: Mapping[Path, bytes], folder: Path) -> None:
    """Write the changes and the new record, all or none.

    Raises:
        FtkitError: The disk is full or can't be written; nothing has changed.
    """
    written = {change.path: change.content for change in found if change.content is not None}
    rendering.write_files({**written, **record.files(new)}, folder)
    for change in found:
        if change.action == "removed":
            (folder / change.path).unlink(missing_ok=True)


def _read_mine(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FtkitError(f"{path}: can't be read: {error.strerror}") from None


def _change(path: Path, base: bytes | None, new: bytes | None, mine: bytes | None) -> FileChange | None:
    """The change for one file that differs in the template; None where the project has it already."""
    if mine == new:
        return None
    if new is None:
        return FileChange(path, "removed") if mine == base else FileChange(path, "kept")
    if mine is None:
        return FileChange(path, "added", new) if base is None else FileChange(path, "deleted")
    if mine == base:
        return FileChange(path, "replaced", new)
    return _merge(path, base or b"", new, mine)


def _merge(path: Path, base: bytes, new: bytes, mine: bytes) -> FileChange:
    """Merge both edits of a file; overlapping edits are put between conflict markers."""
    if any(b"\0" in content for content in (base, new, mine)):
        return FileChange(path.with_name(f"{path.name}.new"), "conflict", new)
    if shutil.which("git") is None:
        raise FtkitError(f"{path} has changed here and in the template, and merging needs git, which isn't installed")
    with tempfile.TemporaryDirectory(prefix="ftkit-merge-") as scratch:
        places = [Path(scratch, name) for name in ("mine", "base", "new")]
        for place, content in zip(places, (mine, base, new), strict=True):
            place.write_bytes(content)
        labels = [f"-L{label}" for label in ("yours", "the template before", "the template now")]
        command = ["git", "merge-file", "-p", *labels, *map(str, places)]
        done = subprocess.run(command, capture_output=True, cwd=scratch, check=False)
    if done.returncode < 0 or done.returncode > 127:
        raise FtkitError(f"{path} can't be merged: {done.stderr.decode(errors='replace').strip()}")
    return FileChange(path, "conflict" if done.returncode else "merged", done.stdout)


def _pack(files: Mapping[Path, bytes]) -> bytes:
    """A reproducible archive: the same files give the same bytes, so that version control shows no spurious change."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path.as_posix(), _EPOCH), files[path], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _unpack(path: Path) -> dict[Path, bytes]:
    """The archive's files by name, read into memory; the names are never used as paths to write to."""
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > _LARGEST:
            raise ValueError(f"{path} holds more than {_LARGEST // 2**20} MiB")
        return {Path(info.filename): archive.read(info) for info in archive.infolist()}
