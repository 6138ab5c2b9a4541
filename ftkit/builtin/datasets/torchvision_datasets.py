"""torchvision's classification datasets by name, as in `--dataset mnist --set dataset.root=FOLDER`.

Their descriptions are in `torchvision_table`; torchvision reads, downloads and verifies them.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ftkit.api import (
    Dataset,
    FtkitError,
    ImageFiles,
    RequestError,
    Split,
    SplitName,
    Splits,
    hookimpl,
    is_installed,
    relabel,
)
from ftkit.builtin.datasets.torchvision_table import (
    BY_FLAG,
    PLAIN,
    TRAIN_VAL,
    TRAIN_VAL_TEST,
    Arguments,
    DatasetInfo,
    in_lists,
    in_pairs,
)

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TorchvisionSet(Dataset):
    """A classification dataset of torchvision.

    Attributes:
        root: Folder with the data in torchvision's layout.
        download: Download the data if it is missing.
    """

    info: ClassVar[DatasetInfo]

    root: Path = Path("data")
    download: bool = False

    def load(self) -> Splits:
        self._require_place()
        made = {split: self._make(arguments) for split, arguments in self.info.splits.items()}
        classes = _class_names(self.info, made["train"])
        splits = {split: self._to_split(split, data) for split, data in made.items()}
        # The first class of EMNIST letters has no images, so the head would have an unused output.
        seen = set(splits["train"].labels)
        used = tuple(name for label, name in enumerate(classes) if label in seen)
        where = f"dataset {self.info.name!r}, split "
        splits = {name: relabel(split, classes, used, where + name) for name, split in splits.items()}
        return Splits(used, splits["train"], splits.get("val"), splits.get("test"))

    def _options(self) -> dict[str, object]:
        """Additional options of this dataset, which are arguments of torchvision's constructor."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"root", "download"}}

    def _place(self) -> Path:
        return self.root.expanduser() / self.info.place.format(**self._options())

    def _require_place(self) -> None:
        info, place = self.info, self._place()
        if info.needs and not is_installed(info.needs):
            raise RequestError(f"dataset {info.name!r} needs {info.needs}", f"pip install 'ftkit[{info.needs}]'")
        if self.download and not info.downloads:
            raise RequestError(
                f"dataset {info.name!r} can't be downloaded by torchvision",
                f"put it at {place} and remove dataset.download",
            )
        if not self.download and not place.exists():
            get = "add --set dataset.download=true, or " if info.downloads else ""
            raise RequestError(f"{info.name} not found at {place}", f"{get}put it there, or set dataset.root")

    def _make(self, split: Arguments) -> Any:
        """Create torchvision's dataset for one split; its output goes to stderr."""
        from torchvision import datasets

        arguments = {**self._options(), **split}
        if self.info.downloads:
            arguments["download"] = self.download
        root = self.root.expanduser().absolute()
        try:
            if self.download:
                root.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):
                return getattr(datasets, self.info.constructor)(str(root), **arguments)
        except Exception as error:
            # torchvision's readers raise any exception for missing or damaged files.
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> FtkitError:
        reason = " ".join(str(error).split()) or type(error).__name__
        if self.download:
            return FtkitError(
                f"{self.info.name} can't be downloaded to {self._place()}: {reason}",
                "check the connection, or put the files there yourself",
            )
        return RequestError(
            f"{self.info.name} at {self._place()} is incomplete or damaged: {reason}",
            "put all of its files there" + (", or add --set dataset.download=true" if self.info.downloads else ""),
        )

    def _to_split(self, name: SplitName, data: Any) -> Split:
        if self.info.files is None:
            labels = _integers(getattr(data, self.info.labels))
            names = [f"{self.info.name}/{name}/{index:06d}" for index in range(len(labels))]
            return Split(names, labels, _InMemory(data, self.info.transposed))
        root = self.root.expanduser().absolute()
        samples = sorted((path.removeprefix(f"{root}/"), label) for path, label in self.info.files(data))
        paths = [path for path, _ in samples]
        return Split(paths, [label for _, label in samples], ImageFiles(root, paths))


