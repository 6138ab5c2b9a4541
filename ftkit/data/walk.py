"""Recursive listing of image folders, for training, prediction and plugins, with a count of what is skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ftkit.data.images import is_image
from ftkit.errors import RequestError
from ftkit.files.file_kinds import is_image_kind, kind_of_file

SYSTEM_NAMES = frozenset(
    {
        "__macosx", "__pycache__", "@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "recycler",
        "system volume information", "lost+found", "desktop.ini", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db",
        "icon\r",
    }
)  # fmt: skip
"""Files and folders of operating systems, cloud storage and NAS, in lower case; names with a leading dot are hidden."""

OTHER_IMAGES = frozenset(
    {
        ".3fr", ".ai", ".arw", ".blp", ".bpg", ".bw", ".cr2", ".cr3", ".crw", ".cur", ".czi", ".dcm", ".dcr", ".dcx",
        ".dds", ".djvu", ".dng", ".emf", ".eps", ".erf", ".exr", ".fit", ".fits", ".fli", ".flif", ".ftc", ".ftu",
        ".gbr", ".hdr", ".icb", ".icns", ".ico", ".iiq", ".jls", ".jng", ".jxr", ".kdc", ".kra", ".lif", ".mos",
        ".mrw", ".msp", ".nd2", ".ndpi", ".nef", ".nrw", ".orf", ".pam", ".pcd", ".pcx", ".pef", ".pict", ".psb",
        ".psd", ".pxr", ".qoi", ".raf", ".ras", ".raw", ".rgb", ".rgba", ".rw2", ".rwl", ".sgi", ".sr2", ".srf",
        ".srw", ".svg", ".svgz", ".svs", ".tga", ".vda", ".vst", ".wbmp", ".wdp", ".wmf", ".x3f", ".xbm", ".xcf",
        ".xpm",
    }
)  # fmt: skip
"""File extensions of image formats that ftkit doesn't read, such as RAW photographs."""

NO_IMAGES = frozenset(
    {
        ".arrow", ".avi", ".cfg", ".cls", ".csv", ".db", ".doc", ".docx", ".gz", ".h5", ".htm", ".html", ".ini",
        ".ipynb", ".json", ".jsonl", ".log", ".m", ".mat", ".md", ".mkv", ".mov", ".mp3", ".mp4", ".names", ".npy",
        ".npz", ".parquet", ".pdf", ".pkl", ".pt", ".pth", ".py", ".rst", ".safetensors", ".sh", ".sqlite", ".tar",
        ".tgz", ".toml", ".tsv", ".txt", ".wav", ".xls", ".xlsx", ".xml", ".xmp", ".yaml", ".yml", ".zip",
    }
)  # fmt: skip
"""Common extensions of other files, whose content isn't checked."""

MOST_SNIFFED = 1000
"""Maximum files without a known extension whose content is checked."""
NAMED = 3

Kind = Literal["image", "folder", "hidden", "other image", "other", "broken"]


@dataclass(frozen=True)
class Reason:
    """Why something is skipped.

    Attributes:
        one, many: Text of messages, for one and for several.
        suspicious: Whether the user probably expects it to be read.
    """

    one: str
    many: str
    suspicious: bool = False


UNOPENED = Reason("folder can't be opened", "folders can't be opened", suspicious=True)
OTHER_IMAGE = Reason(
    "image is of a format that ftkit doesn't read", "images are of formats that ftkit doesn't read", suspicious=True
)
NO_ENDING = Reason(
    "file is an image by its content, but not by its name", "files are images by their content, but not by their names",
    suspicious=True,
)  # fmt: skip
BROKEN = Reason("link is broken", "links are broken", suspicious=True)
AGAIN = Reason(
    "link points to a parent folder or one that was read already",
    "links point to parent folders or ones that were read already",
)
HIDDEN = Reason("hidden or system file or folder is skipped", "hidden or system files and folders are skipped")
OTHER = Reason("file is not an image", "files are not images")
REASONS = (UNOPENED, OTHER_IMAGE, NO_ENDING, BROKEN, AGAIN, HIDDEN, OTHER)


class Entry(NamedTuple):
    """An entry of a folder."""

    name: str
    kind: Kind
    link: bool = False


@dataclass
class _Some:
    count: int = 0
    first: list[str] = field(default_factory=list)
    details: Counter[str] = field(default_factory=Counter)

    def words(self) -> str:
        return ", ".join(word for word, _ in self.details.most_common())


