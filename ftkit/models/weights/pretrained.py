"""Loads pretrained weights into a network, and reports what became of each tensor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftkit.errors import RequestError
from ftkit.models.weights.files import Contents, first_names
from ftkit.models.weights.fit import OTHER_NETWORK, Fit, compare, require_values
from ftkit.models.weights.key_names import Naming, match_names
from ftkit.parts.backbone import LayerGroup

_NEW_HEAD = "leave out --keep-head to train a new head"


@dataclass(frozen=True)
class Target:
    """Which tensors of a network to load.

    Attributes:
        head: Dotted names of the layers with one output a class.
        groups: The backbone's layer groups, for messages.
        keep_head: Load the head too; otherwise it stays random, whatever its size in the file.
        partial: Accept missing and surplus tensors.
        order: The index in the file for each class of the network, with `keep_head`.
    """

    head: Sequence[str]
    groups: Sequence[LayerGroup] = ()
    keep_head: bool = False
    partial: bool = False
    order: Sequence[int] | None = None

    @property
    def in_head(self) -> tuple[str, ...]:
        """Prefixes of the names of the head's tensors."""
        return tuple(f"{layer}." for layer in self.head)

    def loads(self, name: str) -> bool:
        """Whether a tensor of this name is loaded: those of the head only with `keep_head`."""
        return self.keep_head or not name.startswith(self.in_head)


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a state dict.

    Attributes:
        loaded: Number of tensors with pretrained values.
        total: Number of tensors of the network.
        dropped: Tensors of the file's head, which were not loaded, with their shapes.
        missing: Tensors of the network that weren't loaded, apart from a new head.
        unexpected: Tensors of the file that the network doesn't have.
        prefix: Prefix of the file's names that was removed.
        adapted: Tensors whose shape was changed, with both shapes.
        fresh: Tensors that stay random by layer group, for people; empty where all are loaded.
        notes: Further lines for people.
    """

    loaded: int
    total: int
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefix: str = ""
    adapted: tuple[str, ...] = ()
    fresh: str = ""
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        parts = [f"loaded {self.loaded} of {self.total} tensors", *self.notes]
        if self.prefix:
            parts.append(f"prefix {self.prefix!r} removed")
        if self.fresh:
            parts.append(f"random: {self.fresh}")
        for label, names in (
            ("adapted", self.adapted),
            ("head not loaded", self.dropped),
            ("missing", () if self.fresh else self.missing),
            ("unused", self.unexpected),
        ):
            if names:
                parts.append(f"{label}: {first_names(names)}")
        return "; ".join(parts)


def load_into(
    model: nn.Module,
    contents: Contents,
    target: Target,
    source: str = "the weights",
    refit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> LoadReport:
    """Load a state dict into a network, in place.

    Every layer group except the head must be complete, including BatchNorm statistics, and no layer may be left over:
    a partly random network is never intended.

    Args:
        contents: Tensors by name, with any prefix before the network's own names.
        source: Name of the weights in messages.
        refit: Converts tensors of the file, without the prefix, to the network's names and shapes.

    Raises:
        RequestError: The file belongs to another network or lacks a part, or has unusable values.
    """
    own = model.state_dict()
    where = f"{source} for {type(model).__name__}"
    file = _match(contents, own, target, where, refit)
    others = _check_tensors(file.taken, own, target, where)
    if target.order is not None:
        _reorder(model, file.taken, target)
    missing, unexpected = _load(model, file.taken, _versions(model, contents.state, file.naming), where)
    surplus = {name: file.taken[name] for name in unexpected if name in file.taken}
    fit = _require_fit(model, target, missing, surplus, where)
    return LoadReport(
        loaded=len(own) - len(missing),
        total=len(own),
        dropped=file.dropped,
        missing=tuple(name for name in missing if target.loads(name)),
        unexpected=(*unexpected, *others, *file.naming.strangers),
        prefix=file.naming.prefix,
        adapted=file.adapted(),
        fresh=fit.fresh(),
        notes=tuple(_notes(contents, file.naming)),
    )


@dataclass(frozen=True)
class _Matched:
    """Tensors of a file by the network's names.

    Attributes:
        found: The tensors as they are in the file.
        taken: The tensors to load, in the network's shapes.
        dropped: Tensors of the file's head that are not loaded, with their shapes.
    """

    naming: Naming
    found: Mapping[str, Tensor]
    taken: OrderedDict[str, Tensor]
    dropped: tuple[str, ...]

    def adapted(self) -> tuple[str, ...]:
        return tuple(
            f"{name} {_shape(self.found[name])} to {_shape(value)}"
            for name, value in self.taken.items()
            if name in self.found and self.found[name].shape != value.shape
        )


def _match(
    contents: Contents,
    own: Mapping[str, Tensor],
    target: Target,
    where: str,
    refit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None,
) -> _Matched:
    naming = match_names(list(contents.state), list(own))
    found = {name: contents.state[key] for key, name in naming.targets.items()}
    matched = refit(found) if refit is not None else found
    if not any(target.loads(name) for name in own.keys() & matched.keys()):
        raise RequestError(
            f"nothing in {where} matches: its names are like {first_names(contents.state, 2)}, "
            f"the network's like {first_names(own, 2)}",
            OTHER_NETWORK,
        )
    dropped = tuple(f"{name} {_shape(value)}" for name, value in matched.items() if not target.loads(name))
    return _Matched(naming, found, OrderedDict((n, v) for n, v in matched.items() if target.loads(n)), dropped)


def _notes(contents: Contents, naming: Naming) -> list[str]:
    """Which of several weights in a file were loaded."""
    notes = [contents.note()] if contents.others else []
    if naming.rivals:
        others = ", ".join(map(repr, naming.rivals))
        notes.append(f"names under {naming.prefix!r} used, not under {others} (--set weights_key={naming.rivals[0]})")
    if naming.inner:
        notes.append(f"{', '.join(map(repr, naming.inner))} removed from names")
    return notes


def _check_tensors(taken: OrderedDict[str, Tensor], own: Mapping[str, Tensor], target: Target, where: str) -> list[str]:
    """Refuse unusable values; remove tensors of another shape than the network's, refused unless `partial` is set."""
    others = [name for name, value in taken.items() if name in own and value.shape != own[name].shape]
    for name in others:
        sizes = f"{name} is {_shape(taken[name])} there and {_shape(own[name])} in the network"
        if name.startswith(target.in_head):
            raise RequestError(f"the head of {where} can't be kept: {sizes}", _NEW_HEAD)
        if not target.partial:
            raise RequestError(f"{where} belong to another network: {sizes}", OTHER_NETWORK)
    removed = [f"{name} {_shape(taken.pop(name))}" for name in others]
    for name in taken.keys() & own.keys():
        require_values(name, taken[name], own[name], where)
    return removed


