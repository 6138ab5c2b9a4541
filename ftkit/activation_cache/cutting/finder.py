"""Finds cuts of a network, by its graph or by replaying it, whichever saves more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor, nn

from ftkit.activation_cache.cutting.cut import Cut, NoCutError
from ftkit.activation_cache.cutting.replayed_cuts import ReplayedCuts
from ftkit.activation_cache.cutting.traced_cuts import TracedCuts
from ftkit.models.parameter_groups import Modes


class Way(Protocol):
    """A way to cut a network; `TracedCuts` documents the methods."""

    def cut(self, modes: Modes) -> Cut: ...
    def cut_at(self, name: str) -> Cut: ...
    def depth(self, name: str) -> int: ...
    def prefix(self, names: Sequence[str]) -> nn.Module: ...
    def state(self, name: str) -> Iterator[tuple[str, Tensor]]: ...
    def identity(self, name: str) -> str: ...


def is_replayed(name: str) -> bool:
    """Whether a cut was found by replaying: it is named for a call."""
    return "()" in name


class CutFinder:
    """Finds cuts of one network, for each set of trainable layers.

    Args:
        sample: Images to try the parts on, `(2, channels, size, size)`, on the network's device.
        autocast: Returns the context that the network computes in.
    """

    def __init__(self, network: nn.Module, sample: Tensor, autocast: Any) -> None:
        self._network, self._sample, self._autocast = network, sample, autocast

    def cut(self, modes: Modes) -> Cut:
        """The best cut for the layers that train now.

        Args:
            modes: Of the phase, as `set_trainable` gives them; they are in force again afterwards.

        Raises:
            NoCutError: No layer comes before all that trains, or the parts don't compute what the network computes.
        """
        (cut,) = self.cuts([lambda: modes])
        if isinstance(cut, str):
            raise NoCutError(cut)
        return cut

    def cuts(self, phases: Sequence[Callable[[], Modes]]) -> list[Cut | str]:
        """The cut of each phase, or the reason why there is none. All are found in the same way.

        One pass fills the tables of several phases, so it must come by all their cuts. A network is replayed where its
        graph leaves frozen layers behind a cut.

        Args:
            phases: Each sets the network for a phase, and returns its modes.
        """
        traced, complete = self._found(lambda: self._traced, phases)
        if complete:
            return traced
        again, _ = self._found(lambda: self._replayed, phases)
        # Where there is no cut at all, replaying gives the better reasons.
        return max(traced, again, key=self._worth) if any(isinstance(cut, Cut) for cut in traced) else again

    def cut_at(self, name: str) -> Cut:
        """The cut after a layer of a network that is only evaluated; both suffixes are the same.

        Raises:
            NoCutError: It can't be cut there.
        """
        return self._way(name).cut_at(name)

    def depth(self, name: str) -> int:
        """Position of a layer in evaluation; -1 where there is no such layer. Comparable within one way."""
        try:
            return self._way(name).depth(name)
        except NoCutError:
            return -1

    def prefix(self, names: Sequence[str]) -> nn.Module:
        """The part of the network that computes the activations at some cuts, as a tuple in their order; in eval mode.

        Raises:
            NoCutError: It can't be extracted from the network.
        """
        return self._way(names[0]).prefix(names)

    def state(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Names and values of a prefix's parameters and buffers, including those that no state dict holds."""
        return self._way(name).state(name)

    def identity(self, name: str) -> str:
        """Digest of all else that a prefix computes with: program, modules and their settings."""
        return self._way(name).identity(name)

    def _way(self, name: str) -> Way:
        return self._replayed if is_replayed(name) else self._traced

    def _found(self, way: Callable[[], Way], phases: Sequence[Callable[[], Modes]]) -> tuple[list[Cut | str], bool]:
        """The cuts, and whether all frozen layers come before them."""
        found: list[Cut | str] = []
        complete = True
        for phase in phases:
            modes = phase()
            try:
                found.append(cut := way().cut(modes))
                before = {id(parameter) for parameter in self.prefix([cut.name]).parameters()}
                frozen = {id(parameter) for parameter in self._network.parameters() if not parameter.requires_grad}
                complete = complete and frozen <= before
            except NoCutError as error:
                found.append(str(error))
                complete = False
            finally:
                modes.apply()
        return found, complete

    def _worth(self, cuts: Sequence[Cut | str]) -> tuple[int, int, int]:
        """How many phases have a cut, how many parameters come before the cuts, and their size."""
        found = [cut for cut in cuts if isinstance(cut, Cut)]
        before = sum(value.numel() for cut in found for value in self.prefix([cut.name]).parameters())
        return len(found), before, -sum(cut.nbytes for cut in found)

    @property
    def _traced(self) -> TracedCuts:
        found = self._trace
        if isinstance(found, NoCutError):
            raise found
        return found

    @cached_property
    def _trace(self) -> TracedCuts | NoCutError:
        try:
            return TracedCuts(self._network, self._sample, self._autocast)
        except NoCutError as error:
            return error

    @cached_property
    def _replayed(self) -> ReplayedCuts:
        return ReplayedCuts(self._network, self._sample, self._autocast)
