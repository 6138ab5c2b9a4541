"""LoRA and DoRA as strategies: the network stays as it was pretrained, small adapters beside its layers train.

PEFT does the adapting; it is imported when a network is there to adapt.
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
"""Where the adapters lie in a model's folder, as PEFT keeps them."""


@hookimpl
def ftkit_strategies() -> Mapping[str, type[Strategy]]:
    return {"lora": Lora, "dora": Dora}


@dataclass(frozen=True)
class Lora(Strategy):
    """Low-rank adapters beside linear layers and convolutions, and the head, train from the start; nothing else does.

    The model that is kept has the adapters merged in; the adapters alone, with the head, lie in its folder
    `adapter`, as PEFT keeps them.

    Attributes:
        rank: Inner width of each adapter.
        alpha: What an adapter adds is scaled by alpha / rank.
        dropout: Probability of dropout before each adapter.
        layers: Regular expression on the names of the layers that get one, matched from their start; by default
            all linear layers and ungrouped convolutions below the head that the network calls. Some attentions read
            the weights of their layers without calling them: an adapter there would do nothing, and is refused.
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
            raise RequestError(f"strategy.layers: {self.layers!r} is no regular expression: {error}") from None

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
    """As `lora`, with the size of each layer's weights learnt apart from their direction, which takes longer."""

    decomposed: ClassVar[bool] = True
