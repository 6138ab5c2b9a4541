"""Folders of images: one folder a class, either in folders a split or all together."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.api import (
    SPLIT_SYNONYMS,
    Dataset,
    ImageFiles,
    RequestError,
    Split,
    SplitName,
    Splits,
    class_order,
    hookimpl,
    is_image,
    nearest,
    one_line,
    relabel,
)

SYSTEM_NAMES = frozenset({"__macosx", "__pycache__", "@eadir", "desktop.ini", "thumbs.db"})
"""What operating systems and tools leave behind, in lower case; names that begin with a dot are hidden too."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Folder(Dataset):
    """Images in one folder a class: root/train/ants/1.jpg, or root/ants/1.jpg where nothing is split yet.

    Split folders may be called train, training; val, valid, validation, dev; test, testing. Images are
    found at any depth below their class folder. Classes are those of the training split, in the order of
    their names, by number where all are whole numbers (1, 2, 10).

    Attributes:
        root: The folder.
    """

    root: Path

    def load(self) -> Splits:
        root = _existing_folder(self.root.expanduser())
        layout = _split_folders(root)
        found = {split: _scan(root, name) for split, name in layout.items()} or {"train": _scan(root, "")}
        usable = _usable(root, found)
        classes = next(iter(usable.values())).classes
        splits: dict[SplitName, Split] = {}
        for name, one in usable.items():
            splits[name] = relabel(one.to_split(root), one.classes, classes, str(root / one.where))
        notes = [line for one in found.values() for line in one.notes()]
        if layout:
            notes += _beside(root, layout)
        return Splits(
            classes=classes,
            train=splits.get("train"),
            val=splits.get("val"),
            test=splits.get("test"),
            notes=tuple(one_line(line) for line in notes),
        )


@dataclass
class _Found:
    """What one folder of class folders holds.

    Attributes:
        where: The folder, relative to the root; empty for the root itself.
        images: Paths relative to the root, by class.
        loose: Images that lie in no class folder.
        others, hidden, links, empty: What is passed over: files that are no images; hidden things; links
            that lead nowhere or back up; class folders without an image.
    """

    where: str
    images: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        return class_order(self.images)

    def to_split(self, root: Path) -> Split:
        """Samples sorted by class and path."""
        pairs = [(path, label) for label, name in enumerate(self.classes) for path in sorted(self.images[name])]
        names = [path for path, _ in pairs]
        return Split(names, [label for _, label in pairs], ImageFiles(root.absolute(), names))

    def notes(self) -> Iterator[str]:
        place = f"{self.where}: " if self.where else ""
        for name in self.empty:
            yield f"{place}class folder {name!r} has no images"
        if not self.images and not self.loose:
            yield f"{self.where} has no images"
        for paths, one, many in (
            (self.others, "file is not an image", "files are not images"),
            (self.loose, "image lies in no class folder", "images lie in no class folder"),
            (self.hidden, "hidden file or folder is passed over", "hidden files and folders are passed over"),
            (self.links, "link leads nowhere or back up", "links lead nowhere or back up"),
        ):
            if paths:
                yield f"{place}{len(paths)} {one if len(paths) == 1 else many}: {_few(paths)}"


def _existing_folder(root: Path) -> Path:
    try:
        if root.is_dir():
            return root
        is_file = root.is_file()
    except OSError as error:
        raise RequestError(f"{root}: can't be opened: {error.strerror}", "give a folder that can be") from None
    if is_file:
        hint = "give the folder that holds the class folders"
        if root.suffix.lower() in {".csv", ".tsv"}:
            hint = f"for a table of images use --dataset csv --set dataset.path={root}"
        elif root.suffix.lower() in ARCHIVES:
            hint = "unpack it, and give the folder; --data reads zip and tar archives as they are"
        raise RequestError(f"{root} is a file, not a folder of images", hint)
    try:
        beside = [entry.name for entry in os.scandir(root.parent) if entry.is_dir()]
    except OSError:
        beside = []
    close = nearest(root.name, beside)
    hint = f"did you mean {root.parent / close}?" if close else f"relative paths start from {Path.cwd()}"
    raise RequestError(f"no folder {root}", hint)


