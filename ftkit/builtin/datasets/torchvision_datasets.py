"""The classification sets of torchvision by name, as `--dataset mnist --set dataset.root=FOLDER`.

What sets them apart is in `torchvision_table`; reading, downloading and checking are torchvision's own.
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
    Facts,
    in_lists,
    in_pairs,
)

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TorchvisionSet(Dataset):
    """A classification set of torchvision.

    Attributes:
        root: Folder that holds it as torchvision lays it out.
        download: Fetch it where it isn't there.
    """

    facts: ClassVar[Facts]

    root: Path = Path("data")
    download: bool = False

    def load(self) -> Splits:
        self._require_place()
        made = {split: self._make(arguments) for split, arguments in self.facts.splits.items()}
        classes = _class_names(self.facts, made["train"])
        splits = {split: self._to_split(split, data) for split, data in made.items()}
        # EMNIST's letters begin with a class that no image has; a head for it would be dead weight.
        seen = set(splits["train"].labels)
        used = tuple(name for label, name in enumerate(classes) if label in seen)
        where = f"dataset {self.facts.name!r}, split "
        splits = {name: relabel(split, classes, used, where + name) for name, split in splits.items()}
        return Splits(used, splits["train"], splits.get("val"), splits.get("test"))

    def _options(self) -> dict[str, object]:
        """Options that only this set has; they are the constructor's own."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"root", "download"}}

    def _place(self) -> Path:
        return self.root.expanduser() / self.facts.place.format(**self._options())

    def _require_place(self) -> None:
        facts, place = self.facts, self._place()
        if facts.needs and not is_installed(facts.needs):
            raise RequestError(f"dataset {facts.name!r} needs {facts.needs}", f"pip install 'ftkit[{facts.needs}]'")
        if self.download and not facts.downloads:
            raise RequestError(
                f"dataset {facts.name!r} can't be downloaded by torchvision",
                f"put it at {place} and drop dataset.download",
            )
        if not self.download and not place.exists():
            get = "add --set dataset.download=true, or " if facts.downloads else ""
            raise RequestError(f"{facts.name} isn't at {place}", f"{get}put it there, or set dataset.root")

    def _make(self, split: Arguments) -> Any:
        """One split of the set as torchvision makes it. What that prints goes to stderr."""
        from torchvision import datasets

        arguments = {**self._options(), **split}
        if self.facts.downloads:
            arguments["download"] = self.download
        root = self.root.expanduser().absolute()
        try:
            if self.download:
                root.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):
                return getattr(datasets, self.facts.constructor)(str(root), **arguments)
        except Exception as error:
            # Its readers raise what parsing runs into; all of it means that the files aren't the set's.
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> FtkitError:
        reason = " ".join(str(error).split()) or type(error).__name__
        if self.download:
            return FtkitError(
                f"{self.facts.name} can't be downloaded to {self._place()}: {reason}",
                "check the connection, or put the files there yourself",
            )
        return RequestError(
            f"{self.facts.name} at {self._place()} is incomplete or damaged: {reason}",
            "put the whole set there" + (", or add --set dataset.download=true" if self.facts.downloads else ""),
        )

    def _to_split(self, name: SplitName, data: Any) -> Split:
        if self.facts.files is None:
            labels = _integers(getattr(data, self.facts.labels))
            names = [f"{self.facts.name}/{name}/{index:06d}" for index in range(len(labels))]
            return Split(names, labels, _InMemory(data, self.facts.transposed))
        root = self.root.expanduser().absolute()
        samples = sorted((path.removeprefix(f"{root}/"), label) for path, label in self.facts.files(data))
        paths = [path for path, _ in samples]
        return Split(paths, [label for _, label in samples], ImageFiles(root, paths))


@dataclass(frozen=True)
class _InMemory:
    """Opens the images of a torchvision set that keeps them as one array."""

    data: Any = field(repr=False)
    transposed: bool

    def __call__(self, index: int) -> Image:
        from PIL.Image import Transpose

        image: Image = self.data[index][0]
        return image.transpose(Transpose.TRANSPOSE) if self.transposed else image


