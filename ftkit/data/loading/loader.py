"""Data loaders: from a split to batches of tensors, with an order and seeds that make resuming exact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ftkit.data.images import UnreadableImage, sample_name
from ftkit.data.loading.order import Key, Shard, TrainingOrder
from ftkit.data.loading.pixels import sample_pixels
from ftkit.data.loading.read_failures import ReadFailure, raise_failures
from ftkit.data.loading.seeds import derive
from ftkit.data.loading.workers import PREFETCH, START, exit_reason, init_worker, process_exiting
from ftkit.errors import FtkitError, one_line
from ftkit.parts.dataset import Split
from ftkit.parts.label_sets import Label, LabelSets, label_set
from ftkit.plugin_errors import is_unreadable_image, with_traceback
from ftkit.transforms.device_transforms import DeviceTransforms, RandomParams
from ftkit.transforms.pipeline import Transform

if TYPE_CHECKING:
    from ftkit.models.compute.devices import Compute


@dataclass
class Batch:
    """A batch of samples.

    Attributes:
        images: float32 `(b, channels, size, size)`, channels last in memory; uint8 before the `device_transforms`.
        labels: Class indices, int64 `(b,)`; in a multi-label dataset 1 for each class of an image and 0 for the others,
            float32 `(b, classes)`.
        indices: Positions in the split, int64 `(b,)`.
        failures: Images that couldn't be read and are missing from the batch.
        device_transforms: The part of the transform to run on the device, for whole batches.
        params: Random parameters of `device_transforms`, each `(b, ...)`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    failures: tuple[ReadFailure, ...] = ()
    device_transforms: DeviceTransforms | None = None
    params: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Batch:
        images, labels, indices = (values.pin_memory() for values in self)
        params = {name: values.pin_memory() for name, values in self.params.items()}
        return Batch(images, labels, indices, self.failures, self.device_transforms, params)

    def to(self, compute: Compute) -> Batch:
        """The batch on the device, with preprocessed images."""
        labels, indices = (values.to(compute.device, non_blocking=True) for values in (self.labels, self.indices))
        return Batch(self.images_on(compute), labels, indices, self.failures)

    def images_on(self, compute: Compute) -> Tensor:
        """The images on the device, as input of the network."""
        images = compute.to_device(self.images)
        if self.device_transforms is None or not len(self):
            return images
        params = {name: values.to(compute.device, non_blocking=True) for name, values in self.params.items()}
        return compute.to_device(self.device_transforms(images, params))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.labels, self.indices))


@dataclass(frozen=True)
class _Sample:
    image: Tensor
    label: Label
    index: int
    params: RandomParams = field(default_factory=dict)


_ONE_DRAWS = Lock()

Pixels = Callable[[int, int], Tensor]


class Samples(Dataset["_Sample | ReadFailure"]):
    """Transformed samples by key.

    Random transforms draw from torch's generator, which is seeded by the key for each sample. So a sample doesn't
    depend on the process or on earlier samples, and an image drawn twice in an epoch gets different augmentations.

    Args:
        pixels: Returns the pixels of a position with a number of channels; by default the image is read each time.
        on_device: Only crop and resize here; the rest of the transform runs on the device (`Batch.to`).
    """

    def __init__(
        self, split: Split, transform: Transform, seed: int = 0, pixels: Pixels | None = None, on_device: bool = False
    ) -> None:
        self.on_device = on_device
        self.split = split
        self.transform = transform
        self.seed = seed
        self.pixels = pixels or partial(sample_pixels, split, value_range=transform.value_range)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a multi-label split; None with one label per image."""
        return self.split.labels.num_classes if isinstance(self.split.labels, LabelSets) else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> _Sample | ReadFailure:
        return self._made(key, nullcontext())

    def read(self, key: Key) -> tuple[Tensor | None, tuple[Label, int] | ReadFailure]:
        """A sample's image with its label and index; safe with threads, which share torch's generator under a lock."""
        made = self._made(key, _ONE_DRAWS)
        return (None, made) if isinstance(made, ReadFailure) else (made.image, (made.label, made.index))

    def _made(self, key: Key, drawing: AbstractContextManager[Any]) -> _Sample | ReadFailure:
        transform, index = self.transform_of(key), key[1]
        try:
            pixels = self.pixels(index, transform.channels)
        except UnreadableImage as error:
            file = sample_name(self.split, index)
            return ReadFailure(file, error.message.removeprefix(one_line(f"{file}: ")))
        except FtkitError as error:
            broken = is_unreadable_image(error)
            return ReadFailure(sample_name(self.split, index), error.message, with_traceback(error), broken)
        with drawing:
            torch.default_generator.manual_seed(derive(self.seed, "augment", *key))
            try:
                image, params = transform.crop(pixels) if self.on_device else (transform(pixels), {})
            except FtkitError as error:
                return ReadFailure(sample_name(self.split, index), error.message, with_traceback(error), False)
            return _Sample(image, self.split.labels[index], index, params)

    def transform_of(self, key: Key) -> Transform:
        """The transform of a sample."""
        return self.transform


def training_loader(
    samples: Samples, order: TrainingOrder, workers: int, pin: bool = False, shape: Sequence[int] = (0,)
) -> DataLoader[_Sample | ReadFailure]:
    """Batches in training order; call `order.start` and iterate again for each epoch.

    Args:
        shape: The shape of one image, `(channels, size, size)`, for batches without images.
    """
    return _loader(samples, order, workers, pin, shape)


def evaluation_loader(
    samples: Samples, batch_size: int, workers: int, rank: int = 0, world: int = 1, pin: bool = False
) -> DataLoader[_Sample | ReadFailure]:
    """Batches of one process's shard of a split, each sample once."""
    return _loader(samples, Shard(len(samples), batch_size, rank, world), workers, pin)


