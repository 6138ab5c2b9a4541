"""Pretrained weights put into a network with nothing left unsaid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ftkit.errors import RequestError
from ftkit.models.weights.files import Contents, few
from ftkit.models.weights.fit import OTHER_NETWORK, Fit, compare, require_values
from ftkit.models.weights.key_names import Naming, match_names
from ftkit.parts.backbone import LayerGroup

_NEW_HEAD = "leave out --keep-head to train a new head"


@dataclass(frozen=True)
class Target:
    """What of a network is to be loaded.

    Attributes:
        head: Dotted names of the layers that put out one value a class.
        groups: The backbone's layer groups, by which messages say what is missing.
        keep_head: Load the head too; otherwise it stays as drawn, whatever its size in the file.
        partial: Load what fits of a file that lacks a part of the network, or has more than it.
        order: Of a head that is kept: for each class of the network, its place in the file.
    """

    head: Sequence[str]
    groups: Sequence[LayerGroup] = ()
    keep_head: bool = False
    partial: bool = False
    order: Sequence[int] | None = None

    @property
    def in_head(self) -> tuple[str, ...]:
        """Beginnings of the names of the head's tensors."""
        return tuple(f"{layer}." for layer in self.head)


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict.

    Attributes:
        loaded: Tensors of the network that now have pretrained values.
        total: Tensors that the network has.
        dropped: Tensors of the file that were passed over since the head is drawn anew, with their shapes.
        missing: Tensors of the network, beside the new head's, that weren't loaded.
        unexpected: Tensors of the file that the network has no place for.
        prefix: What the file's names began with, beyond the network's own.
        adapted: Tensors that were brought into another shape for this network, with both shapes.
        fresh: What of the layer groups stays as it was drawn, for people; empty where all is loaded.
        notes: What else is worth saying.
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
            parts.append(f"drawn at random: {self.fresh}")
        for label, names in (
            ("adapted", self.adapted),
            ("head not taken", self.dropped),
            ("missing", () if self.fresh else self.missing),
            ("unused", self.unexpected),
        ):
            if names:
                parts.append(f"{label}: {few(names)}")
        return "; ".join(parts)