class SkippedFiles:
    """Counts of skipped files and folders by reason, with the first few names.

    Args:
        prefix: Put before each relative path.
        parent: Add to the counts of this object instead.
    """

    def __init__(self, prefix: str = "", parent: SkippedFiles | None = None) -> None:
        self._prefix = prefix
        self._found: dict[Reason, _Some] = {} if parent is None else parent._found
        self._sniffed = 0

    def add(self, reason: Reason, path: str, detail: str = "") -> None:
        """Count one entry; `detail` describes it, such as its extension."""
        some = self._found.setdefault(reason, _Some())
        some.count += 1
        if len(some.first) <= NAMED:
            some.first.append(path if path.startswith("/") else self._prefix + path)
        if detail:
            some.details[detail] += 1

    def add_entry(self, entry: Entry, folder: Path, path: str) -> None:
        """Count an entry of `folder` that is neither a readable image nor a folder."""
        suffix = _suffix(entry.name)
        if entry.kind == "other image":
            self.add(OTHER_IMAGE, path, suffix)
        elif entry.kind in ("hidden", "broken"):
            self.add(HIDDEN if entry.kind == "hidden" else BROKEN, path)
        elif suffix not in NO_IMAGES and self._sniffed < MOST_SNIFFED:
            self._sniffed += 1
            kind = kind_of_file(folder / entry.name)
            self.add(NO_ENDING, path, kind or "") if is_image_kind(kind) else self.add(OTHER, path)
        else:
            self.add(OTHER, path)

    @property
    def again(self) -> int:
        """Number of links that weren't followed, since they point to a parent folder or one that was read already."""
        return self._found[AGAIN].count if AGAIN in self._found else 0

    def require_opened(self, root: Path) -> None:
        """Require that all folders could be opened.

        Args:
            root: The folder that paths are relative to.

        Raises:
            RequestError: A folder can't be opened; names the first one.
        """
        some = self._found.get(UNOPENED)
        if some is not None:
            more = f", and {some.count - 1:,} more" if some.count > 1 else ""
            raise _closed(str(root / some.first[0]), f"{some.words()}{more}")

    @property
    def suspicious(self) -> int:
        """Number of entries that the user probably expects to be read."""
        return sum(some.count for reason, some in self._found.items() if reason.suspicious)

    def lines(self, suspicious: bool = False) -> Iterator[str]:
        """A line per reason, with the count, formats and first names; with `suspicious`, only suspicious reasons."""
        for reason in REASONS:
            some = self._found.get(reason)
            if some is not None and (reason.suspicious or not suspicious):
                what = f"{some.count:,} {reason.one if some.count == 1 else reason.many}"
                details = some.words()
                more = ", ..." if some.count > NAMED else ""
                yield f"{what}{f' ({details})' if details else ''}: {', '.join(some.first[:NAMED])}{more}"


def list_folder(folder: Path) -> list[Entry]:
    """The entries of a data folder, sorted by name.

    Raises:
        RequestError: The folder can't be opened.
    """
    try:
        return scan_folder(folder)
    except OSError as error:
        raise _closed(str(folder), error.strerror or str(error)) from None


def scan_folder(folder: str | Path) -> list[Entry]:
    """The entries of a folder, sorted by name. Only links cost an extra system call.

    Raises:
        OSError: The folder can't be opened.
    """
    with os.scandir(folder) as entries:
        return sorted(map(_entry, entries))


def walk_images(root: Path, inside: str, skipped: SkippedFiles) -> Iterator[str]:
    """Paths of all images below the folder `inside` of `root`, at any depth, relative to `root`.

    The images of a folder come first, then its subfolders, sorted by name. Links to folders are followed last. No
    folder is entered twice, and no parent of `inside` is entered, so links can't loop.

    Args:
        inside: Relative to `root`; empty for `root` itself.
        skipped: Counts what is not an image, and what can't be opened.
    """
    for where, entries in walk_folders(root, inside, skipped):
        folder = root / where
        for entry in entries:
            path = f"{where}/{entry.name}" if where else entry.name
            if entry.kind == "image":
                yield path
            elif entry.kind != "folder":
                skipped.add_entry(entry, folder, path)


def walk_folders(root: Path, inside: str, skipped: SkippedFiles) -> Iterator[tuple[str, list[Entry]]]:
    """The folder `inside` of `root` and all folders below it, relative to `root`, each with its entries.

    Args:
        skipped: Counts only the folders that aren't entered.
    """
    # Only a link can lead to a parent folder, so without links the parents aren't looked up: with many class folders
    # that would take most of the time.
    seen, above = set[tuple[int, int]](), False
    pending, links = ([], [inside]) if _is_linked(root, inside) else ([inside], [])
    while pending or links:
        if not pending and not above:
            seen, above = seen | _above(root, inside), True
        where = pending.pop() if pending else links.pop(0)
        folder = root / where
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                skipped.add(AGAIN, where)
                continue
            entries = scan_folder(folder)
        except OSError as error:
            skipped.add(UNOPENED, where or str(root), error.strerror or str(error))
            continue
        seen.add((status.st_dev, status.st_ino))
        yield where, entries
        prefix = f"{where}/" if where else ""
        links += [prefix + e.name for e in entries if e.kind == "folder" and e.link]
        pending += [prefix + e.name for e in reversed(entries) if e.kind == "folder" and not e.link]


def _is_linked(root: Path, inside: str) -> bool:
    """Whether a component of the relative path is a link."""
    place, below = str(root), False
    for part in Path(inside).parts:
        place = os.path.join(place, part)  # noqa: PTH118 - pathlib is slow for many classes
        below = below or os.path.islink(place)  # noqa: PTH114
    return below


def _above(root: Path, inside: str) -> set[tuple[int, int]]:
    """The parents of a folder, by its path and by its resolved path, as device and inode."""
    above = {*Path(os.path.realpath(root / inside)).parents, *(root / part for part in Path(inside).parents if inside)}
    found = set()
    for folder in above:
        try:
            status = folder.stat()
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _closed(folder: str, reason: str) -> RequestError:
    return RequestError(f"{folder}: can't be listed: {reason}", "make it readable, or remove it from the data")


def _entry(entry: os.DirEntry[str]) -> Entry:
    name = entry.name
    try:
        if is_image(name) and entry.is_file():
            return Entry(name, "image")
        if name.startswith(".") or name.lower() in SYSTEM_NAMES:
            return Entry(name, "hidden")
        if entry.is_dir():
            return Entry(name, "folder", entry.is_symlink())
        if not entry.is_file():
            return Entry(name, "broken")
    except OSError:
        return Entry(name, "broken")
    return Entry(name, "other image" if _suffix(name) in OTHER_IMAGES else "other")


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() if stem else ""
