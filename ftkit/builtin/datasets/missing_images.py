"""Missing images of a table: similar existing files, and hints for correcting the table."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftkit.api import is_image

LOOKED_FOR = 1000
"""Maximum missing images to search for; the others are assumed to be missing for the same reasons."""
FOLDERS = 200
"""Maximum folders inside the root that are searched."""
SLASHES = "write / between folders, not \\"
_SPACES = str.maketrans({"\u00a0": " ", "\u200b": None, "\ufeff": None})


@dataclass(frozen=True)
class Neighbour:
    """An existing file that is similar to a missing one.

    Attributes:
        path: The existing file.
        change: How the name in the table differs.
        hint: How to correct it.
    """

    path: Path
    change: str
    hint: str


@dataclass
class Search:
    """A search for neighbours of many names that lists each folder once."""

    root: Path
    others: Sequence[Path] = ()
    _folders: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, image: str) -> Neighbour | None:
        """The neighbour of a missing image; None if there is none."""
        for name, change, hint in self._spellings(image):
            exact = self.root / name
            base = Path("/") if name.startswith("/") else self.root
            found = exact if change and is_file(exact) else self._alike(base, name)
            if found is not None:
                return self._neighbour(found, name, change, hint)
        elsewhere = self._elsewhere(image)
        if elsewhere is not None and "\\" in image:
            return replace(elsewhere, hint=f"{SLASHES}; {elsewhere.hint}")
        return elsewhere

    def _spellings(self, image: str) -> Iterator[tuple[str, str, str]]:
        yield image, "", ""
        plain = "/".join(part.strip().strip("\"'") for part in image.translate(_SPACES).split("/"))
        if plain != image:
            yield plain, "spaces or quotes", "remove spaces and quotes from the column"
        if "\\" in image:
            yield plain.replace("\\", "/"), "backslashes", SLASHES
        if image.startswith("/"):
            yield image.lstrip("/"), "leading /", "remove the leading / from the column"
        if image.endswith(".0") and image[:-2].isdecimal():
            yield image[:-2], "numbers", "keep the column as text: a spreadsheet converted it to numbers"

    def _neighbour(self, found: Path, name: str, change: str, hint: str) -> Neighbour:
        if self.root / name == found:
            return Neighbour(found, change, hint)
        more, remedy = _difference(Path(name).name, found.name)
        if not more:
            whole = str(found) if name.startswith("/") else found.relative_to(self.root).as_posix()
            more, remedy = _difference(name, whole)
        return Neighbour(found, " and ".join(filter(None, (change, more))), remedy if not change else hint)

    def _alike(self, folder: Path, name: str) -> Path | None:
        """A file whose path differs only in case, Unicode form or extension."""
        *folders, last = [part for part in name.split("/") if part not in ("", ".")] or [""]
        for part in folders:
            names = [part] if _is_dir(folder / part) else self._in(folder).get(_folded(part), [])
            inside = next((folder / other for other in names if _is_dir(folder / other)), None)
            if inside is None:
                return None
            folder = inside
        here = self._in(folder)
        for key in (_folded(last), _folded(last) + ".", _stem(last) + ".", _number(last)):
            for other in here.get(key, ()) if key else ():
                if is_image(other):
                    return folder / other
        return None

    def _in(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by normalised name, with and without extension, and by number."""
        if folder not in self._folders:
            found: dict[str, list[str]] = {}
            try:
                names = sorted(entry.name for entry in folder.iterdir())
            except OSError:
                names = []
            for name in names:
                for key in {_folded(name), _stem(name) + ".", _number(name)} - {""}:
                    found.setdefault(key, []).append(name)
            self._folders[folder] = found
        return self._folders[folder]

    def _elsewhere(self, image: str) -> Neighbour | None:
        """The file under another root, in a subfolder of the root, or with fewer leading folders."""
        name = image.replace("\\", "/").lstrip("/")
        for other in (*self.others, *self._inside()):
            if is_file(other / name):
                return Neighbour(other / name, "folder", f"--set dataset.root={other}")
        for other in self._inside():
            if (found := self._alike(other, name)) is not None:
                return Neighbour(found, "folder and name", f"--set dataset.root={other}, and compare the names")
        parts = name.split("/")
        for start in range(1, min(len(parts), 20)):
            if is_file(self.root / "/".join(parts[start:])):
                dropped = image[: len(image.replace("\\", "/")) - len("/".join(parts[start:]))]
                found = self.root / "/".join(parts[start:])
                return Neighbour(found, "extra folder", f"remove {dropped!r} from the column")
        return None

    def _inside(self) -> list[Path]:
        try:
            folders = [entry for entry in sorted(self.root.iterdir()) if entry.is_dir()]
        except OSError:
            return []
        return folders[:FOLDERS]


def explain(search: Search, images: Sequence[str]) -> tuple[int, Neighbour | None, str]:
    """The position of the first image that has a neighbour, the neighbour, and the hint for most of the images."""
    found = [search.find(image) for image in images[:LOOKED_FOR]]
    place, first = next(((at, one) for at, one in enumerate(found) if one is not None), (0, None))
    if first is None:
        return 0, None, ""
    hint, count = Counter(one.hint for one in found if one is not None).most_common(1)[0]
    if len(found) == 1:
        return place, first, hint
    which = f"the first {len(found):,}" if len(images) > LOOKED_FOR else f"all {len(found):,}"
    same = sum(one is not None and one.hint == hint for one in found)
    return place, first, f"{hint} (for {which if same == len(found) else f'{count:,} of {len(found):,}'})"


def _difference(name: str, other: str) -> tuple[str, str]:
    """How one name differs from the other, and how to correct it."""
    if name == other:
        return "", ""
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other):
        return "Unicode form", "use the Unicode form of the file names: accents are encoded differently"
    if _folded(name) == _folded(other):
        return "case", "use the case of the file names"
    suffix = Path(other).suffix
    if _folded(other) == _folded(name + suffix):
        return "extension", f"add the extension with --set dataset.image_suffix={suffix}"
    if _stem(name) == _stem(other):
        return "extension", f"use the extension of the files, {suffix}"
    if _number(name) and _number(name) == _number(other):
        return "leading zeros", "use the numbers of the file names: a spreadsheet removed the leading zeros"
    return "", ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    """The normalised name without an image extension."""
    return _folded(Path(name).stem if is_image(name) else name)


def _number(name: str) -> str:
    """The number that a name consists of, without leading zeros; empty if it isn't a number."""
    stem = Path(name).stem if is_image(name) else name
    return f"#{int(stem)}" if stem.isdecimal() and len(stem) < 100 else ""


def is_file(path: Path) -> bool:
    """Whether a file exists; False for names that are too long or invalid."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
