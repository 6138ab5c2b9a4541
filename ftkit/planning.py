"""Config and plugins resolved to a `Plan`: pure data that says all that a run will do.

`ftkit plan` prints it, training executes it, the run folder keeps it; nothing is decided later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from ftkit.config.load import Resolved, build, is_path
from ftkit.config.schema import Config, PreprocessingOverrides
from ftkit.errors import RequestError, unknown
from ftkit.runs import WEIGHTS, find_model, read_card
from ftkit.spec.backbone import ROLES, Backbone, LayerGroup, Pretrained, Role, Summary
from ftkit.spec.batches import Batches
from ftkit.spec.curve import CURVES, Curve
from ftkit.spec.dataset import Splits
from ftkit.spec.preprocessing import Preprocessing
from ftkit.spec.sampling import stratified_sample, stratified_split
from ftkit.spec.schedule import Phase, Schedule, make_schedule
from ftkit.spec.strategy import Strategy

T = TypeVar("T")

BYTES_PER_VALUE = 4
OPTIMIZER_SLOTS = {"sgd": 0, "asgd": 2, "adagrad": 1, "rmsprop": 1, "adafactor": 0}
"""Values that an optimizer keeps for each trainable parameter; the Adam family's 2 where not listed."""


@dataclass(frozen=True)
class WeightSource:
    """Where a run's first weights come from.

    Attributes:
        kind: Drawn at random, one of the backbone's pretrained sets, or a file.
        name: As the user may write it: `none`, `IMAGENET1K_V1`, the path.
        preprocessing: What the weights were trained with, where that is known.
    """

    kind: Literal["none", "pretrained", "file"]
    name: str
    preprocessing: Preprocessing | None = None
    pretrained: Pretrained | None = field(default=None, repr=False)
    path: Path | None = None

    def describe(self) -> str:
        """One line for people."""
        if self.kind == "none":
            return "none: drawn at random"
        if self.pretrained is None:
            return f"file {self.path}"
        size = f", {self.pretrained.size_mb:.0f} MB" if self.pretrained.size_mb >= 1 else ""
        note = f": {self.pretrained.note}" if self.pretrained.note else ""
        return f"{self.name} ({self.pretrained.file or 'pretrained'}{size}){note}"


