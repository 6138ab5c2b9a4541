"""Adapters put into a network, taken out of a copy of it, and kept in PEFT's own form."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

from ftkit.api import Backbone, RequestError, group_of, nearest

if TYPE_CHECKING:
    from ftkit_lora import Lora

NAME = "default"
"""What PEFT calls the one set of adapters."""


def add(model: nn.Module, backbone: Backbone, options: Lora) -> nn.Module:
    """Put an adapter beside each layer that is to have one; what it adds is nothing at first.

    Raises:
        RequestError: No layer that can have one matches `strategy.layers`.
    """
    possible = list(adaptable(model, backbone))
    layers = [name for name in possible if re.match(options.layers, name)]
    if not layers:
        close = nearest(options.layers, possible)
        raise RequestError(
            f"strategy.layers: {options.layers!r} matches no layer of {backbone.name} that can have an adapter",
            f"did you mean {close!r}?" if close else f"they are called {', '.join(possible[:4])}, ...",
        )
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # PEFT divides it, and takes any number
        lora_dropout=options.dropout,
        target_modules=layers,
        modules_to_save=list(backbone.head),
        use_dora=options.decomposed,
    )
    # The head trains as it is, without PEFT's copy of it; `modules_to_save` is for whoever loads the adapters.
    config.modules_to_save, head = None, config.modules_to_save
    adapted: nn.Module = inject_adapter_in_model(config, model, NAME)
    config.modules_to_save = head
    return adapted


def adaptable(model: nn.Module, backbone: Backbone) -> Iterator[str]:
    """Names of the linear layers and convolutions below the head.

    Left out are grouped convolutions, whose adapters would be as large as themselves, and the linear layer in
    torch's own attention, which it reads the weights of without calling it.
    """
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    for name, module in model.named_modules():
        fits = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if fits and not name.startswith(inside) and group_of(backbone.groups, f"{name}.") != backbone.groups[-1]:
            yield name


def merged(model: nn.Module) -> nn.Module:
    """A copy without adapters, whose weights do what both did together."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, module.get_base_layer())
    del plain.peft_config
    return plain


def save(model: nn.Module, folder: Path) -> None:
    """Write the adapters and the head so that `peft.PeftModel.from_pretrained(network, folder)` takes them."""
    config: LoraConfig = model.peft_config[NAME]  # type: ignore[index]
    state = get_peft_model_state_dict(model, adapter_name=NAME)
    heads = tuple(f"{name}." for name in config.modules_to_save or ())
    state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(heads)}
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))
