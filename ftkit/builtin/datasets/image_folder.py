"""Folders of images with one folder per class, with or without split folders."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.api import (
    Dataset,
    ImageFiles,
    RequestError,
    SkippedFiles,
    Split,
    SplitName,
    Splits,
    class_order,
    hookimpl,
    join_splits,
    kind_of_file,
    list_folder,
    nearest,
    one_line,
    plural,
    walk_images,
)
from ftkit.builtin.datasets.folder_layout import Layout, find_layout

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Folder(Dataset):
    """Images in one folder per class: root/train/ants/1.jpg, or root/ants/1.jpg without splits.

    Split folders may be named train, training; val, valid, validation, dev; test, testing; also with set, data or
    images (training_set, images_train) or with a word that all have in common (seg_train). Outer folders are entered.
    Images may be at any depth below their class folder. Classes are those of the training split, sorted by name, or
    numerically if all are whole numbers (1, 2, 10).

    Attributes:
        root: The folder.
    """

    root: Path

    def load(self) -> Splits:
        return self._joined(for_training=True)

    def load_for_evaluation(self) -> Splits:
        return self._joined(for_training=False)

    def _joined(self, for_training: bool) -> Splits:
        given = _existing_folder(self.root.expanduser())
        layout = find_layout(given)
        root = layout.top
        found = {split: _scan(root, name) for split, name in layout.splits.items()} or {"train": _scan(root, "")}
        for one in found.values():
            one.skipped.require_opened(root)
        usable = _usable(root, found)
        parts = {name: (one.to_split(root), one.classes) for name, one in usable.items()}
        where = {name: str(root / one.where) for name, one in usable.items()}
        notes = [
            *layout.notes,
            *(line for one in found.values() for line in one.notes()),
            *_ignored_entries(given, layout),
        ]
        return join_splits(parts, where, tuple(one_line(line) for line in notes), for_training)


@dataclass
class _Found:
    """The content of one folder of class folders.

    Attributes:
        where: The folder, relative to the root; empty for the root itself.
        images: Paths relative to the root, by class.
        loose: Images outside class folders.
        empty: Class folders without images.
        skipped: Everything else.
    """

    where: str
    images: dict[str, list[str]] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    @property
    def classes(self) -> tuple[str, ...]:
        return class_order(self.images)

    def to_split(self, root: Path) -> Split:
        """Samples sorted by class and path."""
        names, labels = list[str](), list[int]()
        for label, name in enumerate(self.classes):
            names += sorted(self.images[name])
            labels += [label] * len(self.images[name])
        return Split(names, labels, ImageFiles(root.absolute(), names))

    def notes(self) -> Iterator[str]:
        place = f"{self.where}: " if self.where else ""
        for name in self.empty:
            yield f"{place}class folder {name!r} has no images"
        if not self.images and not self.loose:
            yield f"{self.where} has no images"
        if self.loose:
            what = "image is in no class folder" if len(self.loose) == 1 else "images are in no class folder"
            yield f"{place}{len(self.loose)} {what}: {_few(self.loose)}"
        for line in self.skipped.lines():
            yield f"{place}{line}"


def _existing_folder(root: Path) -> Path:
    try:
        if root.is_dir():
            return root
        is_file = root.is_file()
    except OSError as error:
        raise RequestError(f"{root}: can't be opened: {error.strerror}", "make it readable") from None
    if is_file:
        hint = "give the folder that contains the class folders"
        if root.suffix.lower() in {".csv", ".tsv"}:
            hint = f"for a table of images use --dataset csv --set {shlex.quote(f'dataset.path={root}')}"
        elif root.suffix.lower() in ARCHIVES:
            hint = "extract it and give the folder; --data also reads zip and tar archives"
        kind = kind_of_file(root)
        raise RequestError(f"{root} is {kind or 'a file'}, not a folder of images", hint)
    try:
        beside = [entry.name for entry in os.scandir(root.parent) if entry.is_dir()]
    except OSError:
        beside = []
    close = nearest(root.name, beside)
    hint = f"did you mean {root.parent / close}?" if close else f"relative paths are relative to {Path.cwd()}"
    raise RequestError(f"no folder {root}", hint)


def _scan(root: Path, where: str) -> _Found:
    """List the images in each class folder of `root/where`, without opening them."""
    found = _Found(where)
    for entry in list_folder(root / where):
        again = found.skipped.again
        path = f"{where}/{entry.name}" if where else entry.name
        if entry.kind == "image":
            found.loose.append(path)
        elif entry.kind != "folder":
            found.skipped.add_entry(entry, root / where, path)
        elif images := list(walk_images(root, path, found.skipped)):
            found.images.setdefault(_class_name(entry.name, path), []).extend(images)
        elif found.skipped.again == again:
            found.empty.append(entry.name)
    return found


def _class_name(folder: str, path: str) -> str:
    """The class name of a folder, in Unicode form NFC, since accented letters may be encoded in two ways."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise RequestError(f"class folder {path}: the name is not valid UTF-8", "rename it") from None
    return unicodedata.normalize("NFC", folder)


def _usable(root: Path, found: Mapping[SplitName, _Found]) -> dict[SplitName, _Found]:
    """The splits that have images in class folders.

    A test folder may have none, as in competitions, whose test images have no labels.

    Raises:
        RequestError: There are no such splits, or train or val has no images in class folders.
    """
    usable = {split: one for split, one in found.items() if one.images}
    missing = [one for split, one in found.items() if not one.images and (split != "test" or not usable)]
    for one in missing:
        folder = root / one.where
        if one.loose:
            count = plural(len(one.loose), "image")
            raise RequestError(
                f"{folder} has {count}, but no class folders with images{_named_after(one.loose)}",
                f"put each image into a folder named after its class: {folder / 'CLASS' / Path(one.loose[0]).name}",
            )
        skipped = "; ".join(one.skipped.lines(suspicious=True))
        raise RequestError(
            f"{folder} has no images{f'; skipped: {skipped}' if skipped else ''}",
            f"put images into one folder per class: {folder / 'CLASS'}/1.jpg",
        )
    return usable


def _named_after(loose: list[str]) -> str:
    """The prefixes of names such as cat.123.jpg, if there are few different ones, as these may be the classes."""
    found = {match[1] for path in loose if (match := re.match(r"([^\W\d]+)[._ -]*\d+\.", path.rpartition("/")[2]))}
    return f"; their names start with {_few(list(found), 8)}" if 1 < len(found) <= min(20, len(loose) // 2) else ""


def _ignored_entries(given: Path, layout: Layout) -> Iterator[str]:
    """Notes on entries beside the folders that were entered, and beside the split folders."""
    folder = given
    for entered in layout.top.relative_to(given).parts:
        yield from _ignored(folder, [entered])
        folder /= entered
    if layout.splits:
        yield from _ignored(layout.top, [where.partition("/")[0] for where in layout.splits.values()])


def _ignored(folder: Path, used: list[str]) -> Iterator[str]:
    names = [e.name for e in list_folder(folder) if e.name not in used and e.kind != "hidden"]
    if names:
        entries = "entry" if len(names) == 1 else "entries"
        yield f"{len(names)} {entries} beside {', '.join(used)} ignored: {_few(names)}"


def _few(names: list[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """Folders of images."""
    return {"folder": Folder}
