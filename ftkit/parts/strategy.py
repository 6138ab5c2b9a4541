"""A strategy says which layer groups train in which epoch, and how fast. Numbers only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ftkit.errors import RequestError, plural
from ftkit.parts.backbone import Backbone, LayerGroup

if TYPE_CHECKING:
    from torch import nn


class Strategy(ABC):
    """Maps an epoch to `{layer group: LR scale}`. Subclasses are frozen dataclasses; fields are options.

    It must be pure: the same epoch gives the same numbers, whatever was asked before. That is what lets
    a schedule be printed, tested and resumed.

    Attributes:
        default_weights: What `weights` means when the user doesn't set it: `default` or `none`.
        probe: Whether the head must be solved on frozen features before training (`first`), is all that is
            done (`only`), or is solved as in any run with pretrained weights (`usual`).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    default_weights: ClassVar[str] = "default"
    probe: ClassVar[Literal["usual", "first", "only"]] = "usual"

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        """Layer groups from the input to the head; by default the backbone's own.

        Where two groups match a parameter, the later one owns it.
        """
        return tuple(backbone.groups)

    @abstractmethod
    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        """The factor on the base learning rate for each group that trains in `epoch`.

        Args:
            epoch: From 0 to `epochs - 1`.
            epochs: Length of the run.
            groups: Group names from the input to the head.

        Returns:
            Scales of 0 or more. A group that is absent, or at 0, is frozen.
        """

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        """Change the network before training, for adapters such as LoRA; by default not at all.

        Names of what stays must begin as before, so that layer groups own it. It is called again on a new network
        when a run is resumed, and on one without values when parameters are counted.
        """
        return model

    def merged(self, model: nn.Module) -> nn.Module:
        """The network that a backbone builds, equal in what it puts out to one that `adapt` changed.

        It is what is kept in a model's folder. `model` itself trains on and must stay as it is: copy it.
        """
        return model

    def save_extra(self, model: nn.Module, folder: Path) -> None:  # noqa: B027 - nothing is the right default
        """Write what else is worth keeping of an adapted network into its model's folder; by default nothing."""


@dataclass(frozen=True)
class Then(Strategy):
    """One strategy after another.

    Attributes:
        first: Has the first `at` epochs, as a run of its own.
        second: Has the rest, as a run of its own.
        at: After how many epochs `second` takes over.
    """

    first: Strategy
    second: Strategy
    at: int

    def __post_init__(self) -> None:
        if self.at < 1:
            raise RequestError(f"strategy.at is {self.at}", "give the first strategy 1 epoch or more")
        # The run's first weights are the first strategy's business: `default_weights` is read off the instance.
        object.__setattr__(self, "default_weights", self.first.default_weights)
        object.__setattr__(self, "probe", self.first.probe)

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        first, second = self.first.groups(backbone), self.second.groups(backbone)
        if first != second:
            raise RequestError(
                "strategy 'then' joins two strategies with different layer groups: "
                f"{', '.join(g.name for g in first)} and {', '.join(g.name for g in second)}",
                "join strategies that cut the backbone into the same groups",
            )
        return first

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        if epochs <= self.at:
            raise RequestError(
                f"strategy.at is {self.at}, but the run has {_counted(epochs)}", "raise epochs or lower strategy.at"
            )
        if epoch < self.at:
            return _part("first", self.first, epoch, self.at, groups)
        return _part("second", self.second, epoch - self.at, epochs - self.at, groups)

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        """What both strategies make of the network, the first one's change first."""
        return self.second.adapt(self.first.adapt(model, backbone), backbone)

    def merged(self, model: nn.Module) -> nn.Module:
        return self.first.merged(self.second.merged(model))

    def save_extra(self, model: nn.Module, folder: Path) -> None:
        self.first.save_extra(model, folder)
        self.second.save_extra(model, folder)


def _part(key: str, strategy: Strategy, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
    """A part's own row; where it refuses its length, the message says which part that is."""
    try:
        return strategy.lr_scales(epoch, epochs, groups)
    except RequestError as error:
        raise RequestError(
            f"strategy.{key}, taken as a run of {_counted(epochs)}: {error.message}", error.hint
        ) from None


def _counted(epochs: int) -> str:
    return plural(epochs, "epoch")