@dataclass(frozen=True)
class Plan:
    """One run, decided.

    Attributes:
        group_parameters: Number of parameters by layer group of the schedule; None where only building
            the model tells (`ftkit.engine.model.counted` does that).
    """

    resolved: Resolved
    backbone: Backbone
    strategy: Strategy
    curve: Curve
    schedule: Schedule
    splits: Splits = field(repr=False)
    preprocessing: Preprocessing
    weights: WeightSource
    group_parameters: Mapping[str, int] | None
    notes: tuple[str, ...] = ()
    world: int = 1

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    @cached_property
    def batches(self) -> Batches:
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        return Batches(len(self.splits.train), self.config.batch_size, self.config.accumulate, self.world)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.batches.steps * self.config.epochs

    def learning_rates(self, step: int) -> dict[str, float]:
        """Rate of each group that trains at optimizer step `step`, counted from 0 over the run."""
        factor = self.curve.factor(step, self.batches.steps, self.config.epochs)
        row = self.schedule.rows[step // self.batches.steps]
        return {group: self.config.optimizer.lr * factor * scale for group, scale in row.items()}

    def trainable(self, phase: Phase) -> int | None:
        """Number of parameters that train in a phase."""
        counts = self.group_parameters
        return None if counts is None else sum(counts[g] for g in phase.trainable)

    def memory(self, phase: Phase) -> int | None:
        """Estimated peak bytes of a phase in fp32: weights, gradients, optimizer and kept activations.

        The layers below the first trainable group keep no activations, since nothing flows back to them.
        """
        trainable = self.trainable(phase)
        if trainable is None or self.backbone.summary is None or self.group_parameters is None:
            return None
        kept = _kept_activations(self.backbone, self.schedule.groups, phase)
        scale = (self.preprocessing.size / self.backbone.preprocessing.size) ** 2
        slots = OPTIMIZER_SLOTS.get(self.config.optimizer.name, 2)
        slots += bool(self.config.optimizer.options.get("momentum"))
        values = sum(self.group_parameters.values()) + trainable * (1 + slots)
        return BYTES_PER_VALUE * int(values + kept * scale * self.config.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "backbone": self.backbone.name,
            "weights": self.weights.describe(),
            "classes": list(self.splits.classes),
            "data": {name: len(split) for name, split in self.splits.present()},
            "fingerprint": self.splits.fingerprint(),
            "preprocessing": asdict(self.preprocessing),
            "strategy": {"name": self.config.strategy.name, **asdict(self.strategy)},  # type: ignore[call-overload]
            "groups": [{"name": g.name, "parameters": self._count(g.name)} for g in self.schedule.groups],
            "epochs": [
                {"lr_scale": dict(row), "lr": self.learning_rates(epoch * self.batches.steps)}
                for epoch, row in enumerate(self.schedule.rows)
            ],
            "phases": [
                {
                    "epochs": [p.start, p.stop],
                    "trainable": self.trainable(p),
                    "steps": (p.stop - p.start) * self.batches.steps,
                    "memory_bytes": self.memory(p),
                }
                for p in self.schedule.phases
            ],
            "steps_per_epoch": self.batches.steps,
            "effective_batch": self.batches.effective,
            "notes": list(self.notes),
        }

    def _count(self, group: str) -> int | None:
        return None if self.group_parameters is None else self.group_parameters[group]


def make_plan(resolved: Resolved) -> Plan:
    """Decide everything that a config leaves to plugins and data.

    Raises:
        RequestError: A name, an option, the data or their combination can't be used.
    """
    config, registry = resolved.config, resolved.registry
    backbone = registry.backbones.get(config.backbone)
    strategy = build_choice(resolved, "strategy", registry.strategies.get(config.strategy.name))
    splits, notes = load_splits(resolved)
    _require_classes(splits)
    weights = choose_weights(resolved, backbone, strategy)
    if config.keep_head and weights.kind == "none":
        raise RequestError("keep_head is set, but weights are none", "there is no head to keep: drop --keep-head")
    schedule = make_schedule(strategy, backbone, config.epochs, config.strategy.name)
    return Plan(
        resolved=resolved,
        backbone=backbone,
        strategy=strategy,
        curve=build_choice(resolved, "lr_curve", CURVES[config.lr_curve.name]),
        schedule=schedule,
        splits=splits,
        preprocessing=choose_preprocessing(
            config.preprocessing, weights.preprocessing or backbone.preprocessing, backbone
        ),
        weights=weights,
        group_parameters=count_parameters(backbone, schedule.groups, len(splits.classes)),
        notes=notes,
    )


def build_choice(resolved: Resolved, section: Literal["dataset", "strategy", "lr_curve"], cls: type[T]) -> T:
    """The dataset, strategy or curve that the config names, with its options."""
    options = getattr(resolved.config, section).options
    return build(cls, options, section, resolved)


def load_splits(resolved: Resolved) -> tuple[Splits, tuple[str, ...]]:
    """The data's splits as the run sees them, and what is worth saying of them.

    A missing validation split is taken from the training images, stratified and seeded; then
    `train_samples` draws from what is left, so that the validation images don't depend on it.
    """
    config = resolved.config
    splits = build_choice(resolved, "dataset", resolved.registry.datasets.get(config.dataset.name)).load()
    notes = splits.notes
    if splits.train is not None and splits.val is None:
        kept, taken = stratified_split(splits.train.labels, config.val_fraction, config.seed, splits.classes)
        splits = replace(splits, train=splits.train.subset(kept), val=splits.train.subset(taken))
        notes += (f"no validation split: {len(taken)} of {len(kept) + len(taken)} training images are held out",)
    if splits.train is not None and config.train_samples is not None:
        drawn = stratified_sample(splits.train.labels, config.train_samples, config.seed)
        splits = replace(splits, train=splits.train.subset(drawn))
    return splits, notes


def choose_weights(resolved: Resolved, backbone: Backbone, strategy: Strategy) -> WeightSource:
    """Where the weights come from: what the config says, or else what suits the strategy."""
    wanted = resolved.config.weights or strategy.default_weights
    named = {w.name: w for w in backbone.weights}
    if wanted == "none":
        return WeightSource("none", "none")
    if wanted == "default" and not named:
        raise RequestError(
            f"backbone {backbone.name!r} has no pretrained weights of its own",
            "give a file with --weights FILE, or train from scratch with --weights none",
        )
    if wanted == "default" or wanted in named:
        pretrained = named.get(wanted, backbone.weights[0])
        return WeightSource("pretrained", pretrained.name, pretrained.preprocessing, pretrained)
    if not Path(wanted).exists():
        where = resolved.where("weights")
        if is_path(wanted):
            raise RequestError(f"{where}: no file {wanted}", "give default, none, or a file that is there")
        raise unknown(f"weights of {backbone.name}", wanted, ["default", "none", *named], where)
    return _weights_file(Path(wanted), Path(resolved.config.output))


def _weights_file(path: Path, runs: Path) -> WeightSource:
    """A file of weights, or the model of a run, whose card tells the preprocessing too."""
    if path.is_file():
        return WeightSource("file", str(path), path=path)
    bundle = find_model(str(path), runs)
    return WeightSource("file", str(path), read_card(bundle).preprocessing, path=bundle / WEIGHTS)


def choose_preprocessing(overrides: PreprocessingOverrides, base: Preprocessing, backbone: Backbone) -> Preprocessing:
    """The preprocessing of the weights, or else the backbone's, with what the config overrides.

    Raises:
        RequestError: The backbone can't take such images.
    """
    chosen = replace(base, **overrides.model_dump(exclude_none=True))
    if chosen.channels != backbone.preprocessing.channels:
        raise RequestError(
            f"preprocessing.mean has {chosen.channels} values, but {backbone.name} takes "
            f"{backbone.preprocessing.channels}-channel images",
            f"give {backbone.preprocessing.channels} values each for mean and std",
        )
    if backbone.fixed_size and chosen.size != backbone.preprocessing.size:
        raise RequestError(
            f"{backbone.name} takes images of {backbone.preprocessing.size} pixels only, not {chosen.size}",
            "drop --image-size, or choose another backbone",
        )
    if chosen.size < backbone.min_size:
        raise RequestError(
            f"{backbone.name} can't take images of {chosen.size} pixels",
            f"give --image-size {backbone.min_size} or more",
        )
    return chosen


def count_parameters(backbone: Backbone, groups: tuple[LayerGroup, ...], num_classes: int) -> dict[str, int] | None:
    """Parameters by layer group from the backbone's summary; None where that can't tell.

    The summary counts by the backbone's groups and roles, so groups that cut through those, as name
    prefixes may, can only be counted on the model itself.
    """
    whole = {g.pattern for g in backbone.groups} | {".*"}
    if backbone.summary is None or any(g.pattern not in whole for g in groups):
        return None
    counts = dict.fromkeys((g.name for g in groups), 0)
    for own in backbone.groups:
        for role, number in _by_role(backbone, own, backbone.summary, num_classes).items():
            owner = next(g for g in reversed(groups) if role in g.roles and g.pattern in (own.pattern, ".*"))
            counts[owner.name] += number
    return counts


def _by_role(backbone: Backbone, group: LayerGroup, summary: Summary, num_classes: int) -> dict[Role, int]:
    size = summary.groups.get(group.name)
    counts = {role: (size.parameters.get(role, 0) if size else 0) for role in ROLES}
    if group == backbone.groups[-1]:
        counts["weight"] += sum(summary.head_inputs) * num_classes
        counts["bias"] += len(summary.head_inputs) * num_classes * summary.head_bias
    return counts


def _kept_activations(backbone: Backbone, groups: tuple[LayerGroup, ...], phase: Phase) -> int:
    assert backbone.summary is not None
    sizes = backbone.summary.groups
    lowest = 0
    if groups == backbone.groups:
        lowest = min(i for i, g in enumerate(groups) if g.name in phase.trainable)
    return sum(sizes[g.name].activations for g in backbone.groups[lowest:] if g.name in sizes)


def _require_classes(splits: Splits) -> None:
    if splits.train is None or not len(splits.train):
        raise RequestError("the dataset has no training split", "give one with a train folder, or another dataset")
    if len(splits.classes) < 2:
        names = ", ".join(splits.classes)
        raise RequestError(f"the data has one class only ({names})", "a classifier needs two or more: add another")
    if splits.val is None or not len(splits.val):
        raise RequestError("the validation split is empty", "give it images, or drop it and let ftkit hold some out")
