"""Whether activations may be cached, and whether that saves time: the one module that decides it, for plan and run.

`variants` versions of a training image are cached: variant 0 is the image without augmentation, the others are
augmented. Epoch e trains on variant e modulo their number. One pass over a variant also fills the tables of later
phases, whose cuts lie nearer to the input, except those of phases that come after the layers between have trained.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

from ftkit.parts.backbone import Backbone, LayerGroup
from ftkit.strategies.schedule import Phase

NO_GAIN = "each cached augmentation would be used in one epoch only"
EVERYTHING_TRAINS = "every layer group trains"
LARGEST = 4
"""Outside a training: bytes that an activation may take per byte of its image. Larger ones take as long to write as to
compute, and fill the folder. Tables that a run has filled are read all the same."""


@dataclass(frozen=True)
class CutSize:
    """A place where a phase's network can be cut.

    Attributes:
        name: The last layer before the cut.
        depth: Position in the network; the activations at a deeper cut are computed through those at the others.
        nbytes: Bytes of one image's activations.
    """

    name: str
    depth: int
    nbytes: int


@dataclass(frozen=True)
class Use:
    """What a phase reads from the cache.

    Attributes:
        cut: None where the phase trains uncached.
        variants: The numbers of the versions of each training image that the phase reads.
        nbytes: Disk space in bytes, for training and validation images together.
        passes: The passes over the training images by which the phase itself fills the cache.
        reason: Why the phase trains uncached; empty where it is cached.
    """

    cut: CutSize | None = None
    variants: tuple[int, ...] = ()
    nbytes: int = 0
    passes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class CachePolicy:
    """What decides about the cache in a run, apart from where its network can be cut.

    Attributes:
        enabled: `cache.use`.
        augmentations: `cache.augmentations`.
        limit: Bytes that the cache may take.
        sharded: Each process holds a shard of the weights (`fsdp`).
        train_bn: BatchNorm statistics of frozen layers are updated.
        augmented: Training images are changed at random.
        batch_transforms: Names of the batch transforms.
        taught: A teacher computes its outputs from the images of each step.
        resampled: Images are drawn with replacement.
        train_images, val_images: Numbers of images.
        probe: The head is solved first, on variant 0 of all images.
        groups: Names of the layer groups.
        phases: The phases of the schedule.
    """

    phases: tuple[Phase, ...]
    groups: tuple[str, ...]
    train_images: int
    val_images: int
    limit: int
    enabled: bool = True
    augmentations: int = 1
    sharded: bool = False
    train_bn: bool = False
    augmented: bool = True
    batch_transforms: tuple[str, ...] = ()
    taught: bool = False
    resampled: bool = False
    probe: bool = False

    @cached_property
    def disabled(self) -> str:
        """Why nothing at all may be cached; empty where something may."""
        reasons = {
            "--no-cache": not self.enabled,
            "--fsdp shards the network": self.sharded,
            "train_bn updates BatchNorm statistics of frozen layers": self.train_bn,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @cached_property
    def no_training(self) -> str:
        """Why no phase may train on cached activations; empty where one may. The probe may use them all the same."""
        if not self.phases:
            return "the run trains no epochs"
        if self.batch_transforms:
            return f"{' and '.join(self.batch_transforms)} mix{'es' * (len(self.batch_transforms) == 1)} whole images"
        if self.taught:
            return "the teacher sees the images of each step"
        return EVERYTHING_TRAINS if all(map(self._trains_everything, self.phases)) else ""

    @property
    def needs_cuts(self) -> bool:
        """Whether it matters where the network can be cut."""
        return not self.disabled and (self.probe or not self.no_training)

    @property
    def variants(self) -> int:
        """Cached augmentations per image; 0 where nothing is cached."""
        if self.disabled:
            return 0
        return self.augmentations if self.augmented else 1

    def reason_without_effect(self) -> str:
        """Why a chosen number of cached augmentations has no effect; empty where it has one."""
        if self.disabled:
            return f"nothing is cached: {self.disabled}"
        if not self.augmented:
            return "without augmentation they would all be the same"
        return f"nothing is cached for training: {self.no_training}" if self.no_training else ""

    def reason(self, phase: Phase) -> str:
        """Why a phase may not train on cached activations, wherever its network could be cut; empty where it may."""
        if self._trains_everything(phase):
            return EVERYTHING_TRAINS
        return self.no_training

    def variants_of(self, phase: Phase) -> tuple[int, ...]:
        """The variants that a phase trains on.

        Where images are drawn with replacement, the second draw of an image in an epoch uses the next variant.
        """
        if self.resampled:
            return tuple(range(self.variants))
        return tuple(sorted({epoch % self.variants for epoch in range(phase.start, phase.stop)}))

    def decide(self, cuts: Sequence[CutSize | str], probe: CutSize | None) -> tuple[Use, ...]:
        """Use the cache in each phase where it saves passes, there or later, and fits into the limit.

        Earlier phases come first: their cuts are the deepest and their activations the smallest.

        Args:
            cuts: One a phase, or the reason why there is none.
            probe: The place where the probe's network is cut; None without a probe.
        """
        budget = _Budget(self.train_images, self.val_images, self.limit)
        if probe is not None:
            budget.take(probe, (0,))
        uses: list[Use] = []
        for number, phase in enumerate(self.phases):
            cut = self.reason(phase) or cuts[number]
            use = Use(reason=cut) if isinstance(cut, str) else self._use(cut, number, cuts, budget)
            if use.cut is not None:
                budget.take(use.cut, use.variants)
            budget.forget_trained(cuts[number])
            uses.append(use)
        return tuple(uses)

    def expect(
        self, backbone: Backbone, groups: Sequence[LayerGroup], scale: float, width: int
    ) -> tuple[Use, ...] | None:
        """What each phase will read, from the backbone's sizes alone; None where only the network tells.

        A run cuts the network itself, maybe a little deeper.

        Args:
            scale: Pixels of an image relative to the backbone's default size.
            width: Bytes of a value.
        """
        heads = frozenset({groups[-1].name})
        cuts = [expected_cut(backbone, groups, phase.trainable, scale, width) for phase in self.phases]
        probe = expected_cut(backbone, groups, heads, scale, width)
        if self.disabled or probe is None or any(cut is None for cut in cuts):
            return None
        found = [cut for cut in cuts if cut is not None]
        return self.decide(found, probe if self.probe and isinstance(probe, CutSize) else None)

    def _trains_everything(self, phase: Phase) -> bool:
        return len(phase.trainable) == len(self.groups)

    def _use(self, cut: CutSize, number: int, cuts: Sequence[CutSize | str], budget: _Budget) -> Use:
        """What the phase of a number reads at its cut."""
        phase, variants = self.phases[number], self.variants_of(self.phases[number])
        nbytes, new = budget.cost(cut, variants)
        if len(new) >= phase.stop - phase.start and not set(new) & self._used_later(cut, number, cuts):
            return Use(reason=NO_GAIN)
        if nbytes > budget.left:
            return Use(reason=f"{nbytes / 1e6:,.1f} MB at {cut.name} would exceed the limit")
        return Use(cut, variants, nbytes, len(new))

    def _used_later(self, cut: CutSize, number: int, cuts: Sequence[CutSize | str]) -> set[int]:
        """Variants that the passes of a phase also compute for later ones, until layers before their cuts train."""
        found: set[int] = set()
        lowest = cut.depth
        for later in range(number + 1, len(cuts)):
            other = cuts[later]
            if isinstance(other, str):
                break
            if other.depth <= lowest:
                found |= set(self.variants_of(self.phases[later]))
            lowest = min(lowest, other.depth)
        return found


def expected_cut(
    backbone: Backbone, groups: Sequence[LayerGroup], trainable: Set[str], scale: float, width: int
) -> CutSize | str | None:
    """The cut before the first trainable group, from the backbone's sizes; the reason where there is none.

    None where the sizes aren't known. `scale` and `width` are those of `CachePolicy.expect`.
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