def _reorder(model: nn.Module, taken: OrderedDict[str, Tensor], target: Target) -> None:
    """Reorder the rows of the head's last layers by the network's classes."""
    assert target.order is not None, "load_into checks it"
    rows = list(target.order)
    for layer in target.head:
        module = model.get_submodule(layer)
        last = f"{layer}.{len(module) - 1}" if isinstance(module, nn.Sequential) else layer
        for name, value in taken.items():
            if name.rpartition(".")[0] == last and value.ndim and len(value) == len(rows):
                taken[name] = value[rows]


def _versions(model: nn.Module, state: Mapping[str, Tensor], naming: Naming) -> dict[str, Any]:
    """The versions of the modules that wrote the file, where it has them; else the network's own version."""
    written = getattr(state, "_metadata", None)
    if not written:
        return {"": {"version": getattr(model, "_version", 1)}}
    return {"": {}} | {naming.module(key): value for key, value in written.items()}


def _load(
    model: nn.Module, taken: OrderedDict[str, Tensor], versions: dict[str, Any], where: str
) -> tuple[list[str], list[str]]:
    """Copy the tensors, through the modules' conversion of older names; returns missing and unexpected names."""
    taken._metadata = versions  # type: ignore[attr-defined]
    try:
        result = model.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise RequestError(
            f"{where} don't fit: {str(error).strip().splitlines()[-1].strip()}", OTHER_NETWORK
        ) from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _require_fit(
    model: nn.Module, target: Target, missing: Sequence[str], unexpected: Mapping[str, Tensor], where: str
) -> Fit:
    """Refuse a missing head that should be kept and, unless `partial` is set, missing layers."""
    absent = [name for name in missing if name.startswith(target.in_head[0])]
    if target.keep_head and absent:
        hidden = unexpected.get(f"{target.head[0]}.0.weight")
        fix = _NEW_HEAD if hidden is None else f"give --head-hidden {len(hidden)}, or {_NEW_HEAD}"
        raise RequestError(f"the head of {where} can't be kept: {absent[0]} is missing", fix)
    fit = compare(model, target.groups, missing, unexpected, target.in_head)
    if not target.partial:
        fit.require(where)
    return fit


def restore_weights(model: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load all tensors of a network that was built in the same way.

    Files don't store module versions, without which some modules refuse to load; the network's own are used.

    Args:
        strict: Whether tensors may not be missing or surplus.

    Raises:
        RuntimeError: A tensor is missing, surplus, or has another shape.
    """
    taken = OrderedDict(state)
    taken._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(taken, strict)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
