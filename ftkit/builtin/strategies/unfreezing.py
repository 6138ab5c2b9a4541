"""The built-in strategies: which layer groups train when, and at what fraction of the rate.

Groups run from the input to the head, which is the last. In all of these the head trains from the first
epoch at scale 1, so the base learning rate is the head's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ftkit.api import Backbone, LayerGroup, RequestError, Strategy, Then, hookimpl
from ftkit.builtin.strategies.option_checks import check_count, check_decay, check_scale, check_within, listed
from ftkit.builtin.strategies.selective import Bias, Freezer, Norms


@dataclass(frozen=True)
class Full(Strategy):
    """Every group trains from the start; the head faster than the rest.

    Attributes:
        backbone_lr_scale: LR scale of every group but the head, whose scale is 1.
    """

    backbone_lr_scale: float = 0.1

    def __post_init__(self) -> None:
        check_scale("backbone_lr_scale", self.backbone_lr_scale)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return _body_and_head(groups, self.backbone_lr_scale)


@dataclass(frozen=True)
class Freeze(Strategy):
    """Only the head trains, on features that stay as they are: a linear probe."""

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {groups[-1]: 1.0}


@dataclass(frozen=True)
class FreezeUnfreeze(Strategy):
    """Only the head at first, then everything.

    Attributes:
        unfreeze_epoch: For how many epochs the head trains alone.
        backbone_lr_scale: LR scale of every group but the head, whose scale is 1.
    """

    unfreeze_epoch: int = 5
    backbone_lr_scale: float = 0.1

    def __post_init__(self) -> None:
        if self.unfreeze_epoch < 1:
            raise RequestError(
                f"strategy.unfreeze_epoch is {self.unfreeze_epoch}",
                "give 1 epoch or more; strategy full trains everything from the start",
            )
        check_scale("backbone_lr_scale", self.backbone_lr_scale)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        check_within("unfreeze_epoch", self.unfreeze_epoch, epochs)
        return _body_and_head(groups if epoch >= self.unfreeze_epoch else groups[-1:], self.backbone_lr_scale)


@dataclass(frozen=True)
class Milestones(Strategy):
    """The head, then the groups next to it, then the rest.

    Attributes:
        milestones: After how many epochs the last `num_layers` groups thaw, and after how many all do.
        num_layers: How many groups thaw at the first milestone; the head is not counted.
        backbone_lr_scale: LR scale of every group but the head, whose scale is 1.
    """

    milestones: tuple[int, int] = (3, 8)
    num_layers: int = 2
    backbone_lr_scale: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.milestones[0] < self.milestones[1]:
            raise RequestError(
                f"strategy.milestones is {listed(self.milestones)}",
                "give two numbers of epochs from 1, the second one larger",
            )
        check_count("num_layers", self.num_layers, "groups")
        check_scale("backbone_lr_scale", self.backbone_lr_scale)

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        below = len(backbone.groups) - 1
        if self.num_layers >= below:
            raise RequestError(
                f"strategy.num_layers is {self.num_layers}, but backbone {backbone.name!r} has {below} "
                "layer groups below its head, so the second milestone has nothing to thaw",
                f"give {below - 1} or less" if below > 1 else "use strategy freeze-unfreeze",
            )
        return tuple(backbone.groups)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        first, second = self.milestones
        check_within("milestones", second, epochs, shown=listed(self.milestones))
        trainable = 1 if epoch < first else 1 + self.num_layers if epoch < second else len(groups)
        return _body_and_head(groups[-trainable:], self.backbone_lr_scale)


@dataclass(frozen=True)
class Gradual(Strategy):
    """Groups thaw one after another from the head down, each more slowly trained than the one above it.

    It is the gradual unfreezing of Howard and Ruder, 2018 (ULMFiT).

    Attributes:
        every: Epochs between one thaw and the next. Unset, the run's epochs over the number of groups,
            rounded down, so that all groups train before it ends; in a run with fewer epochs than groups,
            several thaw at once.
        decay: LR scale of a group as a part of that of the group above it.
    """

    every: int | None = None
    decay: float = 0.5

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count("every", self.every, "epochs")
        check_decay(self.decay)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        if self.every is not None:
            check_within("every", self.every, epochs)
        return _decaying(groups[-self._trainable(epoch, epochs, len(groups)) :], self.decay)

    def _trainable(self, epoch: int, epochs: int, count: int) -> int:
        """How many of `count` groups, from the head down, train in `epoch`."""
        if self.every is None and epochs < count:
            return count * (epoch + 1) // epochs
        every = self.every or epochs // count
        return min(count, 1 + epoch // every)


@dataclass(frozen=True)
class Discriminative(Strategy):
    """Every group trains from the start, more slowly the closer it is to the input.

    Attributes:
        decay: LR scale of a group as a part of that of the group above it. The default is the 1/2.6 that
            Howard and Ruder, 2018 (ULMFiT) found to work well; over five groups it leaves the first one
            about a fiftieth of the head's rate.
    """

    decay: float = 0.385

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return _decaying(groups, self.decay)


@dataclass(frozen=True)
class Scratch(Strategy):
    """Every group trains at the full rate, from random weights unless `weights` says otherwise."""

    default_weights: ClassVar[str] = "none"

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return dict.fromkeys(groups, 1.0)


@dataclass(frozen=True)
class Probe(Strategy):
    """The head is solved to its optimum on frozen features, by logistic regression, and that is all."""

    probe: ClassVar[Literal["usual", "first", "only"]] = "only"

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        raise RequestError("strategy probe trains no epochs", "leave epochs unset")


@dataclass(frozen=True)
class ProbeThenFinetune(Full):
    """The head is solved on frozen features first, then every group trains as in `full`.

    Any strategy starts so where it can; this one fails where it can't.
    """

    probe: ClassVar[Literal["usual", "first", "only"]] = "first"


@dataclass(frozen=True)
class Auto(Strategy):
    """Another of these strategies and its rates, chosen by how much the backbone's features tell of the data.

    Before anything is planned, a probe on frozen features is measured; `ftkit advise` says what comes of it.
    """

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        raise RequestError(
            "strategy auto has no schedule of its own: training takes the one that it advises", "see ftkit advise"
        )


STRATEGIES: Mapping[str, type[Strategy]] = {
    "full": Full,
    "freeze": Freeze,
    "freeze-unfreeze": FreezeUnfreeze,
    "milestones": Milestones,
    "gradual": Gradual,
    "discriminative": Discriminative,
    "freezer": Freezer,
    "norms": Norms,
    "bias": Bias,
    "probe": Probe,
    "probe-then-finetune": ProbeThenFinetune,
    "scratch": Scratch,
    "then": Then,
    "auto": Auto,
}

ALIASES: Mapping[str, str] = {
    "no-freeze": "full",
    "no_freeze": "full",
    "feature-extraction": "freeze",
    "feature_extraction": "freeze",
    "linear-probe": "freeze",
    "probe_then_finetune": "probe-then-finetune",
    "linear_probe": "freeze",
    "freeze_unfreeze": "freeze-unfreeze",
    "unfreeze-milestones": "milestones",
    "unfreeze_milestones": "milestones",
}
"""Other spellings of the names above, as papers and other tools have them."""


@hookimpl
def ftkit_strategies() -> Mapping[str, type[Strategy]]:
    """Names first, so that in a list each class goes by its own and the rest count as aliases."""
    return {**STRATEGIES, **{alias: STRATEGIES[name] for alias, name in ALIASES.items()}}


def _body_and_head(groups: Sequence[str], body_scale: float) -> dict[str, float]:
    return {**dict.fromkeys(groups[:-1], body_scale), groups[-1]: 1.0}


def _decaying(groups: Sequence[str], decay: float) -> dict[str, float]:
    return {group: decay ** (len(groups) - 1 - depth) for depth, group in enumerate(groups)}
