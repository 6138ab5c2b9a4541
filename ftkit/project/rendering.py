"""Render a project template into a folder, completely or not at all.

A template is a folder of files. `{{name}}` is replaced by a value in file names and in the content of files whose names
end in `.jinja` (the suffix is dropped); an unknown name is an error. This subset of Jinja runs no code. Other files are
copied unchanged.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ftkit.errors import FtkitError, RequestError

SUFFIX = ".jinja"
_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_IGNORED = frozenset({".git", ".DS_Store"})


def template_folder(name: str = "project") -> Path:
    """The folder of a built-in template: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "templates" / name, package.parent / "templates" / name):
        if folder.is_dir():
            return folder
    raise FtkitError(f"the template {name!r} is missing from this installation of ftkit", "install ftkit again")


def render(template: Path, values: Mapping[str, str]) -> dict[Path, bytes]:
    """The template's files by relative path, with placeholders replaced."""
    return {
        Path(_fill(str(source.relative_to(template)).removesuffix(SUFFIX), values, source)): _content(source, values)
        for source in sorted(template.rglob("*"))
        if source.is_file() and "__pycache__" not in source.parts
    }


def _content(source: Path, values: Mapping[str, str]) -> bytes:
    if source.suffix != SUFFIX:
        return source.read_bytes()
    return _fill(source.read_text(encoding="utf-8"), values, source).encode()


def _fill(text: str, values: Mapping[str, str], source: Path) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise FtkitError(f"{source}: unknown placeholder {match[1]!r}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value, text)


def check_target(target: Path, force: bool) -> None:
    """Refuse a target that is a file, or a folder with something in it unless `force` is set."""
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise RequestError(f"{target} exists and is not a folder", "give the path of a new folder")
    try:
        there = sorted(p.name for p in target.iterdir() if p.name not in _IGNORED)
    except OSError as error:
        raise FtkitError(f"{target}: can't be listed: {error.strerror}", "give the path of a new folder") from None
    if there and not force:
        listed = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise RequestError(
            f"{target} is not empty: {listed}",
            "give a new folder, or --force to overwrite the template's files and keep all others",
        )


def write_files(files: Mapping[Path, bytes], target: Path) -> list[Path]:
    """Write all files into `target`, or none; other files there are left unchanged.

    The files are first written to a temporary folder on the same disk, so that errors occur before the target changes.

    Returns:
        The files that existed before and were overwritten.

    Raises:
        RequestError: A folder exists where a file should be written, or the other way round.
        FtkitError: The disk is full or can't be written; nothing is left behind.
    """
    try:
        return _fill_folder(files, target) if target.is_dir() else _make_folder(files, target)
    except OSError as error:
        raise FtkitError(f"can't write {target}: {error.strerror or error}", "nothing was changed") from None


def _make_folder(files: Mapping[Path, bytes], target: Path) -> list[Path]:
    """Create the folder; it gets its name only when it is complete."""
    with _parents(target.parent), _staging(target.parent, target.name) as staging:
        _stage(files, staging)
        staging.rename(target)
    return []


def _fill_folder(files: Mapping[Path, bytes], target: Path) -> list[Path]:
    _check_kinds(files, target)
    with _staging(target, "new") as staging, _staging(target, "old") as old:
        _stage(files, staging)
        return _swap(files, staging, old, target)


def _swap(files: Mapping[Path, bytes], staging: Path, old: Path, target: Path) -> list[Path]:
    """Move staged files into place and existing ones to `old`; undo everything where one move fails."""
    with _parents(*{(target / path).parent for path in files}):
        try:
            for path in files:
                (old / path).parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(target / path):
                    (target / path).rename(old / path)
                (staging / path).rename(target / path)
        except BaseException:
            for path in files:
                if os.path.lexists(old / path):
                    (old / path).replace(target / path)
                elif not (staging / path).exists():
                    (target / path).unlink()
            raise
    return [path for path in files if os.path.lexists(old / path)]


def _check_kinds(files: Mapping[Path, bytes], target: Path) -> None:
    for path in files:
        if (target / path).is_dir():
            raise RequestError(f"{target / path} is a folder where the template has a file", "move it away")
        for parent in list(path.parents)[:-1]:
            if os.path.lexists(target / parent) and not (target / parent).is_dir():
                raise RequestError(f"{target / parent} is a file where the template has a folder", "move it away")


def _stage(files: Mapping[Path, bytes], staging: Path) -> None:
    for path, content in files.items():
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        with (staging / path).open("wb") as file:
            file.write(content)
            file.flush()
            # A full disk may be reported only here, while the target is still unchanged.
            os.fsync(file.fileno())


@contextmanager
def _staging(beside: Path, name: str) -> Iterator[Path]:
    """A hidden temporary folder. `tempfile` would create one that only its owner can read."""
    staging = beside / f".{name[:100]}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _parents(*folders: Path) -> Iterator[None]:
    """Create folders with their parents; remove the new ones where the body fails."""
    made: list[Path] = []
    try:
        for folder in folders:
            missing = [p for p in (folder, *folder.parents) if not p.exists()]
            for parent in reversed(missing):
                parent.mkdir()
                made.append(parent)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
