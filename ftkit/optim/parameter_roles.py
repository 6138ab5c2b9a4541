"""Roles of parameters: weight, bias, and weight or bias of a normalization layer."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ftkit.parts.backbone import Role

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_NORM_NAME = re.compile(r"(Batch|Layer|Group|Instance|RMS|Rms)Norm")  # classes defined by networks


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter, by name."""
    return {name: _role(model, name) for name, _ in model.named_parameters()}


def _role(model: nn.Module, parameter: str) -> Role:
    module = model.get_submodule(parameter.rpartition(".")[0])
    bias = parameter.endswith("bias")
    if isinstance(module, _NORMS) or _NORM_NAME.search(type(module).__name__):
        return "norm-bias" if bias else "norm-weight"
    return "bias" if bias else "weight"
