"""A strategy: which layer groups train in which epoch, and at what learning rate."""

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

    It must be pure: the same arguments give the same numbers. So schedules can be printed, tested and resumed.

    Attributes:
        default_weights: Default of the config's `weights`: `default` or `none`.
        probe: Whether a probe initializes the head. usual: with pretrained weights; first: always, otherwise the run
            fails; only: the probe is all that is done.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    default_weights: ClassVar[str] = "default"
    probe: ClassVar[Literal["usual", "first", "only"]] = "usual"

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        """Layer groups from the input to the head; by default the backbone's.

        A parameter belongs to the last group that matches it.
        """
        return tuple(backbone.groups)

    @abstractmethod
    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        """The factor on the base learning rate for each trainable group in `epoch`.

        Args:
            epoch: The epoch, from 0 to `epochs - 1`.
            epochs: Length of the run.
            groups: Group names from the input to the head.

        Returns:
            Scales of 0 or more. Groups that are missing or 0 are frozen.
        """

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        """Change the network before training, for adapters such as LoRA; by default unchanged.

        Parameters must keep the prefixes of their names, so that layer groups match them. It is called again on a new
        network when a run is resumed, and on the meta device when parameters are counted.
        """
        return model

    def merged(self, model: nn.Module) -> nn.Module:
        """The network as the backbone builds it, with the same outputs as the adapted `model`.

        It is saved in the model folder. `model` continues to train: copy it instead of changing it.
        """
        return model

    def save_extra(self, model: nn.Module, folder: Path) -> None:  # noqa: B027 - nothing is the right default
        """Write further files of an adapted network, such as adapters, into its model folder; by default none."""


@dataclass(frozen=True)
class Then(Strategy):
    """One strategy after another.

    Attributes:
        first: Strategy of the first `at` epochs, as if they were a run of their own.
        second: Strategy of the other epochs, as if they were a run of their own.
        at: Number of epochs of `first`.
    """

    first: Strategy
    second: Strategy
    at: int

    def __post_init__(self) -> None:
        if self.at < 1:
            raise RequestError(f"strategy.at is {self.at}", "give the first strategy 1 epoch or more")
        # The first strategy determines the initial weights; `default_weights` is read from the instance.
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
        """The network adapted by the first strategy, then by the second one."""
        return self.second.adapt(self.first.adapt(model, backbone), backbone)

    def merged(self, model: nn.Module) -> nn.Module:
        return self.first.merged(self.second.merged(model))

    def save_extra(self, model: nn.Module, folder: Path) -> None:
        self.first.save_extra(model, folder)
        self.second.save_extra(model, folder)


def _part(key: str, strategy: Strategy, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
    """A row of one of the strategies; errors get its key."""
    try:
        return strategy.lr_scales(epoch, epochs, groups)
    except RequestError as error:
        raise RequestError(
            f"strategy.{key}, taken as a run of {_counted(epochs)}: {error.message}", error.hint
        ) from None


def _counted(epochs: int) -> str:
    return plural(epochs, "epoch")