def _split_folders(root: Path) -> dict[SplitName, str]:
    """The folder of each split, in the order train, val, test; empty where the root holds class folders.

    A class may be called `train` or `test` as well. A training folder with folders in it is taken for the
    split, and so is any split's name where no folder of another name lies beside it.
    """
    folders = [e.name for e in _entries(root) if not _is_hidden(e.name) and _kind(e) == "folder"]
    named: dict[SplitName, str] = {}
    for name in sorted(folders):
        split = SPLIT_SYNONYMS.get(name.lower())
        if split in named:
            raise RequestError(f"{root} has two {split} folders: {named[split]}, {name}", "merge or rename one of them")
        if split is not None:
            named[split] = name
    trained = "train" in named and any(
        _kind(e) == "folder" and not _is_hidden(e.name) for e in _entries(root / named["train"])
    )
    if not trained and len(named) < len(folders):
        return {}
    return {split: named[split] for split in ("train", "val", "test") if split in named}


def _scan(root: Path, where: str) -> _Found:
    """Find the images in each class folder of `root/where`, opening none."""
    found = _Found(where)
    above = {_identity(root), _identity(root / where)}
    for entry in sorted(_entries(root / where), key=lambda e: e.name):
        path = f"{where}/{entry.name}" if where else entry.name
        kind = _kind(entry)
        if kind == "file" and is_image(entry.name):
            found.loose.append(path)
        elif kind != "folder" or _is_hidden(entry.name):
            _pass_over(entry.name, kind, path, found)
        elif (identity := _identity(root / path)) in above:
            found.links.append(path)
        elif images := _images_below(root, path, found, above | {identity}):
            found.images.setdefault(_class_name(entry.name, path), []).extend(images)
        else:
            found.empty.append(entry.name)
    return found


def _images_below(root: Path, folder: str, found: _Found, seen: set[tuple[int, int]]) -> list[str]:
    """Paths of the images at any depth below `folder`. No folder is entered twice, so links can't loop."""
    images: list[str] = []
    pending = [folder]
    while pending:
        inside = pending.pop()
        for entry in _entries(root / inside):
            path = f"{inside}/{entry.name}"
            kind = _kind(entry)
            if kind == "file" and is_image(entry.name):
                images.append(path)
            elif kind != "folder" or _is_hidden(entry.name):
                _pass_over(entry.name, kind, path, found)
            elif (identity := _identity(root / path)) in seen:
                found.links.append(path)
            else:
                seen.add(identity)
                pending.append(path)
    return images


def _pass_over(name: str, kind: str, path: str, found: _Found) -> None:
    """Put on its list what is neither an image nor a folder to look into."""
    if _is_hidden(name):
        found.hidden.append(path)
    elif kind == "neither":
        found.links.append(path)
    else:
        found.others.append(path)


def _kind(entry: os.DirEntry[str]) -> str:
    """`folder`, `file` or `neither`: a link that leads nowhere, a pipe. Asks the disk about links alone."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "neither"
    except OSError:
        return "neither"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise RequestError(
            f"{folder}: can't be listed: {error.strerror}", "make it readable, or take it out of the data"
        ) from None


def _class_name(folder: str, path: str) -> str:
    """The class that a folder's name means: accented letters may be stored in two ways, but mean the same."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise RequestError(f"class folder {path}: the name is not UTF-8 text", "rename it") from None
    return unicodedata.normalize("NFC", folder)


def _usable(root: Path, found: Mapping[SplitName, _Found]) -> dict[SplitName, _Found]:
    """The splits with images in class folders.

    A test folder may go without, as in competitions, whose test images have no labels.

    Raises:
        RequestError: There are none, or those for training or validation are missing.
    """
    usable = {split: one for split, one in found.items() if one.images}
    missing = [one for split, one in found.items() if not one.images and (split != "test" or not usable)]
    for one in missing:
        folder = root / one.where
        if one.loose:
            count = "1 image" if len(one.loose) == 1 else f"{len(one.loose)} images"
            raise RequestError(
                f"{folder} has {count}, but no class folders with images",
                f"put each image into a folder named after its class: {folder / 'CLASS' / Path(one.loose[0]).name}",
            )
        raise RequestError(f"{folder} has no images", f"put them into one folder a class: {folder / 'CLASS'}/1.jpg")
    return usable


def _beside(root: Path, layout: Mapping[SplitName, str]) -> Iterator[str]:
    """What lies beside the split folders."""
    names = sorted(e.name for e in _entries(root) if e.name not in layout.values() and not _is_hidden(e.name))
    if names:
        passed = "thing is" if len(names) == 1 else "things are"
        yield f"{len(names)} {passed} passed over beside {', '.join(layout.values())}: {_few(names)}"


def _few(names: list[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Plain folders of images."""
    return {"folder": Folder}
