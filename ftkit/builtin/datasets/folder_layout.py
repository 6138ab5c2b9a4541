"""How a folder of images is laid out: where its splits or classes are. What can't be told is refused, never guessed."""

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
"""Names of folders that hold images of any class, in lower case."""

_FILLERS = CONTAINERS | {"set", "sets", "folder", "split", "dir", "samples"}
_GLUED = re.compile(r"(train|training|val|valid|validation|dev|test|testing)(?:set|data|images|imgs)")
_ANNOTATIONS = frozenset({"labels", "annotations", "annotation", "label", "bboxes"})
_WANTED = "wanted is train/CLASS/1.jpg with val and test beside train, or CLASS/1.jpg"
MOST_SPLITS = 4
LOOKED_AT = 20
"""Folders whose inside is looked at to tell a layout; those of ten thousand classes are alike."""


@dataclass(frozen=True)
class Layout:
    """Where the classes are.

    Attributes:
        top: The folder that splits or classes lie in.
        splits: The folder of each split, relative to `top`; empty where that itself holds the class folders.
        notes: What was recognised, where names aren't plain.
    """

    top: Path
    splits: Mapping[SplitName, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Inside:
    """The folders in a folder, and how many images are beside them."""

    folders: tuple[str, ...]
    images: int


def find_layout(root: Path) -> Layout:
    """The layout of a folder.

    A class may be called `train` or `test` as well: split names count where the training folder holds folders, or
    where no folder of another name lies beside them.

    Raises:
        RequestError: Two folders are the same split; splits lie inside of classes or of other splits; classes lie
            beside a folder with the same ones; it is laid out for detection.
    """
    top, entered = root, ""
    while True:
        inside = _look(top)
        _require_no_boxes(top, inside)
        named, strict = _split_folders(top, inside.folders)
        around = (f"images are read from the folder {entered} inside",) if entered else ()
        wheres = {}
        if _are_splits(top, inside, named):
            wheres = {split: _innermost(top, name) for split, name in named.items()}
            deeper = _splits_inside(top, wheres)
        else:
            deeper = _deeper(top, inside)
        if deeper is None:
            for where in wheres.values() or [""]:
                _require_no_copy(top / where)
            notes = _recognised(wheres) if wheres else (*_lone(named, strict), *_alike(top, inside, named))
            return Layout(top, wheres, (*around, *notes))
        top, entered = top / deeper, f"{entered}/{deeper}".lstrip("/")


def _are_splits(folder: Path, inside: _Inside, named: Mapping[SplitName, str]) -> bool:
    return bool(named) and (_holds_folders(folder, named) or len(named) == len(inside.folders))


def _splits_inside(top: Path, wheres: Mapping[SplitName, str]) -> str | None:
    """The one split folder that is none, since splits lie inside: training-data/{train, test}.

    Raises:
        RequestError: There are other splits beside it.
    """
    holding = [where for where in wheres.values() if _holds_splits(top / where)]
    if not holding or len(wheres) == 1:
        return next(iter(holding), None)
    raise RequestError(
        f"{top} holds splits inside of splits: {_tree(top, list(wheres.values()))}",
        f"{_WANTED}; or give {top / holding[0]}",
    )


def _require_no_copy(folder: Path) -> None:
    """Refuse classes beside a folder that isn't one, since it holds the same classes: flowers/{daisy, flowers/daisy}.

    Only folders that are called so are looked into: those of a class may hold any others.
    """
    inside = _look(folder)
    around = {folder.absolute().name.lower(), *CONTAINERS, *SPLIT_SYNONYMS}
    for name in (name for name in inside.folders if name.lower() in around):
        within = _look(folder / name)
        if len(set(within.folders) & set(inside.folders)) > 1 and not within.images:
            raise RequestError(
                f"{folder} has folders {_few(inside.folders)}, and {folder / name} holds {_few(within.folders)} again",
                f"take one of them out of the data, or give the one to use; {_WANTED}",
            )


def _recognised(wheres: Mapping[SplitName, str]) -> tuple[str, ...]:
    """A word on split folders whose names aren't the plain ones."""
    if all(SPLIT_SYNONYMS.get(where.lower()) == split for split, where in wheres.items()):
        return ()
    return (f"split folders {', '.join(wheres.values())} are read as {', '.join(wheres)}",)


def _lone(named: Mapping[SplitName, str], strict: bool) -> tuple[str, ...]:
    """A word on classes that are called like splits."""
    if not named or not strict:
        return ()
    which = "folder {} is a class, not a split" if len(named) == 1 else "folders {} are classes, not splits"
    return (f"{which.format(', '.join(named.values()))}: other class folders lie beside",)


def _alike(folder: Path, inside: _Inside, named: Mapping[SplitName, str]) -> tuple[str, ...]:
    """A word on a few folders that hold the same folders each, which may be splits of unknown names.

    Raises:
        RequestError: One of them is called like a split, so that the others are splits too.
    """
    if not 1 < len(inside.folders) <= MOST_SPLITS or inside.images:
        return ()
    looks = [_look(folder / name) for name in inside.folders]
    same = {one.folders for one in looks}
    if len(same) != 1 or len(looks[0].folders) < 2 or any(one.images for one in looks):
        return ()
    if named:
        raise RequestError(
            f"{folder} seems to hold splits, of which only {', '.join(named.values())} is known by its name: "
            f"{_tree(folder, inside.folders)}",
            _WANTED,
        )
    return (
        f"folders {_few(inside.folders)} are read as classes, and each holds folders {_few(looks[0].folders)}: "
        "if these are the classes, call those train, val and test",
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _split_folders(folder: Path, names: Sequence[str]) -> tuple[dict[SplitName, str], bool]:
    """The folder of each split, in the order train, val, test, and whether their names say nothing else.

    First by the words that people use, with fillers such as `set` and `images` around; then by names that have one
    more word in common, as seg_train and seg_test.
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
            raise RequestError(
                f"{folder} has two {split} folders: {named[split]}, {name}", "merge or rename one of them"
            )
        named[split] = name
    return named


def _split_of(name: str) -> tuple[SplitName, tuple[str, ...]] | None:
    """The split that a name has a word for, and its other words; None where it has none, or several.

    What is called for training and validation both, as trainval, is to train on.
    """
    name = re.sub(r"trainval(id)?(?![a-z])", r"train_val", name.lower())
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    words = [glued[1] if (glued := _GLUED.fullmatch(word)) else word for word in words]
    found = [SPLIT_SYNONYMS[word] for word in words if word in SPLIT_SYNONYMS]
    if found != ["train", "val"] and len(found) != 1:
        return None
    return found[0], tuple(w for w in words if w not in SPLIT_SYNONYMS and w not in _FILLERS)


def _holds_folders(folder: Path, named: Mapping[SplitName, str]) -> bool:
    """Whether the training folder holds folders, and so is a split and no class."""
    return "train" in named and bool(_look(folder / named["train"]).folders)


def _deeper(folder: Path, inside: _Inside) -> str | None:
    """The one folder in which the layout begins; None where it begins here.

    Raises:
        RequestError: Several folders hold splits.
    """
    if inside.images:
        return None
    looked = inside.folders[:LOOKED_AT]
    holding = [name for name in looked if _holds_splits(folder / name)]
    if len(inside.folders) == 1 and (holding or _is_wrapper(folder / inside.folders[0])):
        return inside.folders[0]
    if not holding:
        return None
    others = [name for name in looked if name not in holding and _has_images(folder / name)]
    if len(holding) == 1 and not others:
        return holding[0]
    if len(holding) == 1 and len(inside.folders) > 2:
        return None  # a class folder among others, with folders of such names in it
    raise RequestError(
        f"{folder} holds splits in {len(holding)} folders: {_tree(folder, looked)}",
        f"{_WANTED}; or give one of these folders",
    )


def _is_wrapper(folder: Path) -> bool:
    """Whether a folder holds nothing but folders, so that it stands for no class."""
    inside = _look(folder)
    return bool(inside.folders) and not inside.images


def _holds_splits(folder: Path) -> bool:
    names = _look(folder).folders
    if len(names) > LOOKED_AT:
        return False
    try:
        named, _ = _split_folders(folder, names)
    except RequestError:
        return False
    return "train" in named and len(named) > 1


def _has_images(folder: Path) -> bool:
    return bool(_look(folder).images)


def _innermost(root: Path, where: str) -> str:
    """A split's folder less what is around: train/train, seg_train/seg_train, train/images."""
    while True:
        inside = _look(root / where)
        _require_no_boxes(root / where, inside)
        if inside.images or len(inside.folders) != 1:
            return where
        only = inside.folders[0]
        name = where.rpartition("/")[2].lower()
        if only.lower() != name and only.lower() not in CONTAINERS and SPLIT_SYNONYMS.get(only.lower()) is None:
            return where
        where = f"{where}/{only}"


def _require_no_boxes(folder: Path, inside: _Inside) -> None:
    """Refuse data for detection, whose folders aren't classes."""
    names = {name.lower() for name in inside.folders}
    if names & _ANNOTATIONS and names & CONTAINERS and len(names) <= 4:
        raise RequestError(
            f"{folder} is laid out for detection or segmentation: {_tree(folder, inside.folders)}",
            f"a classifier wants one folder a class: {_WANTED}; or a table of images with --dataset csv",
        )


def _tree(folder: Path, names: Sequence[str]) -> str:
    """Two levels of folders on a line."""
    shown = []
    for name in names[:3]:
        inner = _look(folder / name).folders
        shown.append(f"{name}/{{{_few(inner)}}}" if inner else f"{name}/")
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")


def _look(folder: Path) -> _Inside:
    entries = list_folder(folder)
    return _Inside(tuple(e.name for e in entries if e.kind == "folder"), sum(e.kind == "image" for e in entries))
