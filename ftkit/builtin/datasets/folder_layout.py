"""Detection of a folder's layout: where its splits or classes are. An ambiguous layout is an error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.api import SPLIT_NAMES, SPLIT_SYNONYMS, RequestError, SplitName, list_folder

CONTAINERS = frozenset(
    {"images", "image", "imgs", "img", "data", "dataset", "photos", "pictures", "pics", "jpegimages"}
)
"""Names of folders that contain images of any class, in lower case."""

_FILLERS = CONTAINERS | {"set", "sets", "folder", "split", "dir", "samples"}
_GLUED = re.compile(r"(train|training|val|valid|validation|dev|test|testing)(?:set|data|images|imgs)")
_ANNOTATIONS = frozenset({"labels", "annotations", "annotation", "label", "bboxes"})
_EXPECTED = "expected: train/CLASS/1.jpg with val and test beside train, or CLASS/1.jpg"
MOST_SPLITS = 4
INSPECTED = 20
"""Maximum folders that are listed to detect a layout."""


@dataclass(frozen=True)
class Layout:
    """The layout of a folder.

    Attributes:
        top: The folder that contains the split folders or class folders.
        splits: The folder of each split, relative to `top`; empty if `top` contains the class folders.
        notes: How folders with unusual names are read.
    """

    top: Path
    splits: Mapping[SplitName, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """The subfolders of a folder and the number of its own images."""

    folders: tuple[str, ...]
    images: int


def find_layout(root: Path) -> Layout:
    """Detect the layout of a folder.

    A class may also be named `train` or `test`: folders with split names are splits if the training folder contains
    folders, or if there are no folders with other names beside them.

    Raises:
        RequestError: Two folders are the same split, splits are inside classes or other splits, classes are beside a
            folder with the same classes, or the layout is one for detection.
    """
    top, entered = root, ""
    while True:
        content = _list(top)
        _require_no_boxes(top, content)
        named, strict = _split_folders(top, content.folders)
        folders: dict[SplitName, str] = {}
        if _are_splits(top, content, named):
            folders = {split: _innermost(top, name) for split, name in named.items()}
            inner = _splits_inside(top, folders)
        else:
            inner = _inner_folder(top, content)
        if inner is None:
            for where in folders.values() or [""]:
                _require_no_copy(top / where)
            notes = [f"images are read from the subfolder {entered}"] if entered else []
            notes += _renamed_splits(folders) if folders else _split_like_classes(named, strict)
            notes += () if folders else _possible_splits(top, content, named)
            return Layout(top, folders, tuple(notes))
        top, entered = top / inner, f"{entered}/{inner}".lstrip("/")


def _are_splits(folder: Path, content: _Content, named: Mapping[SplitName, str]) -> bool:
    return bool(named) and (_train_has_folders(folder, named) or len(named) == len(content.folders))


def _splits_inside(top: Path, folders: Mapping[SplitName, str]) -> str | None:
    """The single split folder that itself contains splits, as in training-data/{train, test}; None if there is none.

    Raises:
        RequestError: There are other splits beside it.
    """
    outer = [where for where in folders.values() if _has_splits(top / where)]
    if not outer or len(folders) == 1:
        return next(iter(outer), None)
    raise RequestError(
        f"{top} has splits inside splits: {_tree(top, list(folders.values()))}",
        f"{_EXPECTED}; or give {top / outer[0]}",
    )


def _require_no_copy(folder: Path) -> None:
    """Refuse classes beside a folder with the same classes, as in flowers/{daisy, flowers/daisy}.

    Only subfolders named like `folder`, a container or a split are checked: a class folder may contain any others.
    """
    content = _list(folder)
    names = {folder.absolute().name.lower(), *CONTAINERS, *SPLIT_SYNONYMS}
    for name in (name for name in content.folders if name.lower() in names):
        within = _list(folder / name)
        if len(set(within.folders) & set(content.folders)) > 1 and not within.images:
            raise RequestError(
                f"{folder} and {folder / name} both have class folders {_few(within.folders)}",
                f"remove one of them from the data, or give the one to use; {_EXPECTED}",
            )


def _renamed_splits(folders: Mapping[SplitName, str]) -> tuple[str, ...]:
    """A note if split folders have unusual names."""
    if all(SPLIT_SYNONYMS.get(where.lower()) == split for split, where in folders.items()):
        return ()
    return (f"split folders {', '.join(folders.values())} are read as {', '.join(folders)}",)


def _split_like_classes(named: Mapping[SplitName, str], strict: bool) -> tuple[str, ...]:
    """A note if classes have names of splits."""
    if not named or not strict:
        return ()
    which = "folder {} is a class, not a split" if len(named) == 1 else "folders {} are classes, not splits"
    return (f"{which.format(', '.join(named.values()))}, since there are other class folders beside it",)


def _possible_splits(folder: Path, content: _Content, named: Mapping[SplitName, str]) -> tuple[str, ...]:
    """A note if a few folders all contain the same folders: they may be splits with unknown names.

    Raises:
        RequestError: One of them has the name of a split, so the others are splits too.
    """
    if not 1 < len(content.folders) <= MOST_SPLITS or content.images:
        return ()
    contents = [_list(folder / name) for name in content.folders]
    same = {one.folders for one in contents}
    if len(same) != 1 or len(contents[0].folders) < 2 or any(one.images for one in contents):
        return ()
    if named:
        raise RequestError(
            f"{folder} seems to have splits, but only {', '.join(named.values())} has the name of one: "
            f"{_tree(folder, content.folders)}",
            _EXPECTED,
        )
    return (
        f"folders {_few(content.folders)} are read as classes, but each contains folders {_few(contents[0].folders)}: "
        "if these are the classes, rename the outer folders to train, val and test",
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _split_folders(folder: Path, names: Sequence[str]) -> tuple[dict[SplitName, str], bool]:
    """The folder of each split in the order train, val, test, and whether their names have no other words.

    Names are matched by `SPLIT_SYNONYMS`, with fillers such as `set` and `images`; then by names with one other word in
    common, such as seg_train and seg_test.
    """
    exact = _by_split(folder, [(SPLIT_SYNONYMS.get(name.lower()), name) for name in names])
    split_of = {name: _split_of(name) for name in names}
    filled = _by_split(
        folder,
        [(found[0], name) for name, found in split_of.items() if found and not found[1] and found[0] not in exact],
    )
    named = {**exact, **filled}
    if "train" not in named:
        common = Counter(found[1] for found in split_of.values() if found and found[1])
        extra = next((words for words, count in common.most_common(1) if count > 1), None)
        alike = _by_split(folder, [(f[0], name) for name, f in split_of.items() if f and f[1] == extra], strict=False)
        if "train" in alike and len(alike) > 1:
            return {split: alike[split] for split in SPLIT_NAMES if split in alike}, False
    return {split: named[split] for split in SPLIT_NAMES if split in named}, True


def _by_split(folder: Path, pairs: Sequence[tuple[SplitName | None, str]], strict: bool = True) -> dict[SplitName, str]:
    named: dict[SplitName, str] = {}
    for split, name in pairs:
        if split is None:
            continue
        if split in named and strict:
            raise RequestError(f"{folder} has two {split} folders: {named[split]}, {name}", "merge them, or rename one")
        named[split] = name
    return named


def _split_of(name: str) -> tuple[SplitName, tuple[str, ...]] | None:
    """The split that a name contains a word for, and its other words; None if it contains none or several.

    A folder for both training and validation, such as trainval, is for training.
    """
    name = re.sub(r"trainval(id)?(?![a-z])", r"train_val", name.lower())
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    words = [glued[1] if (glued := _GLUED.fullmatch(word)) else word for word in words]
    found = [SPLIT_SYNONYMS[word] for word in words if word in SPLIT_SYNONYMS]
    if found != ["train", "val"] and len(found) != 1:
        return None
    return found[0], tuple(w for w in words if w not in SPLIT_SYNONYMS and w not in _FILLERS)


def _train_has_folders(folder: Path, named: Mapping[SplitName, str]) -> bool:
    """Whether the training folder contains folders, so that it is a split and not a class."""
    return "train" in named and bool(_list(folder / named["train"]).folders)


def _inner_folder(folder: Path, content: _Content) -> str | None:
    """The only subfolder that contains the layout; None if `folder` itself does.

    Raises:
        RequestError: Several subfolders contain splits.
    """
    if content.images:
        return None
    inspected = content.folders[:INSPECTED]
    with_splits = [name for name in inspected if _has_splits(folder / name)]
    if len(content.folders) == 1 and (with_splits or _is_wrapper(folder / content.folders[0])):
        return content.folders[0]
    if not with_splits:
        return None
    others = [name for name in inspected if name not in with_splits and _has_images(folder / name)]
    if len(with_splits) == 1 and not others:
        return with_splits[0]
    if len(with_splits) == 1 and len(content.folders) > 2:
        return None  # a class folder that contains folders with such names
    raise RequestError(
        f"{folder} has splits in {len(with_splits)} folders: {_tree(folder, inspected)}",
        f"{_EXPECTED}; or give one of these folders",
    )


def _is_wrapper(folder: Path) -> bool:
    """Whether a folder contains only folders, so that it is not a class."""
    content = _list(folder)
    return bool(content.folders) and not content.images


def _has_splits(folder: Path) -> bool:
    names = _list(folder).folders
    if len(names) > INSPECTED:
        return False
    try:
        named, _ = _split_folders(folder, names)
    except RequestError:
        return False
    return "train" in named and len(named) > 1


def _has_images(folder: Path) -> bool:
    return bool(_list(folder).images)


def _innermost(root: Path, where: str) -> str:
    """The innermost folder of a split, as in train/train, seg_train/seg_train, train/images."""
    while True:
        content = _list(root / where)
        _require_no_boxes(root / where, content)
        if content.images or len(content.folders) != 1:
            return where
        only = content.folders[0]
        name = where.rpartition("/")[2].lower()
        if only.lower() != name and only.lower() not in CONTAINERS and SPLIT_SYNONYMS.get(only.lower()) is None:
            return where
        where = f"{where}/{only}"


def _require_no_boxes(folder: Path, content: _Content) -> None:
    """Refuse data for object detection, whose folders aren't classes."""
    names = {name.lower() for name in content.folders}
    if names & _ANNOTATIONS and names & CONTAINERS and len(names) <= 4:
        raise RequestError(
            f"{folder} has a layout for detection or segmentation: {_tree(folder, content.folders)}",
            f"classification needs one folder per class; {_EXPECTED}; or a table of images with --dataset csv",
        )


def _tree(folder: Path, names: Sequence[str]) -> str:
    """Two levels of folders in one line."""
    shown = []
    for name in names[:3]:
        inner = _list(folder / name).folders
        shown.append(f"{name}/{{{_few(inner)}}}" if inner else f"{name}/")
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _list(folder: Path) -> _Content:
    entries = list_folder(folder)
    return _Content(tuple(e.name for e in entries if e.kind == "folder"), sum(e.kind == "image" for e in entries))
