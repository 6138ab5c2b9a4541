"""Config and plugins resolved to a `Plan`: pure data that says all that a run will do.

`ftkit plan` prints it, training executes it, the run folder keeps it; nothing is decided later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

from ftkit.config.load import Resolved, build
from ftkit.config.preprocessing import choose_preprocessing
from ftkit.config.schema import Config
from ftkit.errors import RequestError
from ftkit.run_splits import load_splits, require_classes
from ftkit.screening import Findings, Tell, leave_out, screen
from ftkit.spec.augment import LEVELS, Augmentation, Unchanged, check_channels
from ftkit.spec.backbone import Backbone, Head
from ftkit.spec.balance import balance_notes, class_weights
from ftkit.spec.batches import Batches
from ftkit.spec.caching import CutSize, Use, decide, entering
from ftkit.spec.counting import count_parameters, kept_activations
from ftkit.spec.curve import CURVES, Curve
from ftkit.spec.dataset import Splits
from ftkit.spec.figures import check_monitor
from ftkit.spec.preprocessing import Preprocessing
from ftkit.spec.rates import check_group_rates, peak_rates
from ftkit.spec.schedule import Phase, Schedule, make_schedule
from ftkit.spec.strategy import Strategy
from ftkit.weight_source import WeightSource, choose_weights, require_head

T = TypeVar("T")

BYTES_PER_VALUE = 4
OPTIMIZER_SLOTS = {"sgd": 0, "asgd": 2, "adagrad": 1, "rmsprop": 1, "adafactor": 0}
"""Values that an optimizer keeps for each trainable parameter; the Adam family's 2 where not listed."""


ProbeUse = Literal["usual", "required"] | None