def start_workers(evaluation: Any) -> None:
    """Start the worker processes of an evaluation loader, which read nothing yet.

    Memory that a process changes after it has forked is copied, page by page. Forked after the first epoch, the workers
    of the validation images cost the second epoch of EfficientNet-Lite0 6 of 18 s, and kept the old pages in memory. So
    they are started before the first step.

    Args:
        evaluation: The loader; batches that are no `DataLoader`'s have no workers.
    """
    if isinstance(evaluation, DataLoader) and evaluation.num_workers and evaluation._iterator is None:
        order: Any = evaluation.batch_sampler
        order.empty = True
        iter(evaluation)
        order.empty = False


def _loader(
    samples: Samples, order: Sampler[list[Key]], workers: int, pin: bool, shape: Sequence[int] = (0,)
) -> DataLoader[_Sample | ReadFailure]:
    loader: DataLoader[_Sample | ReadFailure] = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=partial(
            _collate,
            tuple(shape),
            samples.transform.device_transforms if samples.on_device else None,
            samples.num_classes,
        ),
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=partial(init_worker, process_exiting(os.getpid()), exit_reason(os.getpid()))
        if workers
        else None,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context=START if workers else None,
    )
    _LOADERS.add(loader)
    return loader


_LOADERS: WeakSet[DataLoader[Any]] = WeakSet()


@contextmanager
def ending_workers() -> Iterator[None]:
    """End the worker processes of the loaders that are made within it.

    Networks of some packages refer to themselves, and with them to what trains them. Only a garbage collection finds
    these, which leaves each worker five seconds to end by itself, without telling it.
    """
    known = set(_LOADERS)
    try:
        yield
    finally:
        for loader in set(_LOADERS) - known:
            iterator: Any = loader._iterator
            if iterator is not None:
                iterator._shutdown_workers()
                loader._iterator = None


def require_readable(batch: Batch) -> Batch:
    """The batch, if all of its images could be read.

    Raises:
        FtkitError: As `raise_failures`.
    """
    raise_failures(batch.failures)
    return batch


def split_targets(split: Split) -> Tensor:
    """The labels of a split, as `Batch.labels`."""
    labels = split.labels
    return label_tensor(labels, labels.num_classes if isinstance(labels, LabelSets) else None)


def label_tensor(labels: Sequence[Label], num_classes: int | None = None) -> Tensor:
    """The labels of a batch, as `Batch.labels`.

    Args:
        num_classes: Number of classes of a multi-label dataset; None with one label per image.
    """
    if num_classes is None:
        return torch.tensor(labels, dtype=torch.int64)
    pairs = torch.tensor([(row, each) for row, label in enumerate(labels) for each in label_set(label)]).reshape(-1, 2)
    found = torch.zeros(len(labels), num_classes)
    found[tuple(pairs.long().T)] = 1.0
    return found


def _collate(
    shape: tuple[int, ...],
    device_transforms: DeviceTransforms | None,
    num_classes: int | None,
    samples: Sequence[_Sample | ReadFailure],
) -> Batch:
    whole = [s for s in samples if isinstance(s, _Sample)]
    images, params = torch.empty(0, *shape), dict[str, Tensor]()
    if whole:
        first = whole[0]
        layout = torch.channels_last if first.image.ndim == 3 else torch.contiguous_format
        images = torch.empty(len(whole), *first.image.shape, dtype=first.image.dtype, memory_format=layout)
        torch.stack([s.image for s in whole], out=images)
        params = {name: torch.stack([s.params[name] for s in whole]) for name in first.params}
    return Batch(
        images,
        label_tensor([s.label for s in whole], num_classes),
        torch.tensor([s.index for s in whole], dtype=torch.int64),
        tuple(s for s in samples if isinstance(s, ReadFailure)),
        device_transforms,
        params,
    )
