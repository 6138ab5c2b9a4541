"""Strategies that choose parameters by their names or by what they are, across the backbone's layer groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftkit.api import Backbone, LayerGroup, RequestError, Role, Strategy, nearest
from ftkit.builtin.strategies.option_checks import check_count, check_within

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Freezer(Strategy):
    """Parameters selected by name are frozen for some epochs; all others train from the start.

    Each prefix becomes a layer group of that name, in addition to `rest` and the head. The LR scale of all is 1.

    Attributes:
        name_starts_with: Prefixes of the parameters to freeze: `layer1.`, `conv1`. A parameter that matches two belongs
            to the group of the later one.
        except_: Prefixes of parameters to exclude.
        until_epoch: Number of frozen epochs; null for all.
    """

    name_starts_with: tuple[str, ...]
    except_: tuple[str, ...] = ()
    until_epoch: int | None = 5

    def __post_init__(self) -> None:
        _check_prefixes("name_starts_with", self.name_starts_with)
        _check_prefixes("except_", self.except_)
        if not self.name_starts_with:
            raise RequestError("strategy.name_starts_with is empty", "name what to freeze: [conv1, layer1]")
        if self.until_epoch is not None:
            check_count("until_epoch", self.until_epoch, "epochs")

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        spared = _negative(self.except_)
        frozen = tuple(LayerGroup(prefix, spared + re.escape(prefix)) for prefix in self.name_starts_with)
        others = f"(?!{'|'.join(group.pattern for group in frozen)})"
        head = backbone.groups[-1]
        return (
            *frozen,
            LayerGroup("rest", others),
            LayerGroup(head.name, f"{others}(?:{head.pattern})", head.roles),
        )

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        if self.until_epoch is not None:
            check_within("until_epoch", self.until_epoch, epochs, "lower it, raise epochs, or give null for never")
            if epoch >= self.until_epoch:
                return dict.fromkeys(groups, 1.0)
        return {group: 1.0 for group in groups if group not in self.name_starts_with}

    def adapt(self, model: nn.Module, backbone: Backbone) -> nn.Module:
        """The unchanged model, after a check that each prefix matches a parameter."""
        names = [name for name, _ in model.named_parameters()]
        for key, prefixes in (("name_starts_with", self.name_starts_with), ("except_", self.except_)):
            for prefix in prefixes:
                if not any(name.startswith(prefix) for name in names):
                    raise _no_such_parameter(key, prefix, names)
        return model


class _Selected(Strategy):
    """The head trains, and of the other layers only parameters with certain roles. The LR scale of all is 1."""

    label: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    described: ClassVar[str]

    def groups(self, backbone: Backbone) -> tuple[LayerGroup, ...]:
        head = backbone.groups[-1]
        if backbone.summary is not None:
            body = [size.parameters for name, size in backbone.summary.groups.items() if name != head.name]
            if not any(sizes.get(role, 0) for sizes in body for role in self.roles):
                raise RequestError(
                    f"strategy {self.label!r}: backbone {backbone.name!r} has no {self.described} below its head",
                    "use strategy freeze for the head alone, or full",
                )
        return LayerGroup("body", ".*"), LayerGroup(self.label, ".*", self.roles), head

    def lr_scales(self, epoch: int, epochs: int, groups: Sequence[str]) -> Mapping[str, float]:
        return {self.label: 1.0, groups[-1]: 1.0}


@dataclass(frozen=True)
class Norms(_Selected):
    """The head and the parameters of normalization layers train; everything else is frozen."""

    label: ClassVar[str] = "norms"
    roles: ClassVar[tuple[Role, ...]] = ("norm-weight", "norm-bias")
    described: ClassVar[str] = "normalisation parameters"


@dataclass(frozen=True)
class Bias(_Selected):
    """The head and all biases train, including those of normalization layers; everything else is frozen.

    Known as BitFit (Ben Zaken et al., 2022).
    """

    label: ClassVar[str] = "biases"
    roles: ClassVar[tuple[Role, ...]] = ("bias", "norm-bias")
    described: ClassVar[str] = "biases"


def _negative(prefixes: Sequence[str]) -> str:
    """A negative lookahead for names with one of these prefixes."""
    return f"(?!{'|'.join(map(re.escape, prefixes))})" if prefixes else ""


def _check_prefixes(key: str, prefixes: Sequence[str]) -> None:
    if "" in prefixes:
        raise RequestError(f"strategy.{key} has an empty name, which every parameter starts with", "take it out")
    if len(set(prefixes)) != len(prefixes):
        raise RequestError(f"strategy.{key} has a name twice: {', '.join(prefixes)}", "give each once")


def _no_such_parameter(key: str, prefix: str, names: Sequence[str]) -> RequestError:
    parts = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    close = nearest(prefix.rstrip("."), parts)
    first = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
    hint = f"did you mean {close!r}?" if close else f"names start with {first}"
    return RequestError(f"strategy.{key}: no parameter's name starts with {prefix!r}", hint)
