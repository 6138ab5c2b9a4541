"""Statistics of a dataset, from which the first config of a project is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.config.dataset_choice import DatasetChoice
from ftkit.data.image_sample import MOST, ImageSample, sample_images
from ftkit.data.images import sample_file
from ftkit.errors import RequestError
from ftkit.parts.label_sets import count_classes
from ftkit.planning.backbone_choice import BackboneChoice, suited_to
from ftkit.plugins import Registry


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of a dataset.

    Attributes:
        dataset: The dataset's name: `folder`, `csv` or `archive`.
        options: Its options as YAML values, that for the path first; paths are absolute.
        counts: Number of training images by class, in label order.
        sizes: Number of images by split.
        sample: Sizes and colours of some training images.
        backbone: What `auto` chooses for them on this machine.
        example: Absolute path of an image for a first prediction.
        notes: The dataset's notes, such as files that were left out.
    """

    dataset: str
    options: Mapping[str, Any]
    counts: Mapping[str, int]
    sizes: Mapping[str, int]
    sample: ImageSample
    backbone: BackboneChoice
    example: Path
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """An absolute path, or the URL of an archive."""
        return str(next(iter(self.options.values())))

    @property
    def images(self) -> int:
        """Number of training images."""
        return self.sizes["train"]


def compute_stats(data: DatasetChoice, registry: Registry) -> DatasetStats:
    """Compute the statistics of a dataset; at most 100 images are read.

    Args:
        data: A dataset of files; its first option is the path.

    Raises:
        RequestError: There is no data, or no readable training image.
    """
    splits, path = data.dataset.load(), next(iter(data.options.values()))
    train = splits.train
    if train is None or not len(train):
        raise RequestError(f"{path} has no training images", "put them into a folder or a split called train")
    sample = sample_images(train)
    if not sample.places:
        raise RequestError(f"{path}: none of {min(len(train), MOST)} images can be read", "check the files")
    example = sample_file(train, sample.places[0])
    assert example is not None, "datasets of files open files"
    images = count_classes(train.labels)
    return DatasetStats(
        data.name,
        data.options,
        {name: images[label] for label, name in enumerate(splits.classes)},
        {name: len(split) for name, split in splits.present()},
        sample=sample,
        backbone=suited_to(sample, registry),
        example=example,
        notes=splits.notes,
    )
