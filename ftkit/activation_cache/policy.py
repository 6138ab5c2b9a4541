"""Which phases of a run train on cached activations: pure arithmetic on the schedule and the sizes at the cuts.

Of an image, `views` versions are cached: the first as evaluation sees it, the others augmented. Epoch e trains on
view e modulo the number of views. One pass over a view fills the caches of all later phases too, whose cuts lie
nearer to the input; but not of those before which something is trained in between.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ftkit.parts.backbone import Backbone, LayerGroup
from ftkit.strategies.schedule import Phase

NO_GAIN = "each cached augmentation would be used in one epoch only"


@dataclass(frozen=True)
class CutSize:
    """Where a phase can be cut.

    Attributes:
        name: Of the last layer before the cut.
        depth: Of two cuts, the one with the greater depth is computed through the other.
        nbytes: Of one image's value.
    """

    name: str
    depth: int
    nbytes: int


@dataclass(frozen=True)
class Use:
    """What a phase takes from the cache.

    Attributes:
        cut: None where the phase is trained the ordinary way.
        views: Of training images.
        nbytes: On disk, training and validation images together.
        passes: Over the training images, that the phase itself makes to fill it; the others are saved.
        reason: Why it is trained the ordinary way; empty where it isn't.
    """

    cut: CutSize | None = None
    variants: tuple[int, ...] = ()
    nbytes: int = 0
    passes: int = 0
    reason: str = ""


def entering(
    backbone: Backbone, groups: Sequence[LayerGroup], trainable: Set[str], scale: float, width: int
) -> CutSize | str | None:
    """Where a phase would be cut by a backbone's own account: before the first group that trains.

    Args:
        scale: Pixels of an image as a part of those of the backbone's default.
        width: Bytes of a value.

    Returns:
        The reason where there is no such place; None where it isn't known.
    """
    lowest = min(number for number, group in enumerate(groups) if group.name in trainable)
    name = groups[lowest].name
    if not lowest:
        return "its first layers train"
    if backbone.summary is None or tuple(groups) != backbone.groups:
        return None
    elements = backbone.summary.groups[name].entering * scale
    if name == groups[-1].name:
        elements = backbone.summary.head_inputs[0]
    return CutSize(name, lowest, width * round(elements)) if elements else None


def variants_of(phase: Phase, variants: int, drawn: bool) -> tuple[int, ...]:
    """The views that a phase trains on.

    Args:
        drawn: Images are drawn with replacement, and the second one in an epoch takes the next view.
    """
    return tuple(range(variants)) if drawn else tuple(sorted({e % variants for e in range(phase.start, phase.stop)}))


def decide(
    phases: Sequence[Phase],
    cuts: Sequence[CutSize | str],
    probe: CutSize | None,
    images: int,
    others: int,
    variants: int,
    drawn: bool,
    limit: int,
) -> tuple[Use, ...]:
    """Use the cache in each phase where it saves passes, there or later, and fits.

    Phases that train first, and whose cuts are the deepest and smallest, are served first.

    Args:
        cuts: One a phase, or the reason why there is none.
        probe: Where the probe is cut, which computes the first view of all images.
        images: To train on.
        others: To validate on.
        limit: Bytes that all of it may take.
    """
    budget = _Budget(images, others, limit)
    if probe is not None:
        budget.take(probe, (0,))
    wanted = [variants_of(phase, variants, drawn) for phase in phases]
    uses: list[Use] = []
    for number, (phase, cut) in enumerate(zip(phases, cuts, strict=True)):
        use = Use(reason=cut) if isinstance(cut, str) else _use(phase, cut, wanted, cuts, number, budget)
        if use.cut is not None:
            budget.take(use.cut, use.variants)
        budget.train_behind(cut)
        uses.append(use)
    return tuple(uses)


def _use(
    phase: Phase,
    cut: CutSize,
    wanted: Sequence[Sequence[int]],
    cuts: Sequence[CutSize | str],
    number: int,
    budget: _Budget,
) -> Use:
    """What the phase of a number takes, whose cut is there."""
    variants = tuple(wanted[number])
    nbytes, new = budget.cost(cut, variants)
    if len(new) >= phase.stop - phase.start and not set(new) & _served(cut, wanted, cuts, number):
        return Use(reason=NO_GAIN)
    if nbytes > budget.left:
        return Use(reason=f"{nbytes / 1e6:,.1f} MB at {cut.name} would pass the limit")
    return Use(cut, variants, nbytes, len(new))


def _served(cut: CutSize, wanted: Sequence[Sequence[int]], cuts: Sequence[CutSize | str], number: int) -> set[int]:
    """Views that later phases take from the passes of this one, until what lies before their cuts is trained."""
    found: set[int] = set()
    lowest = cut.depth
    for later in range(number + 1, len(cuts)):
        other = cuts[later]
        if isinstance(other, str):
            break
        if other.depth <= lowest:
            found |= set(wanted[later])
        lowest = min(lowest, other.depth)
    return found


class _Budget:
    """What is cached so far, and how many bytes are left."""

    def __init__(self, images: int, others: int, limit: int) -> None:
        self.images, self.others, self.left = images, others, limit
        self._kept: dict[str, tuple[int, set[int]]] = {}
        self._passes: list[tuple[int, frozenset[int]]] = []

    def cost(self, cut: CutSize, variants: Sequence[int]) -> tuple[int, list[int]]:
        """Bytes that a cut would take, and the views that take a pass of their own to compute."""
        _, kept = self._kept.get(cut.name, (0, None))
        fresh = [variant for variant in variants if variant not in (kept or ())]
        nbytes = cut.nbytes * (self.images * len(fresh) + (self.others if kept is None else 0))
        by_others = {variant for depth, some in self._passes if depth >= cut.depth for variant in some}
        return nbytes, [variant for variant in fresh if variant not in by_others]

    def train_behind(self, cut: CutSize | str) -> None:
        """Forget the values that depend on what a phase with this cut has trained."""
        depth = cut.depth if isinstance(cut, CutSize) else -1
        self._kept = {name: kept for name, kept in self._kept.items() if kept[0] <= depth}
        # What they have put into the tables of cuts nearer to the input is still right.
        self._passes = [(min(deep, depth), variants) for deep, variants in self._passes]

    def take(self, cut: CutSize, variants: Sequence[int]) -> None:
        """Cache a cut's views."""
        self.left -= self.cost(cut, variants)[0]
        self._kept.setdefault(cut.name, (cut.depth, set()))[1].update(variants)
        self._passes.append((cut.depth, frozenset(variants)))