@dataclass(frozen=True)
class Plan:
    """One run, decided.

    Attributes:
        group_parameters: Number of parameters by layer group of the schedule; None where only building
            the model tells (`ftkit.engine.model.counted` does that).
        probe: Whether the head is solved first: `usual` where the network allows it, `required` or the run
            fails, None for not at all.
    """

    resolved: Resolved
    backbone: Backbone
    strategy: Strategy
    curve: Curve
    schedule: Schedule
    splits: Splits = field(repr=False)
    preprocessing: Preprocessing
    augmentation: Augmentation
    weights: WeightSource
    head: Head
    group_parameters: Mapping[str, int] | None
    probe: ProbeUse = None
    notes: tuple[str, ...] = ()
    world: int = 1
    findings: Findings = field(default=Findings(), repr=False)

    @property
    def config(self) -> Config:
        return self.resolved.config

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    @cached_property
    def fingerprint(self) -> str:
        """That of the splits, which takes a pass over all names; checkpoints and cards ask for it again and again."""
        return self.splits.fingerprint()

    @cached_property
    def batches(self) -> Batches:
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        return Batches(len(self.splits.train), self.config.batch_size, self.config.accumulate, self.world)

    @property
    def views(self) -> int:
        """Versions of a training image that are cached; 0 where nothing is."""
        if not self.config.cache.use or self.config.train_bn or self.config.fsdp:
            return 0
        return 1 if isinstance(self.augmentation, Unchanged) else self.config.cache.views

    @cached_property
    def caching(self) -> tuple[Use, ...] | None:
        """What each phase is expected to take from the cache; None where only the network itself tells.

        The network's own cuts, which a run finds, may lie a little deeper.
        """
        groups, scale = self.schedule.groups, (self.preprocessing.size / self.backbone.preprocessing.size) ** 2
        width = 2 if self.config.precision in ("bf16", "fp16") else BYTES_PER_VALUE
        thawed = [*(phase.trainable for phase in self.schedule.phases), frozenset({groups[-1].name})]
        *cuts, probe = (entering(self.backbone, groups, some, scale, width) for some in thawed)
        if self.views == 0 or None in cuts:
            return None
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        assert self.splits.val is not None, "make_plan refuses data without a validation split"
        return decide(
            self.schedule.phases,
            [cut for cut in cuts if cut is not None],
            probe if self.probe and isinstance(probe, CutSize) else None,
            len(self.splits.train),
            len(self.splits.val),
            self.views,
            self.config.balance == "sampler",
            self.config.cache.limit,
        )

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.batches.steps * self.config.epochs

    def learning_rates(self, step: int) -> dict[str, float]:
        """Rate of each group that trains at optimizer step `step`, counted from 0 over the run."""
        factor = self.curve.factor(step, self.batches.steps, self.config.epochs)
        return {group: factor * rate for group, rate in self.peak_rates(step // self.batches.steps).items()}

    def peak_rates(self, epoch: int) -> dict[str, float]:
        """Rate of each group that trains in `epoch`, counted from 0, before the curve."""
        return peak_rates(self.schedule.rows[epoch], self.config.optimizer.lr, self.config.group_lr)

    @cached_property
    def class_weights(self) -> tuple[float, ...]:
        """What an image of each class counts so that classes count the same; used where `balance` says so."""
        assert self.splits.train is not None, "make_plan refuses data without a training split"
        return class_weights(self.splits.train.labels, self.num_classes)

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
        kept = kept_activations(self.backbone, self.schedule.groups, phase)
        scale = (self.preprocessing.size / self.backbone.preprocessing.size) ** 2
        slots = OPTIMIZER_SLOTS.get(self.config.optimizer.name, 2)
        slots += bool(self.config.optimizer.options.get("momentum"))
        values: float = sum(self.group_parameters.values()) + trainable * (1 + slots)
        if self.config.fsdp:
            values /= self.world
        return BYTES_PER_VALUE * int(values + kept * scale * self.config.batch_size)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "backbone": self.backbone.name,
            "weights": self.weights.describe(),
            "classes": list(self.splits.classes),
            "data": {name: len(split) for name, split in self.splits.present()},
            "fingerprint": self.fingerprint,
            "bad_images": len(self.findings.bad),
            "duplicates": len(self.findings.duplicates),
            "head": asdict(self.head),
            "preprocessing": asdict(self.preprocessing),
            "augment": {"name": self.config.augment.name, **asdict(self.augmentation)},
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
            "optimizer": self.config.optimizer.model_dump(mode="json"),
            "decay_all": self.config.decay_all,
            "clip_grad": self.config.clip_grad,
            "label_smoothing": self.config.label_smoothing,
            "balance": self.config.balance,
            "class_weights": None if self.config.balance == "none" else list(self.class_weights),
            "steps_per_epoch": self.batches.steps,
            "world": self.world,
            "per_process_batch": self.config.batch_size,
            "effective_batch": self.batches.effective,
            "probe": self.probe,
            "cache": {
                "views": self.views,
                "phases": None if self.caching is None else [_use(use) for use in self.caching],
            },
            "notes": list(self.notes),
        }

    def _count(self, group: str) -> int | None:
        return None if self.group_parameters is None else self.group_parameters[group]


def _use(use: Use) -> dict[str, Any] | None:
    if use.cut is None:
        return None
    return {"before": use.cut.name, "views": list(use.views), "bytes": use.nbytes, "passes": use.passes}


def make_plan(resolved: Resolved, tell: Tell | None = None, left_out: Collection[str] | None = None) -> Plan:
    """Decide everything that a config leaves to plugins and data, and look at the images.

    Args:
        tell: Called with a line where looking at the images takes long.
        left_out: Of a run that goes on, the image files that it has left out. Then no image is looked at: the run
            must see the same ones as before, whatever has broken since.

    Raises:
        RequestError: A name, an option, the data or their combination can't be used.
    """
    strategy = build_choice(resolved, "strategy", resolved.registry.strategies.get(resolved.config.strategy.name))
    if strategy.probe == "only":
        resolved = _without_epochs(resolved)
    config, backbone = resolved.config, resolved.registry.backbones.get(resolved.config.backbone)
    splits, notes = load_splits(resolved)
    require_classes(splits)
    weights = choose_weights(resolved, backbone, strategy)
    head = Head(config.head.hidden, config.head.dropout)
    if config.keep_head:
        require_head(weights, head)
    preprocessing = choose_preprocessing(
        config.preprocessing, weights.preprocessing or backbone.preprocessing, backbone
    )
    backbone = backbone.for_size(preprocessing.size)
    planned = config.extended_from or config.epochs
    if planned > config.epochs:
        raise RequestError(f"extended_from is {planned}, but epochs is {config.epochs}", "raise epochs, or drop it")
    schedule = make_schedule(strategy, backbone, planned, config.strategy.name).lengthened(config.epochs - planned)
    plan = Plan(
        resolved=resolved,
        backbone=backbone,
        strategy=strategy,
        curve=build_choice(resolved, "lr_curve", CURVES[config.lr_curve.name]),
        schedule=schedule,
        splits=splits,
        preprocessing=preprocessing,
        augmentation=build_choice(resolved, "augment", LEVELS[config.augment.name]),
        weights=weights,
        head=head,
        group_parameters=count_parameters(backbone, schedule.groups, len(splits.classes), head, preprocessing.channels),
        probe=choose_probe(resolved, strategy, weights),
        notes=notes,
    )
    _means_checked(plan)  # What else is wrong with the request should be said before the images are read.
    return _means_checked(_screened(plan, tell, left_out))


def _screened(plan: Plan, tell: Tell | None, left_out: Collection[str] | None) -> Plan:
    """The plan without the images that can't be read, or the error that says which these are."""
    if left_out is not None:
        return replace(plan, splits=leave_out(plan.splits, left_out))
    found = screen(plan.splits, plan.config.on_bad_image, tell)
    return replace(plan, splits=found.splits, findings=found.findings, notes=(*plan.notes, *found.notes))


def _means_checked(plan: Plan) -> Plan:
    """The plan with what is worth saying of augmentation, rates and balance.

    Raises:
        RequestError: One of them would have no effect.
    """
    config, where = plan.config, plan.resolved.where
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    assert plan.splits.val is not None, "make_plan refuses data without a validation split"
    check_monitor(config.monitor, plan.splits.val.labels, plan.splits.classes, where("monitor"))
    _require_trackers(config.tracker)
    check_channels(plan.augmentation, plan.preprocessing.channels)
    _require_views(plan)
    notes = check_group_rates(config.group_lr, plan.schedule, config.strategy.name, where)
    return replace(plan, notes=plan.notes + notes + balance_notes(config.balance, plan.splits.train.labels))


def _require_views(plan: Plan) -> None:
    """Refuse a number of views that was asked for where nothing takes it."""
    resolved, config = plan.resolved, plan.config
    if not resolved.sources.get("cache.views", "").startswith(("--", "FTKIT_")):
        return
    reasons = {
        "nothing is cached with --no-cache": not config.cache.use,
        "nothing is cached of a network that is shared out (--fsdp)": config.fsdp,
        "nothing is cached where BatchNorm statistics move in frozen groups (train_bn)": config.train_bn,
        "without augmentation all views are the same": isinstance(plan.augmentation, Unchanged),
        f"with strategy {config.strategy.name!r} nothing is frozen": all(
            len(phase.trainable) == len(plan.schedule.groups) for phase in plan.schedule.phases
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RequestError(f"{resolved.where('cache.views')} has no effect: {reason}", "drop it")


def _require_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that aren't installed; each is the name of its package and of the extra that brings it."""
    for name in names:
        if find_spec(name) is None:
            raise RequestError(f"tracker {name!r} isn't installed", f"pip install 'ftkit[{name}]', or drop --tracker")


def _without_epochs(resolved: Resolved) -> Resolved:
    """For a strategy that trains no epochs: a number of them given on the command line is refused."""
    if resolved.config.epochs and resolved.sources.get("epochs", "").startswith(("--", "FTKIT_")):
        raise RequestError(
            f"{resolved.where('epochs')}: strategy {resolved.config.strategy.name!r} trains no epochs", "leave it out"
        )
    return replace(resolved, config=resolved.config.model_copy(update={"epochs": 0}))


def choose_probe(resolved: Resolved, strategy: Strategy, weights: WeightSource) -> ProbeUse:
    """Whether the head is solved first: with pretrained weights it is, unless told not to.

    Raises:
        RequestError: It was asked for and can't be.
    """
    config = resolved.config
    # A file may only repeat the default, as the config saved with a run does; a flag is meant.
    where = resolved.sources.get("probe", "")
    asked = strategy.probe != "usual" or (config.probe and (where == "probe" or where.startswith(("--", "FTKIT_"))))
    reasons = {
        "--no-probe is given": not config.probe,
        "weights are none": weights.kind == "none",
        "the head is kept": config.keep_head,
        "the head has a hidden layer": config.head.hidden is not None,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    if reason is None:
        return "required" if asked else "usual"
    if asked:
        raise RequestError(
            f"strategy {config.strategy.name!r} solves the head first, but {reason}"
            if strategy.probe != "usual"
            else f"{resolved.where('probe')}: the head can't be solved first, since {reason}",
            "change one of the two",
        )
    return None


def build_choice(resolved: Resolved, section: Literal["dataset", "augment", "strategy", "lr_curve"], cls: type[T]) -> T:
    """The dataset, strategy or curve that the config names, with its options."""
    options = getattr(resolved.config, section).options
    return build(cls, options, section, resolved)
