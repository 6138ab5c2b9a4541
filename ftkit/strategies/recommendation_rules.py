"""How to fine-tune, as rules: from how many images there are and how much the backbone's features tell.

The rules are the table that transfer learning is taught with: data like or unlike what the backbone has seen,
little of it or much. Which row holds is measured, by a probe on frozen features; see `ftkit.experiments.recommend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = "auto"
"""The strategy that is replaced by the advised one before a run is planned."""

SIMILAR = 0.7
"""From this part of the way from chance to no error on, the features know the data; see `Facts.similarity`.

Measured with 10 or more images a class, two seeds each. The ResNet-20 weights of CIFAR-10: other images of
CIFAR-10 0.78 to 0.86, small digits 0.63 to 0.67, MNIST 0.46 to 0.55, ants and bees at 64 pixels -0.4 to 0.4.
LeNet's MNIST weights: small digits 0.89 to 0.93, CIFAR-10 in grey 0.03 to 0.10. On CIFAR-10 the probe is hard
to beat; on ants and bees training every layer at one rate beats it by ten points in a hundred.
"""

LARGE = 25
"""From so many images a class on, moving every layer pays on data that the features know.

Measured as above, over 3 seeds of 10 epochs with AdamW: with 10 images a class two rates from the probe reach
81.8 % against the probe's own 81.5 %, which is within the spread; with 50 they reach 83.7 %. The geometric
mean of 10 and 50 is 22.
"""

ENOUGH = 1000
"""From so many images a class on, training from scratch is worth a comparison: the size of MNIST and CIFAR-10."""

EPOCHS, EPOCHS_FROM_SCRATCH = 10, 30
"""The first is what all of the above was measured with; random weights have further to go."""

ONE_RATE: Mapping[str, float] = {"backbone_lr_scale": 1.0}
"""Options of strategy full for data that the features don't know.

