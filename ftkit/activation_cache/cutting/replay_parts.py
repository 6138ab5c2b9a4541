"""The two parts of a network that is replayed: the prefix, which stops at the cut, and the suffix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ftkit.activation_cache.cutting.recording import Key, TensorSpec
from ftkit.activation_cache.cutting.stand_ins import (
    Leaf,
    Pass,
    Passes,
    Script,
    Tapped,
    filler,
    mixed,
    replaced,
    shallow_copy,
    stand_in,
)
from ftkit.errors import FtkitError


@dataclass(frozen=True)
class Packing:
    """How the activations at a cut are stored: one row an image.

    Attributes:
        leaves: The tensors, in the order in which they were computed.
        specs: Their shapes.
        ranges: Of each, the entries of the second dimension that are stored, such as a class token; None for all.
    """

    leaves: tuple[Leaf, ...]
    specs: tuple[TensorSpec, ...]
    ranges: tuple[tuple[int, int] | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        shapes = [self._row_shape(place) for place in range(len(self.leaves))]
        return shapes[0] if self._is_plain else (sum(torch.Size(shape).numel() for shape in shapes),)

    def pack(self, values: Mapping[Leaf, Tensor], images: int) -> Tensor:
        """Rows `(images, *shape)`."""
        parts = []
        for leaf, spec, span in zip(self.leaves, self.specs, self.ranges, strict=True):
            value = values[leaf].movedim(_scaled(spec), 0)
            parts.append(value if span is None else value[:, slice(*span)])
        return parts[0] if self._is_plain else torch.cat([part.reshape(images, -1) for part in parts], 1)

    def unpack(self, rows: Tensor, script: Script) -> dict[Leaf, Tensor]:
        """The tensors of rows; what isn't stored is filled."""
        widths = [torch.Size(self._row_shape(place)).numel() for place in range(len(self.leaves))]
        parts = [rows] if self._is_plain else torch.split(rows, widths, 1)
        return {leaf: self._unpacked(place, parts[place], script) for place, leaf in enumerate(self.leaves)}

    @property
    def _is_plain(self) -> bool:
        """Whether there is only one tensor, with one entry an image in its first dimension."""
        return len(self.specs) == 1 and self.specs[0].sizes[0] == (1, True)

    def _row_shape(self, place: int) -> tuple[int, ...]:
        spec, span = self.specs[place], self.ranges[place]
        shape = list(spec.shape(1))
        if spec.sizes[0] == (1, True):
            del shape[0]
        if span is not None:
            shape[0] = span[1] - span[0]
        return tuple(shape)

    def _unpacked(self, place: int, part: Tensor, script: Script) -> Tensor:
        spec, span = self.specs[place], self.ranges[place]
        shape, scaled = list(spec.shape(len(part))), _scaled(spec)
        if span is not None:
            part = part.reshape(shape[0], span[1] - span[0], *shape[2:])
            sides = [(shape[0], size, *shape[2:]) for size in (span[0], shape[1] - span[1])]
            before, after = (filler(side, part.dtype, part.device, script) for side in sides)
            return torch.cat([before, part, after], 1)
        return part.reshape(shape.pop(scaled), *shape).movedim(0, scaled)


def _scaled(spec: TensorSpec) -> int:
    return next(place for place, (_, scales) in enumerate(spec.sizes) if scales)


class Suffix(nn.Module):
    """Mixed into the class of a network: it takes rows of activations in place of images."""

    def forward(self, rows: Tensor | Mapping[Leaf, Tensor]) -> Any:
        """The network's outputs.

        Args:
            rows: As `Packing.pack` returns them; to find the packing, the images and any activations by leaf.
        """
        own = self.__dict__
        script: Script = own["_script"]
        if isinstance(rows, Tensor):
            spec: TensorSpec = own["_images"]
            state = script.passes.begin(Pass(len(rows), own["_packing"].unpack(rows, script)))
            images = filler(spec.shape(state.images), spec.dtype, rows.device, script)
        else:
            values = dict(rows)
            images = values.pop(IMAGES)
            script.passes.begin(Pass(len(images), values))
        inner = own["_inner"]
        return inner(images) if inner is not None else super().forward(images)


IMAGES = Leaf(Key("", 0), 0)


def make_suffix(network: nn.Module, script: Script, packing: Packing | None, images: Tensor) -> nn.Module:
    """The part after a cut.

    Args:
        images: Any, for their shape.
    """
    paths = {key.path for key in script.outputs}

    def change(path: str, module: nn.Module, inner: Callable[[], nn.Module]) -> nn.Module:
        return stand_in(path, module, script, images.device) if path in paths else inner()

    spec = TensorSpec(((1, True), *((size, False) for size in images.shape[1:])), images.dtype)
    return _as_root(replaced(network, change), Suffix, _script=script, _packing=packing, _images=spec)


def _as_root(network: nn.Module, mixin: type[nn.Module], **attributes: Any) -> nn.Module:
    """A copy of a network with the forward pass of a mixin; `_inner` is one that only this network has."""
    root = shallow_copy(network, mixed(mixin, type(network)), **attributes)
    vars(root)["_inner"] = vars(root).pop("forward", None)
    return root


class _Finished(BaseException):
    """All activations are computed. Not an Exception, since networks may catch those."""


class Prefix(nn.Module):
    """Mixed into the class of a network: it computes rows of activations at some cuts, as a tuple."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The rows of each cut.

        Raises:
            FtkitError: The network didn't come by a cut.
        """
        own = self.__dict__
        state = own["_passes"].begin(Pass(len(images)))
        inner = own["_inner"]
        try:
            inner(images) if inner is not None else super().forward(images)
        except _Finished:
            return tuple(state.done[number] for number in range(len(state.done)))
        raise FtkitError("the network doesn't run its layers in the order that was recorded", "use --no-cache")


class Taps:
    """Keeps what the cuts need.

    Args:
        packings: One a cut.
    """

    def __init__(self, packings: Sequence[Packing]) -> None:
        self._packings = packings
        self.keys = {leaf.key for packing in packings for leaf in packing.leaves}

    def finished(self, key: Key, returned: Any, state: Pass) -> None:
        """Called after each call of a module that a cut needs."""
        if key not in self.keys:
            return
        state.found |= {Leaf(key, place): value for place, value in enumerate(pytree.tree_leaves(returned))}
        ended = [number for number, packing in enumerate(self._packings) if packing.leaves[-1].key == key]
        for number in ended:
            state.done[number] = self._packings[number].pack(state.found, state.images)
        if len(state.done) == len(self._packings):
            raise _Finished
        for number in ended:
            # Later layers may change them in place.
            state.done[number] = state.done[number].clone()


def make_prefix(network: nn.Module, packings: Sequence[Packing], unused: Set[str]) -> nn.Module:
    """The part before some cuts.

    Args:
        unused: Names of modules that aren't needed; their parameters aren't those of the prefix.
    """
    taps, passes = Taps(packings), Passes()
    paths = {key.path for key in taps.keys}
    nothing = Script({})

    def change(path: str, module: nn.Module, inner: Callable[[], nn.Module]) -> nn.Module:
        if path in unused:
            return stand_in(path, module, nothing, torch.device("cpu"))
        kept = inner()
        return (
            shallow_copy(kept, mixed(Tapped, type(module)), _path=path, _taps=taps, _passes=passes)
            if path in paths
            else kept
        )

    return _as_root(replaced(network, change), Prefix, _taps=taps, _passes=passes)
