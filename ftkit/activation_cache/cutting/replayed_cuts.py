"""Cuts by replaying the network's own forward pass.

The modules before the cut return values of the shape that they were recorded with, at no cost; those at the cut return
the activations; all after it compute and train. What the network computes between them, outside modules, is computed
each time. This is right where the outputs depend on the first modules through the activations at the cut alone, which
is tried: with NaN and other values in place of all that isn't given, the outputs must stay the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ftkit.activation_cache.cutting.cut import Cut, NoCutError, faults
from ftkit.activation_cache.cutting.places import (
    Mode,
    Place,
    Places,
    late_modules,
    outer_calls,
    packing_of,
    replayed,
)
from ftkit.activation_cache.cutting.proof import Prover, trial_images
from ftkit.activation_cache.cutting.recording import Calls, record
from ftkit.activation_cache.cutting.replay_parts import make_prefix, make_suffix
from ftkit.activation_cache.cutting.stand_ins import Script
from ftkit.activation_cache.cutting.trace import attributes_restored
from ftkit.models.compute.memory_format import preserve_state
from ftkit.models.identity import modules_identity
from ftkit.models.parameter_groups import Modes, modes_of

_DEEPEST = 6
"""Places that are proved, from the best one on."""


class ReplayedCuts:
    """Finds cuts of one network, for each set of trainable layers; arguments and methods are those of `TracedCuts`."""

    def __init__(self, network: nn.Module, sample: Tensor, autocast: Any) -> None:
        self._network = network
        self._trials = trial_images(sample)
        self._autocast = autocast
        self._prover = Prover(network, self._trials, autocast)
        self._places = Places(network, sample, autocast)
        self._prefixes: dict[tuple[str, ...], nn.Module] = {}

    def cut(self, modes: Modes) -> Cut:
        """As `TracedCuts.cut`."""
        try:
            with self._unchanged():
                evaluation = Mode(self._record_eval(), self._network.eval)
                modes.apply()
                with torch.enable_grad(), faults("it can't be replayed"):
                    calls = record(self._network, self._trials, self._autocast())
                return self._best([Mode(calls, modes.apply), evaluation])
        finally:
            modes.apply()

    def cut_at(self, name: str) -> Cut:
        """As `TracedCuts.cut_at`."""
        with self._unchanged(), faults(f"it can't be cut after {name}"):
            evaluation = Mode(self._record_eval(), self._network.eval)
            place = self._places.place(packing_of(name, self._eval).leaves[-1].key, [evaluation])
            if place.name != name:
                raise NoCutError(f"it can't be cut after {name}")
            return self._proved(place, [evaluation])

    def depth(self, name: str) -> int:
        """As `TracedCuts.depth`."""
        try:
            return self._eval[packing_of(name, self._eval).leaves[-1].key].order
        except NoCutError:
            return -1

    def prefix(self, names: Sequence[str]) -> nn.Module:
        """As `TracedCuts.prefix`."""
        key = tuple(names)
        if key not in self._prefixes:
            packings = [packing_of(name, self._eval) for name in names]
            late = [late_modules(self._eval, packing.leaves[-1].key) for packing in packings]
            self._prefixes[key] = make_prefix(self._network, packings, frozenset.intersection(*late))
        self._prefixes[key].eval()
        return self._prefixes[key]

    def state(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """As `TracedCuts.state`."""
        prefix, end = self.prefix([name]), packing_of(name, self._eval).leaves[-1].key
        running = ["", *(call.key.path for call in outer_calls(self._eval[end]))]
        own = {
            f"{path}.{own}".lstrip("."): parameter
            for path in running
            for own, parameter in self._network.get_submodule(path)._parameters.items()
            if parameter is not None
        }
        modes = modes_of(self._network)
        try:
            with self._unchanged():
                skipped = set(self._prover.unaffecting(prefix, ({path: value} for path, value in own.items())))
        finally:
            modes.apply()
        named = sorted(prefix.named_parameters(remove_duplicate=False))
        yield from ((path, value) for path, value in named if path not in skipped)
        yield from sorted(prefix.named_buffers(remove_duplicate=False))

    def identity(self, name: str) -> str:
        """As `TracedCuts.identity`."""
        end = packing_of(name, self._eval).leaves[-1].key
        late, last = late_modules(self._eval, end), self._eval[end].order
        program = [name, [list(key) for key, call in self._eval.items() if call.order <= last]]
        below = tuple(f"{path}." for path in late)
        modules = {
            path: module
            for path, module in self._network.named_modules()
            if path not in late and not path.startswith(below)
        }
        modes = modes_of(self._network)
        try:
            # A network may keep tensors computed from its weights in eval mode; train() drops them.
            self._network.train().eval()
            return modules_identity(modules, program)
        finally:
            modes.apply()

    @cached_property
    def _eval(self) -> Calls:
        """The calls in evaluation, without the values, which take as much memory as training on the trial images."""
        modes = modes_of(self._network)
        try:
            with self._unchanged():
                calls = self._record_eval()
        finally:
            modes.apply()
        for call in calls.values():
            call.values.clear()
        return calls

    def _record_eval(self) -> Calls:
        self._network.train().eval()
        with torch.no_grad(), faults("it can't be replayed"):
            return record(self._network, self._trials, self._autocast())

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        with preserve_state(self._network), attributes_restored(self._network):
            yield

    def _best(self, modes: Sequence[Mode]) -> Cut:
        """The cut at the first candidate that is proved."""
        failed: list[NoCutError] = []
        with faults("it can't be replayed"):
            for place in self._places.candidates(modes):
                try:
                    with faults(f"the parts at {place.name} can't be computed"):
                        return self._proved(place, modes)
                except NoCutError as error:
                    failed.append(error)
                if len(failed) == _DEEPEST:
                    break
        raise failed[0]

    def _proved(self, place: Place, modes: Sequence[Mode]) -> Cut:
        """The cut at a place.

        Args:
            modes: Training and evaluation, or evaluation alone.

        Raises:
            NoCutError: The parts don't compute what the network computes.
        """
        training = len(modes) > 1
        rows = self._prover.rows(place.name, self.prefix([place.name]), training)
        if rows[0].shape[1:] != place.packing.shape or rows[0].dtype != place.packing.specs[0].dtype:
            raise NoCutError(f"{place.name} has another output alone")
        suffixes = [self._suffix(place, mode, rows, training) for mode in modes]
        if training:
            modes[0].apply()
            self._prover.same_gradients(place.name, rows[0], suffixes[0])
        (order,) = (self._eval[leaf.key].order for leaf in place.packing.leaves[-1:])
        dtype = place.packing.specs[0].dtype
        return Cut(place.name, order, suffixes[0], suffixes[-1], place.packing.shape, dtype)

    def _suffix(self, place: Place, mode: Mode, rows: Sequence[Tensor], training: bool) -> nn.Module:
        outputs = replayed(mode.calls, place.end, place.live)
        parts = [self._network.get_submodule(key.path) for key in outputs]
        if training and any(parameter.requires_grad for part in parts for parameter in part.parameters()):
            raise NoCutError(f"in evaluation, layers that train come before {place.name}")
        mode.apply()

        def make(fill: float, dense: bool) -> nn.Module:
            return make_suffix(self._network, Script(outputs, fill, dense), place.packing, self._trials[0])

        return self._prover.suffix(place.name, rows, make)
