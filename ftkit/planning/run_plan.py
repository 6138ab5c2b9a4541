"""The plan of a run: its parts, data and schedule, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ftkit.activation_cache.policy import CachePolicy, Use
from ftkit.config.load import Resolved
from ftkit.config.schema import Config
from ftkit.data.balance import class_weights
from ftkit.data.batch_sizes import BATCH_SIZE, Batches
from ftkit.data.scan.image_scan import Findings
from ftkit.optim.rates import peak_rates
from ftkit.parts.backbone import Backbone, Head
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import Splits
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Metric
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.random_transforms import BatchTransform, ImageTransform
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task
from ftkit.planning.averaging import Averaging, choose_averaging
from ftkit.planning.cost import kept_activations
from ftkit.planning.plan_json import plan_json
from ftkit.planning.teacher import Teacher
from ftkit.planning.weight_source import WeightSource
from ftkit.strategies.schedule import Phase, Schedule
from ftkit.transforms.augmentation import Augmentation, Unchanged
from ftkit.transforms.preprocessing import Preprocessing

BYTES_PER_VALUE = 4

ProbeUse = Literal["usual", "required"] | None


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run.

    Attributes:
        group_parameters: Number of parameters by layer group of the schedule; None if they can be counted only by
            building the model (`ftkit.models.build.counted`).
        metrics: The metrics that are recorded for the validation split, by name.
        probe: Whether the head is solved first: `usual` where the network allows it, `required` or the run
            fails, None for not at all.
        fold_sizes: Number of validation images of each fold of a cross-fitted run; empty for other runs. Such a run
            has all training images in its training split and no validation split; steps, sizes and phases are those
            of the first fold.
        teacher: The model whose outputs are learned beside the labels.
    """

    resolved: Resolved
    backbone: Backbone
    strategy: Strategy
    task: Task
    curve: Curve
    optimizer: Optimizer
    loss: Loss
    schedule: Schedule
    splits: Splits = field(repr=False)
    preprocessing: Preprocessing
    augmentation: Augmentation
    weights: WeightSource
    head: Head
    image_transforms: tuple[ImageTransform, ...]
    batch_transforms: tuple[BatchTransform, ...]
    metrics: Mapping[str, Metric]
    callbacks: tuple[Callback, ...]
    group_parameters: Mapping[str, int] | None
    probe: ProbeUse = None
    teacher: Teacher | None = None
    notes: tuple[str, ...] = ()
    world_size: int = 1
    findings: Findings = field(default=Findings(), repr=False)
    fold_sizes: tuple[int, ...] = ()

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the splits, cached since it takes a pass over all names."""
        return self.splits.fingerprint()

    @cached_property
    def images(self) -> tuple[int, int]:
        """Numbers of training and validation images; of a cross-fitted run, those of the first fold."""
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        if self.fold_sizes:
            return len(self.splits.train) - self.fold_sizes[0], self.fold_sizes[0]
        assert self.splits.val is not None, "make_plan refuses data without a validation split"
        return len(self.splits.train), len(self.splits.val)

    @cached_property
    def batches(self) -> Batches:
        size, accumulate = self.config.batch_size, self.config.accumulate
        if not isinstance(size, int):
            # Until it is measured how many of them fit into memory, the images of a step count as one batch.
            size, accumulate = BATCH_SIZE * accumulate, 1
        return Batches(self.images[0], size, accumulate, self.world_size)

    @cached_property
    def cache_policy(self) -> CachePolicy:
        """Which phases may train on cached activations."""
        # All folds read the same tables, which hold all of their images, for training and for validation.
        train, val = (sum(self.images), 0) if self.config.fold or self.fold_sizes else self.images
        return CachePolicy(
            phases=self.schedule.phases,
            groups=tuple(group.name for group in self.schedule.groups),
            train_images=train,
            val_images=val,
            limit=self.config.cache.limit,
            enabled=self.config.cache.use,
            augmentations=self.config.cache.augmentations,
            sharded=self.config.fsdp,
            train_bn=self.config.train_bn,
            augmented=not isinstance(self.augmentation, Unchanged) or bool(self.image_transforms),
            batch_transforms=tuple(item.name for item in self.config.batch_transforms),
            taught=self.teacher is not None,
            resampled=self.config.balance == "sampler",
            probe=self.probe is not None,
        )

    @cached_property
    def cache_by_phase(self) -> tuple[Use, ...] | None:
        """What each phase is expected to read from the cache; None if that needs the built network."""
        scale = (self.preprocessing.size / self.backbone.preprocessing.size) ** 2
        width = 2 if self.config.precision in ("bf16", "fp16") else BYTES_PER_VALUE
        return self.cache_policy.expect(self.backbone, self.schedule.groups, scale, width)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.batches.steps * self.config.epochs

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rate of each trainable group at optimizer step `step`, counted from 0 over the run."""
        factor = self.curve.factor(step, self.batches.steps, self.config.epochs)
        return {group: factor * rate for group, rate in self.peak_rates(step // self.batches.steps).items()}

    def peak_rates(self, epoch: int) -> dict[str, float]:
        """Learning rate of each trainable group in `epoch`, counted from 0, before the curve."""
        return peak_rates(self.schedule.rows[epoch], self.config.optimizer.rate, self.config.group_lr)

    @cached_property
    def patience_start(self) -> int:
        """Number of epochs before patience counts.

        By default these are all epochs before the last phase, whose groups train to the end: a plateau in an earlier
        phase may end when more groups are unfrozen.
        """
        if self.config.patience_from == "start" or not self.config.epochs:
            return 0
        training = [{g for g, rate in self.peak_rates(e).items() if rate} for e in range(self.config.epochs)]
        return next((e for e in range(len(training) - 1, 0, -1) if training[e] != training[e - 1]), 0)

    @cached_property
    def averaging(self) -> Averaging | None:
        """The averages of weights that are evaluated after the last epoch; None for none."""
        return choose_averaging(self)

    @cached_property
    def class_weights(self) -> tuple[float, ...]:
        """Weight of an image of each class, so that classes have equal weight in total, for `balance`."""
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        return class_weights(self.splits.train.labels, self.num_classes)

    def trainable_parameters(self, phase: Phase) -> int | None:
        """Number of trainable parameters of a phase."""
        counts = self.group_parameters
        return None if counts is None else sum(counts[g] for g in phase.trainable)

    def memory_bytes(self, phase: Phase) -> int | None:
        """Estimated peak memory of a phase in fp32, in bytes: weights, gradients, optimizer state and activations.

        Layers below the first trainable group keep no activations, since no gradient reaches them.
        """
        trainable = self.trainable_parameters(phase)
        if trainable is None or self.backbone.summary is None or self.group_parameters is None:
            return None
        kept = kept_activations(self.backbone, self.schedule.groups, phase)
        scale = (self.preprocessing.size / self.backbone.preprocessing.size) ** 2
        slots = self.optimizer.state_values
        # ZeRO keeps a copy of the weights of its shard beside the optimizer state.
        kept_of_each = (1 + slots) / self.world_size if self.config.zero_stage else slots
        values: float = sum(self.group_parameters.values()) + trainable * (1 + kept_of_each)
        if self.config.fsdp:
            values /= self.world_size
        return BYTES_PER_VALUE * int(values + kept * scale * self.batches.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return plan_json(self)

    def parameters(self, group: str) -> int | None:
        """Number of parameters of a layer group; None if they can be counted only by building the model."""
        return None if self.group_parameters is None else self.group_parameters[group]
