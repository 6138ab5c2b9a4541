"""Where a network that is replayed can be cut, and which activations its outputs depend on there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cutting.cut import NoCutError
from ftkit.activation_cache.cutting.recording import Call, Calls, Key, Output, TensorSpec
from ftkit.activation_cache.cutting.replay_parts import IMAGES, Packing, make_suffix
from ftkit.activation_cache.cutting.stand_ins import Leaf, Script
from ftkit.models.logits import split_outputs

MOST_PLACES = 12
"""Places that are tried, from the deepest on, until one needs a single tensor."""
MOST_LEAVES = 6
"""Tensors that may be stored at a cut, of a network with branches."""
_LEAF = re.compile(r"(.+)\(\)(?:#(\d+))?(?:\[(\d+)\])?(?:\[:, (\d+):(\d+)\])?")

Range = tuple[int, int]


@dataclass(frozen=True)
class Mode:
    """A mode of the network.

    Attributes:
        calls: Recorded in it.
        apply: Puts the network into it.
    """

    calls: Calls
    apply: Callable[[], object]


@dataclass(frozen=True)
class Place:
    """Where a network can be cut.

    Attributes:
        end: The last call that isn't made any more.
        live: Calls before it that are made all the same.
        packing: The activations that the outputs depend on.
    """

    end: Key
    live: frozenset[Key]
    packing: Packing

    @property
    def name(self) -> str:
        """The calls that return the activations: `encoder.layers.3()`."""
        return " + ".join(map(_text, self.packing.leaves, self.packing.ranges))

    @property
    def nbytes(self) -> int:
        """Bytes of one image's activations."""
        return torch.Size(self.packing.shape).numel() * self.packing.specs[0].dtype.itemsize


@dataclass(frozen=True)
class Places:
    """Finds places.

    Attributes:
        images: To find what the outputs depend on.
        autocast: Returns the context that the network computes in.
    """

    network: nn.Module
    images: Tensor
    autocast: Callable[[], Any]

    def candidates(self, modes: Sequence[Mode]) -> Iterator[Place]:
        """Places in the order in which they should be used.

        The deepest that needs one tensor; before it deeper ones that need several, if they aren't twice as large.

        Args:
            modes: Training and evaluation.

        Raises:
            NoCutError: There is none.
        """
        training, evaluation = (mode.calls for mode in modes)
        ends = [key for key, call in training.items() if call.fixed and key in evaluation]
        if not ends:
            raise NoCutError("its first layers train, or draw random numbers")
        wide: list[Place] = []
        reason = NoCutError("later layers use too many outputs of the frozen ones")
        found = False
        for end in ends[: -MOST_PLACES - 1 : -1]:
            try:
                place = self.place(end, modes)
            except NoCutError as error:
                reason = error
                continue
            if len(place.packing.leaves) > 1:
                wide.append(place)
                continue
            yield from (each for each in wide if each.nbytes < 2 * place.nbytes)
            yield place
            wide, found = [], True
        yield from wide
        if not found and not wide:
            raise reason

    def place(self, end: Key, modes: Sequence[Mode]) -> Place:
        """The place behind a call.

        Args:
            modes: All in which the network will be cut there.

        Raises:
            NoCutError: It can't be cut there.
        """
        live: frozenset[Key] = frozenset()
        while True:
            needed: dict[Leaf, Range | None] = {}
            for mode in modes:
                mode.apply()
                for leaf, span in self._needed(end, mode.calls, live).items():
                    needed[leaf] = _union(needed.get(leaf, span), span)
            calls = modes[-1].calls
            specs = [described(calls, leaf.key).tensors[leaf.place] for leaf in needed]
            # Tables of position biases, for example, have no row for an image; their layers compute each time.
            bare = {leaf.key for leaf, spec in zip(needed, specs, strict=True) if not spec.scales}
            if not bare:
                break
            live |= bare
        if not 0 < len(needed) <= MOST_LEAVES:
            raise NoCutError("later layers use too many outputs of the frozen ones")
        if not all(spec.is_batched for spec in specs) or len({spec.dtype for spec in specs}) > 1:
            raise NoCutError(f"the output of {end.path} isn't one row an image")
        return Place(end, live, _packing(needed, calls))

    def _needed(self, end: Key, calls: Calls, live: Set[Key]) -> dict[Leaf, Range | None]:
        """The tensors that the outputs depend on, of those that the calls up to `end` return, with their ranges."""
        outputs = replayed(calls, end, live)
        leaves = [
            Leaf(key, place)
            for key, output in outputs.items()
            for place, spec in output.tensors.items()
            if spec.dtype.is_floating_point
        ]
        sources = {leaf: calls[leaf.key].values[leaf.place].detach().clone() for leaf in leaves}
        sources[IMAGES] = self.images.detach().clone()
        suffix = make_suffix(self.network, Script(outputs), None, self.images)
        with torch.enable_grad():
            for value in sources.values():
                value.requires_grad_()
            with self.autocast():
                logits, auxiliary = split_outputs(suffix({leaf: value.clone() for leaf, value in sources.items()}))
                total = torch.stack([value.sum() for value in (logits, *auxiliary)]).sum()
            found = torch.autograd.grad(total, list(sources.values()), allow_unused=True)
        needed = {leaf: grad for leaf, grad in zip(sources, found, strict=True) if grad is not None}
        if IMAGES in needed:
            raise NoCutError("later layers use the images themselves")
        return {leaf: _range(grad, described(calls, leaf.key).tensors[leaf.place]) for leaf, grad in needed.items()}


