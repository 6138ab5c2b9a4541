"""Built-in strategies. In all of them the head trains from the first epoch at scale 1, at the base learning rate.

Groups are ordered from the input to the head.
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
    """Every group trains from the start, with a lower learning rate for all but the head.

    Attributes:
        backbone_lr_scale: LR scale of every group except the head, whose scale is 1.
    """

    backbone_lr_scale: float = 0.1

    def __post_init__(self) -> None:
        check_scale("backbone_lr_scale", self.backbone_lr_scale)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return _body_and_head(groups, self.backbone_lr_scale)


@dataclass(frozen=True)
class Freeze(Strategy):
    """Only the head trains, on frozen features: a linear probe trained by gradient descent."""

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {groups[-1]: 1.0}


@dataclass(frozen=True)
class FreezeUnfreeze(Strategy):
    """First only the head trains, then everything.

    Attributes:
        unfreeze_epoch: Number of epochs in which only the head trains.
        backbone_lr_scale: LR scale of every group except the head, whose scale is 1.
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
    """First the head trains, then also the groups next to it, then everything.

    Attributes:
        milestones: Epochs after which `num_layers` groups are unfrozen, and after which all are.
        num_layers: Number of groups that are unfrozen at the first milestone, without the head.
        backbone_lr_scale: LR scale of every group except the head, whose scale is 1.
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
    """Groups are unfrozen one after another, from the head to the input, with decreasing learning rates.

    This is the gradual unfreezing of Howard and Ruder, 2018 (ULMFiT).

    Attributes:
        every: Epochs between unfreezing one group and the next. By default the number of epochs divided by the number
            of groups, rounded down; in a run with fewer epochs than groups, several are unfrozen at once.
        decay: LR scale of a group divided by that of the next group towards the head.
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
        """The number of the `count` groups, from the head on, that train in `epoch`."""
        if self.every is None and epochs < count:
            return count * (epoch + 1) // epochs
        every = self.every or epochs // count
        return min(count, 1 + epoch // every)


@dataclass(frozen=True)
class Discriminative(Strategy):
    """Every group trains from the start, with learning rates that decrease towards the input.

    Attributes:
        decay: LR scale of a group divided by that of the next group towards the head. The default is the 1/2.6 of
            Howard and Ruder, 2018 (ULMFiT); with five groups, the first one's rate is about a fiftieth of the head's.
    """

    decay: float = 0.385

    def __post_init__(self) -> None:
        check_decay(self.decay)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return _decaying(groups, self.decay)


@dataclass(frozen=True)
class Scratch(Strategy):
    """Every group trains at the full rate, from random weights unless `weights` is set."""

    default_weights: ClassVar[str] = "none"

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return dict.fromkeys(groups, 1.0)


@dataclass(frozen=True)
class Probe(Strategy):
    """Only a probe: the head is fitted by logistic regression on frozen features."""

    probe: ClassVar[Literal["usual", "first", "only"]] = "only"

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        raise RequestError("strategy probe trains no epochs", "leave epochs unset")


@dataclass(frozen=True)
class ProbeThenFinetune(Full):
    """A probe initializes the head, then every group trains as in `full`.

    Other strategies skip the probe where it isn't possible; this one fails.
    """

    probe: ClassVar[Literal["usual", "first", "only"]] = "first"


@dataclass(frozen=True)
class Auto(Strategy):
    """A strategy and learning rates chosen by how well a probe on frozen features classifies the training images.

    `ftkit advise` shows the choice and its reasons.
    """

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        raise RequestError(
            "strategy auto has no schedule of its own: training uses the one that it recommends", "see ftkit advise"
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
"""Names of the same strategies in papers and other tools."""


@hookimpl
def ftkit_strategies() -> Mapping[str, type[Strategy]]:
    """Names first, so that lists show them, and other names of a class as aliases."""
    return {**STRATEGIES, **{alias: STRATEGIES[name] for alias, name in ALIASES.items()}}


def _body_and_head(groups: Sequence[str], body_scale: float) -> dict[str, float]:
    return {**dict.fromkeys(groups[:-1], body_scale), groups[-1]: 1.0}


def _decaying(groups: Sequence[str], decay: float) -> dict[str, float]:
    return {group: decay ** (len(groups) - 1 - depth) for depth, group in enumerate(groups)}