@dataclass(frozen=True)
class _InMemory:
    """Opens the images of a torchvision dataset that is one array in memory."""

    data: Any = field(repr=False)
    transposed: bool

    def __call__(self, index: int) -> Image:
        from PIL.Image import Transpose

        image: Image = self.data[index][0]
        return image.transpose(Transpose.TRANSPOSE) if self.transposed else image


def _integers(labels: Any) -> list[int]:
    """Labels from a list, an array or a tensor; with several columns, as in QMNIST, the first one."""
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    return [int(value[0] if isinstance(value, Sequence) else value) for value in values]


def _class_names(info: DatasetInfo, data: Any) -> tuple[str, ...]:
    """Names by label; a name that two classes share, as ImageNet's two cranes, gets its label appended."""
    known = info.classes or getattr(data, "classes", None) or getattr(data, "categories", None)
    if known is None:
        labels = [label for _, label in info.files(data)] if info.files else _integers(getattr(data, info.labels))
        return tuple(str(label) for label in range(max(labels) + 1))
    names = [name if isinstance(name, str) else name[0] for name in known]
    often = Counter(names)
    return tuple(f"{name} ({label})" if often[name] > 1 else name for label, name in enumerate(names))


@dataclass(frozen=True)
class Emnist(TorchvisionSet):
    """EMNIST: handwritten letters and digits, 28 x 28 grey.

    Attributes:
        root: Folder with the data in torchvision's layout.
        download: Download the data if it is missing.
        split: Which of its six versions: by class or merged, balanced, letters, digits, or like MNIST.
    """

    info = DatasetInfo("emnist", "EMNIST", BY_FLAG, "EMNIST/raw", "letters and digits, 28 x 28 grey", transposed=True)
    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"


@dataclass(frozen=True)
class Dtd(TorchvisionSet):
    """DTD: 5,640 photographs of 47 textures.

    Attributes:
        root: Folder with the data in torchvision's layout.
        download: Download the data if it is missing.
        partition: Which of its ten partitions into splits.
    """

    info = DatasetInfo("dtd", "DTD", TRAIN_VAL_TEST, "dtd/dtd", "47 textures", files=in_lists("_image_files"))
    partition: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] = 1


@dataclass(frozen=True)
class Imagenette(TorchvisionSet):
    """Imagenette: ten easy classes of ImageNet.

    Attributes:
        root: Folder with the data in torchvision's layout.
        download: Download the data if it is missing.
        size: Length of the shorter side.
    """

    info = DatasetInfo("imagenette", "Imagenette", TRAIN_VAL, "", "10 classes of ImageNet", files=in_pairs("_samples"))
    size: Literal["full", "320px", "160px"] = "full"

    def _place(self) -> Path:
        return self.root.expanduser() / f"imagenette2{'' if self.size == 'full' else '-' + self.size[:-2]}"


@dataclass(frozen=True)
class FgvcAircraft(TorchvisionSet):
    """FGVC Aircraft: 10,000 photographs of aircraft.

    Attributes:
        root: Folder with the data in torchvision's layout.
        download: Download the data if it is missing.
        annotation_level: Classes: 100 variants, 70 families or 30 manufacturers.
    """

    info = DatasetInfo(
        "fgvc-aircraft",
        "FGVCAircraft",
        TRAIN_VAL_TEST,
        "fgvc-aircraft-2013b",
        "aircraft by variant, family or manufacturer",
        files=in_lists("_image_files"),
    )
    annotation_level: Literal["variant", "family", "manufacturer"] = "variant"


def _plain_class(info: DatasetInfo) -> type[TorchvisionSet]:
    """A dataset class without additional options."""
    doc = (TorchvisionSet.__doc__ or "").replace(
        "A classification dataset of torchvision", f"{info.constructor}: {info.about}"
    )
    body = {"info": info, "__doc__": doc, "__module__": __name__}
    return type(info.constructor, (TorchvisionSet,), body)


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """torchvision's datasets by name."""
    classes: list[type[TorchvisionSet]] = [Emnist, Dtd, Imagenette, FgvcAircraft, *map(_plain_class, PLAIN)]
    return {cls.info.name: cls for cls in classes}