def load_into(
    model: nn.Module,
    contents: Contents,
    target: Target,
    source: str = "the weights",
    refit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> LoadReport:
    """Load a state dict into a network, in place.

    Every layer group but the head must be there as a whole, BatchNorm statistics too, and no layer more: a network
    part of which is random is never what was meant. What else the file holds is reported.

    Args:
        model: The network with fresh weights.
        contents: Tensors by name, with any prefix in front of the network's own names.
        source: What messages call the weights: a file, or the name of a pretrained set.
        refit: Brings tensors of the file, without the prefix, into the network's names and shapes.

    Raises:
        RequestError: A part of the network is missing, or the file is another network's; a value isn't finite or
            isn't of a kind that weights are kept in; or the head that is to be kept has another size or isn't there.
    """
    own = model.state_dict()
    where = f"{source} for {type(model).__name__}"
    naming = match_names(list(contents.state), list(own))
    found = {target: contents.state[name] for name, target in naming.targets.items()}
    matched = refit(found) if refit is not None else found
    body = {name for name in own if target.keep_head or not name.startswith(target.in_head)}
    if not body & matched.keys():
        raise RequestError(
            f"nothing in {where} matches: its names are like {few(contents.state, 2)}, "
            f"the network's like {few(own, 2)}",
            OTHER_NETWORK,
        )
    dropped = {} if target.keep_head else {n: value for n, value in matched.items() if n.startswith(target.in_head)}
    taken = OrderedDict((name, value) for name, value in matched.items() if name not in dropped)
    others = _take_out_other_shapes(taken, own, target, where)
    for name in taken.keys() & own.keys():
        require_values(name, taken[name], own[name], where)
    if target.order is not None:
        _reorder(model, taken, target)
    missing, unexpected = _load(model, taken, _versions(model, contents.state, naming), where)
    fit = _require_fit(model, target, missing, {name: taken[name] for name in unexpected if name in taken}, where)
    return LoadReport(
        loaded=len(own) - len(missing),
        total=len(own),
        dropped=tuple(f"{name} {_shape(value)}" for name, value in dropped.items()),
        missing=tuple(name for name in missing if target.keep_head or not name.startswith(target.in_head)),
        unexpected=(*unexpected, *others, *naming.strangers),
        prefix=naming.prefix,
        adapted=tuple(
            f"{name} {_shape(found[name])} to {_shape(value)}"
            for name, value in taken.items()
            if name in found and found[name].shape != value.shape
        ),
        fresh=fit.fresh(),
        notes=tuple(_notes(contents, naming)),
    )


def _notes(contents: Contents, naming: Naming) -> list[str]:
    """Which of several weights in a file were taken."""
    notes = [contents.note()] if contents.others else []
    if naming.rivals:
        others = ", ".join(map(repr, naming.rivals))
        notes.append(f"names under {naming.prefix!r} taken, not under {others} (--set weights_key={naming.rivals[0]})")
    if naming.inner:
        notes.append(f"{', '.join(map(repr, naming.inner))} removed from names")
    return notes


def _take_out_other_shapes(
    taken: OrderedDict[str, Tensor], own: Mapping[str, Tensor], target: Target, where: str
) -> list[str]:
    """Stop where a tensor has another shape than the network's; where part of a file will do, leave it out."""
    others = [name for name, value in taken.items() if name in own and value.shape != own[name].shape]
    for name in others:
        sizes = f"{name} is {_shape(taken[name])} there and {_shape(own[name])} in the network"
        if name.startswith(target.in_head):
            raise RequestError(f"the head of {where} can't be kept: {sizes}", _NEW_HEAD)
        if not target.partial:
            raise RequestError(f"{where} are another network's: {sizes}", OTHER_NETWORK)
    return [f"{name} {_shape(taken.pop(name))}" for name in others]


def _reorder(model: nn.Module, taken: OrderedDict[str, Tensor], target: Target) -> None:
    """Put the rows of the head's last layers into the order of the network's classes."""
    assert target.order is not None, "load_into asks only where there is one"
    rows = list(target.order)
    for layer in target.head:
        module = model.get_submodule(layer)
        last = f"{layer}.{len(module) - 1}" if isinstance(module, nn.Sequential) else layer
        for name, value in taken.items():
            if name.rpartition(".")[0] == last and value.ndim and len(value) == len(rows):
                taken[name] = value[rows]


def _versions(model: nn.Module, state: Mapping[str, Tensor], naming: Naming) -> dict[str, Any]:
    """The versions of the modules that wrote the file, where it tells; else the network's own version."""
    written = getattr(state, "_metadata", None)
    if not written:
        return {"": {"version": getattr(model, "_version", 1)}}
    return {"": {}} | {naming.module(key): value for key, value in written.items()}


def _load(
    model: nn.Module, taken: OrderedDict[str, Tensor], versions: dict[str, Any], where: str
) -> tuple[list[str], list[str]]:
    """Copy the tensors, by way of the modules' own understanding of older names; names missing and unexpected."""
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
    """Stop where the classifier that is to be kept isn't there, or, unless a part will do, something of the body."""
    absent = [name for name in missing if name.startswith(target.in_head[0])]
    if target.keep_head and absent:
        hidden = unexpected.get(f"{target.head[0]}.0.weight")
        fix = _NEW_HEAD if hidden is None else f"give --head-hidden {len(hidden)}, or {_NEW_HEAD}"
        raise RequestError(f"the head of {where} can't be kept: {absent[0]} isn't there", fix)
    fit = compare(model, target.groups, missing, unexpected, target.in_head)
    if not target.partial:
        fit.require(where)
    return fit


def restore_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network all of its tensors, as one built alike had them.

    Files don't keep the versions of the modules, without which some refuse to load: the state is that of the
    modules as they are now.

    Raises:
        RuntimeError: A tensor is missing, has no place, or another shape.
    """
    taken = OrderedDict(state)
    taken._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(taken, strict=True)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
