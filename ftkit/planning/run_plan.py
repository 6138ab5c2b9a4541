"""The plan of a run: its parts, data and schedule, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from ftkit.activation_cache.policy import CachePolicy, Use
from ftkit.config.choices import LISTS
from ftkit.config.load import Resolved
from ftkit.config.schema import Config
from ftkit.data.balance import class_weights
from ftkit.data.batch_sizes import Batches
from ftkit.data.scan.image_scan import Findings
from ftkit.optim.rates import peak_rates
from ftkit.parts.backbone import Backbone, Head
from ftkit.parts.batch_transform import BatchTransform
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import Splits
from ftkit.parts.image_transform import ImageTransform
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Metric
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task
from ftkit.planning.cost import kept_activations
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
    notes: tuple[str, ...] = ()
    world_size: int = 1
    findings: Findings = field(default=Findings(), repr=False)

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
    def batches(self) -> Batches:
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        return Batches(len(self.splits.train), self.config.batch_size, self.config.accumulate, self.world_size)

    @cached_property
    def cache_policy(self) -> CachePolicy:
        """Which phases may train on cached activations."""
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        assert self.splits.val is not None, "make_plan refuses data without a validation split"
        return CachePolicy(
            phases=self.schedule.phases,
            groups=tuple(group.name for group in self.schedule.groups),
            train_images=len(self.splits.train),
            val_images=len(self.splits.val),
            limit=self.config.cache.limit,
            enabled=self.config.cache.use,
            augmentations=self.config.cache.augmentations,
            sharded=self.config.fsdp,
            train_bn=self.config.train_bn,
            augmented=not isinstance(self.augmentation, Unchanged) or bool(self.image_transforms),
            batch_transforms=tuple(item.name for item in self.config.batch_transforms),
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
        return peak_rates(self.schedule.rows[epoch], self.config.optimizer.lr, self.config.group_lr)

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
        return BYTES_PER_VALUE * int(values + kept * scale * self.config.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "backbone": self.config.backbone,
            "weights": self.weights.describe(),
            "classes": list(self.splits.classes),
            "data": {name: len(split) for name, split in self.splits.present()},
            "fingerprint": self.fingerprint,
            "bad_images": len(self.findings.bad),
            "duplicates": sum(not one.contradicts for one in self.findings.duplicates),
            "contradictions": sum(one.contradicts for one in self.findings.duplicates),
            "head": asdict(self.head),
            "drop_path": self.config.drop_path,
            "backbone_dropout": self.config.backbone_dropout,
            "preprocessing": asdict(self.preprocessing),
            "augment": {"name": self.config.augment.name, **asdict(self.augmentation)},
            "strategy": {"name": self.config.strategy.name, **asdict(self.strategy)},  # type: ignore[call-overload]
            "groups": [{"name": g.name, "parameters": self.parameters(g.name)} for g in self.schedule.groups],
            "epochs": [
                {"lr_scale": dict(row), "lr": self.learning_rates(epoch * self.batches.steps)}
                for epoch, row in enumerate(self.schedule.rows)
            ],
            "phases": [
                {
                    "epochs": [p.start, p.stop],
                    "trainable": self.trainable_parameters(p),
                    "steps": (p.stop - p.start) * self.batches.steps,
                    "memory_bytes": self.memory_bytes(p),
                }
                for p in self.schedule.phases
            ],
            **{name: [part.model_dump(mode="json") for part in getattr(self.config, name)] for name in LISTS},
            "metrics": {
                name: {"label": metric.label, "lower_is_better": metric.lower_is_better}
                for name, metric in self.metrics.items()
            },
            "loss": self.config.loss.model_dump(mode="json"),
            "optimizer": self.config.optimizer.model_dump(mode="json"),
            "decay_all": self.config.decay_all,
            "clip_grad": self.config.clip_grad,
            "label_smoothing": self.config.label_smoothing,
            "balance": self.config.balance,
            "class_weights": None if self.config.balance == "none" else list(self.class_weights),
            "steps_per_epoch": self.batches.steps,
            "patience": {"epochs": self.config.patience, "counted_from_epoch": self.patience_start + 1}
            if self.config.patience
            else None,
            "world_size": self.world_size,
            "per_process_batch": self.config.batch_size,
            "effective_batch": self.batches.effective,
            "probe": self.probe,
            "cache": {
                "augmentations": self.cache_policy.variants,
                "disabled": self.cache_policy.disabled or None,
                "phases": None if self.cache_by_phase is None else [_use(use) for use in self.cache_by_phase],
            },
            "notes": list(self.notes),
        }

    def parameters(self, group: str) -> int | None:
        """Number of parameters of a layer group; None if they can be counted only by building the model."""
        return None if self.group_parameters is None else self.group_parameters[group]


def _use(use: Use) -> dict[str, Any] | None:
    if use.cut is None:
        return None
    return {"before": use.cut.name, "augmentations": list(use.variants), "bytes": use.nbytes, "passes": use.passes}


def schedule_change(saved: Mapping[str, Any], plan: Plan) -> str | None:
    """How the training of a plan differs from a saved plan, as text; None if it doesn't.

    Args:
        saved: From `Plan.to_json`, with no more epochs than the plan.
    """
    strategy, began = plan.config.strategy.name, [dict(epoch["lr_scale"]) for epoch in saved["epochs"]]
    if len(began) > len(plan.schedule.rows):
        return f"its plan has {len(began)} epochs, now there are {len(plan.schedule.rows)}"
    for epoch, before in enumerate(began):
        now = dict(plan.schedule.rows[epoch])
        group = next((name for name in {**now, **before} if now.get(name) != before.get(name)), None)
        if group is not None:
            return (
                f"strategy {strategy!r} has changed: in epoch {epoch + 1}, group {group!r} was "
                f"{_scale(before.get(group))} by plan.json, now it is {_scale(now.get(group))}"
            )
    plain = json.loads(json.dumps(plan.to_json()))
    for what in ("preprocessing", "augment", "head"):
        # A later version may have more settings.
        before = saved.get(what, {})
        now = {key: plain[what].get(key) for key in before}
        if before != now:
            return f"{what} was {json.dumps(before)} by plan.json, now it is {json.dumps(now)}"
    groups = [group["name"] for group in saved["groups"]]
    if groups != [group.name for group in plan.schedule.groups]:
        return f"its layer groups were {', '.join(groups)}"
    return None


def _scale(value: float | None) -> str:
    return "frozen" if value is None else f"trained at {value:g} times the rate"