def _integers(labels: Any) -> list[int]:
    """Labels of a list, an array or a tensor; of several columns, as QMNIST has, the first."""
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    return [int(value[0] if isinstance(value, Sequence) else value) for value in values]


def _class_names(facts: Facts, data: Any) -> tuple[str, ...]:
    """Names by label. One that two classes share, as ImageNet's two cranes, gets its label added."""
    known = facts.classes or getattr(data, "classes", None) or getattr(data, "categories", None)
    if known is None:
        labels = [label for _, label in facts.files(data)] if facts.files else _integers(getattr(data, facts.labels))
        return tuple(str(label) for label in range(max(labels) + 1))
    names = [name if isinstance(name, str) else name[0] for name in known]
    often = Counter(names)
    return tuple(f"{name} ({label})" if often[name] > 1 else name for label, name in enumerate(names))


@dataclass(frozen=True)
class Emnist(TorchvisionSet):
    """EMNIST: hand-written letters and digits, 28 x 28 grey.

    Attributes:
        root: Folder that holds it as torchvision lays it out.
        download: Fetch it where it isn't there.
        split: Which of its six makings: by class or merged, balanced, letters, digits, or like MNIST.
    """

    facts = Facts("emnist", "EMNIST", BY_FLAG, "EMNIST/raw", "letters and digits, 28 x 28 grey", transposed=True)
    split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"


@dataclass(frozen=True)
class Dtd(TorchvisionSet):
    """DTD: 5,640 photographs of 47 textures.

    Attributes:
        root: Folder that holds it as torchvision lays it out.
        download: Fetch it where it isn't there.
        partition: Which of its ten ways to split.
    """

    facts = Facts("dtd", "DTD", TRAIN_VAL_TEST, "dtd/dtd", "47 textures", files=in_lists("_image_files"))
    partition: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] = 1


@dataclass(frozen=True)
class Imagenette(TorchvisionSet):
    """Imagenette: ten easy classes of ImageNet.

    Attributes:
        root: Folder that holds it as torchvision lays it out.
        download: Fetch it where it isn't there.
        size: Length of the shorter side.
    """

    facts = Facts("imagenette", "Imagenette", TRAIN_VAL, "", "10 classes of ImageNet", files=in_pairs("_samples"))
    size: Literal["full", "320px", "160px"] = "full"

    def _place(self) -> Path:
        return self.root.expanduser() / f"imagenette2{'' if self.size == 'full' else '-' + self.size[:-2]}"


@dataclass(frozen=True)
class FgvcAircraft(TorchvisionSet):
    """FGVC Aircraft: 10,000 photographs of aircraft.

    Attributes:
        root: Folder that holds it as torchvision lays it out.
        download: Fetch it where it isn't there.
        annotation_level: What a class is: 100 variants, 70 families or 30 manufacturers.
    """

    facts = Facts(
        "fgvc-aircraft",
        "FGVCAircraft",
        TRAIN_VAL_TEST,
        "fgvc-aircraft-2013b",
        "aircraft by variant, family or manufacturer",
        files=in_lists("_image_files"),
    )
    annotation_level: Literal["variant", "family", "manufacturer"] = "variant"


def _plain_class(facts: Facts) -> type[TorchvisionSet]:
    """A dataset class for a set that has no options of its own."""
    doc = (TorchvisionSet.__doc__ or "").replace(
        "A classification set of torchvision", f"{facts.constructor}: {facts.about}"
    )
    body = {"facts": facts, "__doc__": doc, "__module__": __name__}
    return type(facts.constructor, (TorchvisionSet,), body)


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    """The sets by name."""
    classes: list[type[TorchvisionSet]] = [Emnist, Dtd, Imagenette, FgvcAircraft, *map(_plain_class, PLAIN)]
    return {cls.facts.name: cls for cls in classes}