def is_worth_storing(activation_bytes: int, image_bytes: int) -> bool:
    """Whether an evaluation should store activations that no run has stored."""
    return activation_bytes <= LARGEST * image_bytes


class _Budget:
    """What is cached so far, and how many bytes are left."""

    def __init__(self, train_images: int, val_images: int, limit: int) -> None:
        self.train_images, self.val_images, self.left = train_images, val_images, limit
        self._cached: dict[str, tuple[int, set[int]]] = {}
        self._passes: list[tuple[int, frozenset[int]]] = []

    def cost(self, cut: CutSize, variants: Sequence[int]) -> tuple[int, list[int]]:
        """Bytes that a cut would take, and the variants that need a pass of their own."""
        _, cached = self._cached.get(cut.name, (0, None))
        new = [variant for variant in variants if variant not in (cached or ())]
        nbytes = cut.nbytes * (self.train_images * len(new) + (self.val_images if cached is None else 0))
        passed = {variant for depth, some in self._passes if depth >= cut.depth for variant in some}
        return nbytes, [variant for variant in new if variant not in passed]

    def forget_trained(self, cut: CutSize | str) -> None:
        """Forget the activations that depend on layers which a phase with this cut has trained."""
        depth = cut.depth if isinstance(cut, CutSize) else -1
        self._cached = {name: cached for name, cached in self._cached.items() if cached[0] <= depth}
        # Tables nearer to the input that those passes have filled stay valid.
        self._passes = [(min(deep, depth), variants) for deep, variants in self._passes]

    def take(self, cut: CutSize, variants: Sequence[int]) -> None:
        """Cache a cut's variants."""
        self.left -= self.cost(cut, variants)[0]
        self._cached.setdefault(cut.name, (cut.depth, set()))[1].update(variants)
        self._passes.append((cut.depth, frozenset(variants)))