def replayed(calls: Calls, end: Key, live: Set[Key]) -> Mapping[Key, Output]:
    """The calls up to `end` that aren't made, except those within another one.

    Raises:
        NoCutError: A module was called before, and runs at the end.
    """
    last = calls[end].order
    found: dict[Key, Output] = {}
    for key, call in calls.items():
        if call.order > last:
            break
        covered = any(outer.order <= last and outer.output is not None for outer in outer_calls(call))
        if call.output is not None and key not in live and not covered and not _is_table(call.output):
            found[key] = call.output
    running = {call.key.path for call in outer_calls(calls[end])}
    if running & {key.path for key in found}:
        raise NoCutError(f"{end.path} runs within a layer that ran before")
    return found


def outer_calls(call: Call) -> Iterator[Call]:
    """The calls in which a call was made."""
    while call.outer is not None:
        call = call.outer
        yield call


def late_modules(calls: Calls, end: Key) -> frozenset[str]:
    """Modules that are called, but not before a call finishes."""
    last = calls[end].order
    early = {key.path for key, call in calls.items() if call.order <= last}
    running = {call.key.path for call in outer_calls(calls[end])}
    return frozenset({key.path for key in calls} - early - running)


def described(calls: Calls, key: Key) -> Output:
    """What a call returns.

    Raises:
        NoCutError: There is no such call, or it can't be described.
    """
    output = calls[key].output if key in calls else None
    if output is None:
        raise NoCutError(f"{key.path} isn't called, or returns other objects than tensors")
    return output


def packing_of(name: str, calls: Calls) -> Packing:
    """The activations of the place with a name.

    Raises:
        NoCutError: There are none.
    """
    found = dict(_leaf(text) for text in name.split(" + "))
    if any(leaf.place not in described(calls, leaf.key).tensors for leaf in found):
        raise NoCutError(f"there is no output {name}")
    return _packing(found, calls)


def _packing(needed: Mapping[Leaf, Range | None], calls: Calls) -> Packing:
    leaves = sorted(needed, key=lambda leaf: (calls[leaf.key].order, leaf.place))
    specs = [described(calls, leaf.key).tensors[leaf.place] for leaf in leaves]
    return Packing(tuple(leaves), tuple(specs), tuple(needed[leaf] for leaf in leaves))


def _range(gradient: Tensor, spec: TensorSpec) -> Range | None:
    """The tokens that the outputs depend on, `(images, tokens, channels)`; None where they are more than half."""
    if gradient.ndim != 3 or spec.sizes[0] != (1, True):
        return None
    used = (gradient != 0).any(2).any(0).nonzero().flatten().tolist()
    if not used or 2 * (used[-1] + 1 - used[0]) > gradient.shape[1]:
        return None
    return used[0], used[-1] + 1


def _union(one: Range | None, other: Range | None) -> Range | None:
    return None if one is None or other is None else (min(one[0], other[0]), max(one[1], other[1]))


def _is_table(output: Output) -> bool:
    """Whether it has whole numbers or truth values that don't depend on images, such as positions."""
    return any(not spec.dtype.is_floating_point and not spec.scales for spec in output.tensors.values())


def _text(leaf: Leaf, span: Range | None) -> str:
    number = f"#{leaf.key.number}" if leaf.key.number else ""
    place = f"[{leaf.place}]" if leaf.place else ""
    return f"{leaf.key.path}(){number}{place}" + (f"[:, {span[0]}:{span[1]}]" if span else "")


def _leaf(text: str) -> tuple[Leaf, Range | None]:
    found = _LEAF.fullmatch(text)
    if found is None:
        raise NoCutError(f"there is no output {text}")
    leaf = Leaf(Key(found[1], int(found[2] or 0)), int(found[3] or 0))
    return leaf, (int(found[4]), int(found[5])) if found[4] else None
