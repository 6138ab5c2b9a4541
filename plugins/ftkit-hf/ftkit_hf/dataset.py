"""Image datasets that the `datasets` library reads, from the hub or from local files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ftkit.api import (
    SPLIT_NAMES,
    SPLIT_SYNONYMS,
    Dataset,
    FtkitError,
    Labelled,
    LabelSets,
    RequestError,
    Split,
    SplitName,
    Splits,
    join_splits,
    kind_of_file,
    label_splits,
    nearest,
)
from ftkit_hf.local import cache_of
from ftkit_hf.local_table import LocalTable
from ftkit_hf.streaming import streamed

if TYPE_CHECKING:
    pass

LABELS = ("label", "labels", "class", "target", "fine_label", "category")
"""Names of label columns, by precedence, for data that declares none as such."""


class Table(Protocol):
    """A split of a dataset, as a table."""

    features: Mapping[str, Any]

    def values(self, column: str) -> list[Any]:
        """The values of a column without images, by row."""

    def split(self, names: Sequence[str], labels: Sequence[int], image: str, label: str) -> Split:
        """The images of a column, with names and labels by row."""


@dataclass(frozen=True)
class HubDataset(Dataset):
    """Images and labels that the `datasets` library reads: a repository of the hub, a folder, or Parquet files.

    Splits are recognised by their names. Rows are read when needed, from memory-mapped files.

    Attributes:
        path: A repository such as `uoft-cs/cifar10`, a folder (of Parquet files, of images, or as
            `save_to_disk` writes it), or a Parquet file.
        config: Name of a configuration of the repository, if it has several.
        image_column: Column of images; by default the only one there is.
        label_column: Column of classes, or of lists of classes for several labels per image; by default the one
            declared as such, or named `label`.
        revision: Branch, tag or commit of a repository.
        streaming: Fetch images when they are needed instead of downloading the data; for Parquet files.
        streaming_cache_gb: Limit of the disk cache of fetched data, in gigabytes.
    """

    layout_options: ClassVar[tuple[str, ...]] = ("image_column", "label_column")

    path: str
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    revision: str | None = None
    streaming: bool = False
    streaming_cache_gb: float = 10.0

    def load(self) -> Splits:
        return self._joined(for_training=True)

    def load_for_evaluation(self) -> Splits:
        return self._joined(for_training=False)

    def _joined(self, for_training: bool) -> Splits:
        found, passed = self._found(self._tables())
        first = found[next(name for name in SPLIT_NAMES if name in found)]
        image, (label, chosen) = self._image_column(first.features), self._label_column(first.features)
        labelled: dict[SplitName, Labelled] = {}
        notes = [*chosen, *passed]
        for name, table in found.items():
            if image not in table.features:
                raise RequestError(f"dataset.path: {self.path}, split {name} has no column {image!r}")
            if label in table.features:
                labelled[name] = self._split(name, table, image, label)
            else:
                notes.append(f"the {name} split is left out: it has no column {label!r}")
        where = {name: f"{self.path}, split {name}" for name in labelled}
        if _listed_classes(first.features[label]) is not None:
            return label_set_splits(labelled, where, notes, for_training)
        return label_splits(labelled, where, tuple(notes), for_training)

    def _found(self, tables: Mapping[str, Table]) -> tuple[dict[SplitName, Table], tuple[str, ...]]:
        """The tables of train, val and test, and a note on other splits."""
        names: dict[SplitName, str] = {}
        for name in tables:
            split = SPLIT_SYNONYMS.get(name.lower())
            if split is not None:
                names.setdefault(split, name)
        if not names and len(tables) == 1:
            names = {"train": next(iter(tables))}
        if not names:
            raise RequestError(f"dataset.path: {self.path} has no split called train: {', '.join(tables)}")
        over = [name for name in tables if name not in names.values()]
        line = f"splits passed over beside {', '.join(names.values())}: {', '.join(over)}"
        return {split: tables[name] for split, name in names.items()}, (line,) if over else ()

    def _tables(self) -> Mapping[str, Table]:
        import datasets

        datasets.disable_progress_bars()
        path = Path(self.path).expanduser()
        if not self.streaming_cache_gb > 0:
            raise RequestError("dataset.streaming_cache_gb must be above 0", "10, for example")
        try:
            if self.streaming:
                return streamed(self.path, self.config, self.revision, self.streaming_cache_gb)
            if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
                loaded = datasets.load_from_disk(str(path))
            elif path.is_file() and (kind := kind_of_file(path)) not in ("a Parquet file", None):
                raise RequestError(f"dataset.path: {self.path} is {kind}, not a Parquet file", "give a Parquet file")
            elif path.is_file():
                loaded = datasets.load_dataset("parquet", data_files=str(path), cache_dir=cache_of(path))
            elif path.is_dir():
                loaded = datasets.load_dataset(str(path), self.config, revision=self.revision, cache_dir=cache_of(path))
            else:
                loaded = datasets.load_dataset(self.path, self.config, revision=self.revision)
        except FtkitError:
            raise
        except Exception as error:  # the type depends on the reader and the network
            text = " ".join(str(error).split())
            raise FtkitError(
                f"dataset.path: {self.path} can't be loaded: {text.partition('. ')[0] or type(error).__name__}",
                "give a folder, a Parquet file, or a repository that is in the cache (HF_HOME) or can be downloaded",
            ) from error
        tables = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        return {str(name): LocalTable(table, self.path) for name, table in tables.items()}

    def _image_column(self, features: Mapping[str, Any]) -> str:
        import datasets

        found: list[str] = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if self.image_column is not None:
            return self._named("image_column", self.image_column, found)
        if len(found) != 1:
            raise RequestError(
                f"dataset.path: {self.path} has {len(found)} columns of images among {', '.join(features)}",
                "name one with --set dataset.image_column=NAME" if found else "choose a dataset of images",
            )
        return found[0]

    def _label_column(self, features: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
        """The column of classes, and a note where other columns are candidates."""
        import datasets

        plain: list[str] = [
            name
            for name, feature in features.items()
            if isinstance(feature, datasets.ClassLabel | datasets.Value) or _listed_classes(feature) is not None
        ]
        wanted = self.label_column
        if wanted is not None and wanted not in features:
            raise self._no_column("label_column", wanted, plain)
        declared: list[str] = [name for name in plain if not isinstance(features[name], datasets.Value)]
        likely: tuple[str, ...] = (*LABELS, *(declared if len(declared) == 1 else ()))
        found = [n for n in likely if n in plain and (n in declared or not declared)] if wanted is None else [wanted]
        if found and found[0] in plain:
            others = [name for name in dict.fromkeys((*found, *declared)) if name != found[0] and wanted is None]
            chosen = f"labels are column {found[0]!r}; other candidates: {', '.join(others)} (dataset.label_column)"
            return found[0], (chosen,) if others else ()
        several = wanted if wanted is not None else next((name for name in LABELS if name in features), None)
        if several is not None:
            kind = type(features[several]).__name__
            raise RequestError(
                f"dataset.path: column {several!r} of {self.path} holds {kind}, not classes",
                "name a column of ClassLabel, or of lists of ClassLabel, with --set dataset.label_column=NAME",
            )
        raise RequestError(
            f"dataset.path: none of {', '.join(features)} is clearly the label column",
            "name it with --set dataset.label_column=NAME",
        )

    def _named(self, key: str, name: str, known: list[str]) -> str:
        if name in known:
            return name
        raise self._no_column(key, name, known)

    def _no_column(self, key: str, name: str, known: list[str]) -> RequestError:
        close = nearest(name, known)
        return RequestError(
            f"dataset.{key}: {self.path} has no such column {name!r}: {', '.join(known) or 'none fits'}",
            f"did you mean {close!r}?" if close else None,
        )

    def _split(self, name: str, table: Table, image: str, label: str) -> Labelled:
        import datasets

        values = table.values(label)
        feature = table.features[label]
        classes = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else _listed_classes(feature)
        names = [f"{name}/{row:07d}" for row in range(len(values))]
        return Labelled(table.split(names, [0] * len(names), image, label), values, classes)


def _listed_classes(feature: Any) -> tuple[str, ...] | None:
    """The class names of a column of lists of ClassLabel; None for another column."""
    import datasets

    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def label_set_splits(
    tables: Mapping[SplitName, Labelled], where: Mapping[SplitName, str], notes: Sequence[str], for_training: bool
) -> Splits:
    """Splits with several labels per image, from columns of lists of class numbers.

    An empty list is an image without a label. Images whose list is missing, or has a -1, are left out, with a note.

    Raises:
        RequestError: A split has no lists of classes, a number isn't a class, or no image has a list.
    """
    parts, lines = dict[SplitName, tuple[Split, Sequence[str]]](), list(notes)
    for name, table in tables.items():
        if table.classes is None or any(isinstance(value, int | str | float) for value in table.values):
            raise RequestError(f"{where[name]}: its labels aren't lists of classes, as those of other splits are")
        kept = [row for row, value in enumerate(table.values) if isinstance(value, list) and -1 not in value]
        if len(kept) < len(table.values):
            left = len(table.values) - len(kept)
            lines.append(f"the {name} split: {left:,} of {len(table.values):,} images have no labels and are skipped")
        if not kept:
            continue
        sets: list[Any] = [table.values[row] for row in kept]
        _require_classes(sets, [table.split.names[row] for row in kept], len(table.classes), where[name])
        split = table.split if len(kept) == len(table.values) else table.split.subset(kept)
        parts[name] = replace(split, labels=LabelSets(sets, len(table.classes))), table.classes
    if not parts or (for_training and "train" in tables and "train" not in parts):
        raise RequestError(f"{next(iter(where.values()))}: no image has labels", "give labelled data")
    return join_splits(parts, where, tuple(lines), for_training)


def _require_classes(sets: Sequence[Sequence[Any]], names: Sequence[str], classes: int, where: str) -> None:
    for name, labels in zip(names, sets, strict=True):
        wrong = next((label for label in labels if not isinstance(label, int) or not 0 <= label < classes), None)
        if wrong is not None or None in labels:
            raise RequestError(f"{where}: a label of {name} is {wrong}, and there are {classes} classes, from 0")
