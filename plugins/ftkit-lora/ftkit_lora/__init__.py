"""LoRA and DoRA as strategies: the pretrained weights are frozen, and small adapters beside the layers train.

The adapters are PEFT's, which is imported only when a network is adapted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftkit.api import Backbone, LayerGroup, RequestError, Strategy, hookimpl

if TYPE_CHECKING:
    from torch import nn

GROUP = "adapters"
FOLDER = "adapter"
"""Subfolder of a model's folder for the adapters, in PEFT's format."""


@hookimpl
def ftkit_strategies() -> Mapping[str, type[Strategy]]:
    return {"lora": Lora, "dora": Dora}


@dataclass(frozen=True)
class Lora(Strategy):
    """Trains low-rank adapters beside linear layers and convolutions, and the head; all else is frozen.

    The saved model has the adapters merged into its weights. The adapters and the head are also saved separately, in
    the model's subfolder `adapter` and PEFT's format.

    Attributes:
        rank: Inner dimension of each adapter.
        alpha: The output of an adapter is scaled by alpha / rank.
        dropout: Probability of dropout before each adapter.
        layers: Regular expression for the names of the layers that get an adapter, matched from their start; by
            default all linear layers and ungrouped convolutions below the head that the network calls. Some attention
            layers use the weights of linear layers without calling them: an adapter there would have no effect, and is
            refused.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: str = ""

    decomposed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise RequestError(f"strategy.rank is {self.rank}", "give a width of 1 or more")
        if not self.alpha > 0:
            raise RequestError(f"strategy.alpha is {self.alpha}", "give more than 0")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"strategy.dropout is {self.dropout}", "give 0 or more, and less than 1")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise RequestError(f"strategy.layers: {self.layers!r} is not a regular expression: {error}") from None

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        *body, head = backbone.groups
        return (*body, LayerGroup(GROUP, r"(?:.*\.)?lora_"), head)

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {GROUP: 1.0, groups[-1]: 1.0}

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        from ftkit_lora.adapters import add

        return add(model, backbone, self)

    def merged(self, model: nn.Module) -> nn.Module:
        from ftkit_lora.adapters import merged

        return merged(model)

    def save_extra(self, model: nn.Module, folder: Path) -> None:
        from ftkit_lora.adapters import save

        save(model, folder / FOLDER)


@dataclass(frozen=True)
class Dora(Lora):
    """As `lora`, but magnitude and direction of each layer's weights are trained separately, which is slower."""

    decomposed: ClassVar[bool] = True
