"""Add adapters to a network, merge them in a copy of it, and save them in PEFT's format."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save as save_tensors
from torch import nn

from ftkit.api import Backbone, RequestError, group_of, nearest

if TYPE_CHECKING:
    from ftkit_lora import Lora

CLASSES = 2
"""Outputs of a network that is built only to find the modules that it calls."""
NAME = "default"
"""PEFT's name for the only set of adapters."""


def add(model: nn.Module, backbone: Backbone, options: Lora) -> nn.Module:
    """Add an adapter to each chosen layer; the initial output of an adapter is zero.

    Raises:
        RequestError: `strategy.layers` matches no layer that can have an adapter, or one that the network doesn't call.
    """
    layers = _chosen(list(adaptable(model, backbone)), called(model, backbone), backbone.name, options.layers)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # PEFT accepts any number
        lora_dropout=options.dropout,
        target_modules=layers,
        modules_to_save=list(backbone.head),
        use_dora=options.decomposed,
    )
    # The head trains without PEFT's copy of it; `modules_to_save` is needed only when the adapters are loaded.
    config.modules_to_save, head = None, config.modules_to_save
    adapted: nn.Module = inject_adapter_in_model(config, model, NAME)
    config.modules_to_save = head
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            _copy_settings(module)
    return adapted


def _copy_settings(adapter: BaseTunerLayer) -> None:
    """Copy a layer's attributes, such as `kernel_size`, to its adapter: some networks read them."""
    for name, value in vars(adapter.get_base_layer()).items():
        if not name.startswith("_") and not hasattr(adapter, name):
            setattr(adapter, name, value)


def _chosen(possible: list[str], used: frozenset[str], backbone: str, pattern: str) -> list[str]:
    """The layers that get an adapter: those that match the pattern and that the network calls."""
    live = [name for name in possible if name in used]
    found = [name for name in possible if re.match(pattern, name)]
    idle = [name for name in found if name not in used]
    if pattern and idle:
        more = f" and {len(idle) - 3} more" if len(idle) > 3 else ""
        raise RequestError(
            f"strategy.layers: {pattern!r} matches {len(idle)} layers of {backbone} whose weights the network uses "
            f"without calling them, so that an adapter there would have no effect: {', '.join(idle[:3])}{more}",
            f"match other layers, such as {', '.join(live[:4])}" if live else "choose another strategy",
        )
    layers = [name for name in found if name in used]
    if not layers:
        close = nearest(pattern, live)
        raise RequestError(
            f"strategy.layers: {pattern!r} matches no layer of {backbone} that can have an adapter",
            f"did you mean {close!r}?" if close else f"possible layers: {', '.join(live[:4])}, ...",
        )
    return layers


def adaptable(model: nn.Module, backbone: Backbone) -> Iterator[str]:
    """Names of the linear layers and convolutions below the head.

    Grouped convolutions are left out: their adapters would be as large as the layers.
    """
    for name, module in model.named_modules():
        fits = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if fits and group_of(backbone.groups, f"{name}.") != backbone.groups[-1]:
            yield name


def called(model: nn.Module, backbone: Backbone) -> frozenset[str]:
    """Names of the modules that the network calls in a forward pass.

    Many attention layers use the weights of their linear layers without calling them; adapters there have no effect.
    """
    try:
        return _called(model, backbone)
    except (RuntimeError, NotImplementedError):  # some networks need values, which meta tensors lack
        with torch.random.fork_rng(devices=[]):
            return _called(backbone.build(CLASSES), backbone)


def _called(model: nn.Module, backbone: Backbone) -> frozenset[str]:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    preprocessing = backbone.preprocessing
    channels = 1 if first is not None and first.in_channels == 1 else preprocessing.channels
    images = torch.zeros(2, channels, preprocessing.size, preprocessing.size, device=next(model.parameters()).device)
    before = [(module, module.training) for module in model.modules()]
    seen: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, name=n: seen.add(name)) for n, m in model.named_modules()]
    try:
        # With gradients: without them torch's transformer layers use a fused path that calls no submodules.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in before:
            module.training = training
    return frozenset(seen)


def merged(model: nn.Module) -> nn.Module:
    """A copy of the network with the adapters merged into its weights."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, module.get_base_layer())
    del plain.peft_config
    return plain


def save(model: nn.Module, folder: Path) -> None:
    """Save the adapters and the head for `peft.PeftModel.from_pretrained(network, folder)`."""
    config: LoraConfig = model.peft_config[NAME]  # type: ignore[index]
    state = get_peft_model_state_dict(model, adapter_name=NAME)
    heads = tuple(f"{name}." for name in config.modules_to_save or ())
    state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(heads)}
    folder.mkdir()
    tensors = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # safetensors' save_file makes files that their owner alone can read.
    (folder / "adapter_model.safetensors").write_bytes(save_tensors(tensors, metadata={"format": "pt"}))
    config.save_pretrained(str(folder))