Measured on ants and bees at 64 pixels, test accuracy over 3 seeds. With 122 images a class, 10 epochs: one rate
76.5 %, two rates 75.6 %, probe 66 %. With 20 a class: one rate 63.6 %, and 65.6 % with the standard augmentation;
discriminative rates 62.5 % and 63.2 %; two rates 60.3 %; probe 61.7 %. The spread is five to seven points in a
hundred there, so this says which to try first, and no more.
"""


@dataclass(frozen=True)
class Facts:
    """What the advice rests on.

    Attributes:
        images: Of the training split.
        chance: The share of the largest class, which is what always naming it gets right.
        pretrained: Whether there are weights to start from.
        probe: Accuracy of logistic regression on frozen features in cross-validation; None where there are
            no weights, or the features couldn't be had.
        nearest_mean: The same of naming the class whose mean feature is nearest; None where the probe is.
        measured_on: How many training images were looked at.
        unmeasured: Why there is no probe, where there are weights.
    """

    images: int
    classes: int
    chance: float
    pretrained: bool
    probe: float | None = None
    nearest_mean: float | None = None
    measured_on: int = 0
    unmeasured: str = ""

    @property
    def per_class(self) -> float:
        """Training images a class, in the mean."""
        return self.images / self.classes

    @property
    def similarity(self) -> float | None:
        """How far the nearest mean is on the way from chance to no error; below 0 where it is worse than chance.

        Where a backbone knows the classes, each is a heap of its own in the features, and the nearest mean does
        as well as the probe. On other images a probe can still do well, given enough of them, by picking what
        little there is: with the CIFAR-10 weights it has 88 % of MNIST right, and the nearest mean 60 %.
        """
        return None if self.nearest_mean is None else (self.nearest_mean - self.chance) / (1 - self.chance)

    @property
    def known_from(self) -> float:
        """The accuracy of the nearest mean from which on the images count as known."""
        return self.chance + SIMILAR * (1 - self.chance)


@dataclass(frozen=True)
class Limits:
    """What of the advice the rest of the request leaves open.

    Attributes:
        trains: Epochs, or rates of layer groups, were asked for, so the probe alone won't do.
        solvable: The run's head can be solved first, so the probe is possible.
    """

    trains: bool = False
    solvable: bool = True


@dataclass(frozen=True)
class Advice:
    """A strategy with its options and settings, and why.

    Attributes:
        lr: Of the head, for optimizers of Adam's family; None where nothing is trained by one.
        epochs: 0 for a strategy that trains none.
        why: Sentences without a full stop, the strongest reason first.
    """

    strategy: str
    lr: float | None
    epochs: int
    augment: str
    why: tuple[str, ...]
    options: Mapping[str, float] = field(default_factory=dict)


def advise(facts: Facts, limits: Limits | None = None) -> Advice:
    """The row of the table that the facts are in."""
    limits = limits or Limits()
    if not facts.pretrained:
        return _scratch(facts)
    if facts.similarity is None:
        return _unknown(facts)
    is_large = facts.per_class >= LARGE
    if facts.similarity >= SIMILAR:
        return _similar_large(facts) if is_large else _similar_small(facts, limits)
    return _different_large(facts) if is_large else _different_small(facts)


def _similar_small(facts: Facts, limits: Limits) -> Advice:
    why = (_knows(facts), f"{_amount(facts)}, fewer than {LARGE}: there is little to move the other layers by")
    if limits.trains:
        return Advice("full", 1e-3, EPOCHS, "light", (*why, "so they move slowly, at a tenth of the head's rate"))
    if not limits.solvable:
        return Advice("freeze", 3e-3, EPOCHS, "light", (*why, "so only the head trains"))
    return Advice("probe", None, 0, "none", (*why, "so the head is solved, and that is all"))


def _similar_large(facts: Facts) -> Advice:
    why = (
        _knows(facts),
        f"{_amount(facts)}, {LARGE} or more: enough to move every layer by, a tenth as fast as the head",
    )
    return Advice("full", 3e-3, EPOCHS, "light", why)


def _different_small(facts: Facts) -> Advice:
    why = (
        _ignorant(facts),
        f"{_amount(facts)}, fewer than {LARGE}: hard, whatever is done; every layer trains at one rate, since features "
        "that don't fit are not worth sparing",
        "closer crops and mirror images make up for some of the images that there aren't; where a mirror image "
        "is of another class, as with letters, add --augment light",
    )
    return Advice("full", 1e-3, EPOCHS, "standard", why, ONE_RATE)


def _different_large(facts: Facts) -> Advice:
    why = [
        _ignorant(facts),
        f"{_amount(facts)}, {LARGE} or more: enough to learn other features by, so every layer trains at one rate",
    ]
    if facts.per_class >= ENOUGH:
        why.append(f"with {ENOUGH} images a class or more a small network may do as well from scratch: compare the two")
    return Advice("full", 1e-3, EPOCHS, "light", tuple(why), ONE_RATE)


def _scratch(facts: Facts) -> Advice:
    few = facts.per_class < ENOUGH
    why = ["there are no pretrained weights, so every layer starts at random and trains at the full rate"]
    if few:
        why.append(f"{_amount(facts)} are few to train from scratch: pretrained weights would do better")
    return Advice("scratch", 3e-3, EPOCHS_FROM_SCRATCH, "light", tuple(why))


def _unknown(facts: Facts) -> Advice:
    why = (f"what the features know couldn't be measured: {facts.unmeasured}", "so every layer moves, but slowly")
    return Advice("full", 1e-3, EPOCHS, "light", why)


def _knows(facts: Facts) -> str:
    return f"the backbone knows such images: {_measured(facts)}"


def _ignorant(facts: Facts) -> str:
    return f"the backbone doesn't know such images well: {_measured(facts)}"


def _measured(facts: Facts) -> str:
    assert facts.nearest_mean is not None, "asked only where it was measured"
    return (
        f"in its features the nearest class mean is right for {100 * facts.nearest_mean:.1f} % of them, and from "
        f"{100 * facts.known_from:.1f} % on images count as known"
    )


def _amount(facts: Facts) -> str:
    return f"{facts.per_class:.0f} image{'s' * (facts.per_class >= 1.5)} a class"
