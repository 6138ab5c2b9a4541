"""Rules for fine-tuning, from the number of images and how well the backbone's features separate the classes.

The rules are the usual table of transfer learning: data similar to the pretraining data or not, few images or many.
Similarity is measured by a probe on frozen features; see `ftkit.experiments.recommend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = "auto"
"""The strategy that is replaced by the recommended one before a run is planned."""

FEW = 25
"""Images per class below which the standard augmentation pays on data that isn't similar; see `ONE_RATE`."""

ENOUGH = 1000
"""Images per class from which training from scratch is worth a comparison: the size of MNIST and CIFAR-10."""

EPOCHS, EPOCHS_FROM_SCRATCH = 10, 30
"""The limits of tasks were measured with the first; random weights need more epochs."""

ONE_RATE: Mapping[str, float] = {"backbone_lr_scale": 1.0}
"""Options of strategy full for data that isn't similar.

Measured on ants and bees at 64 pixels, test accuracy over 3 seeds. With 122 images per class, 10 epochs: one rate
76.5 %, two rates 75.6 %, probe 66 %. With 20 per class: one rate 63.6 %, and 65.6 % with the standard augmentation;
discriminative rates 62.5 % and 63.2 %; two rates 60.3 %; probe 61.7 %. The spread is five to seven percentage points
there, so this is only the option to try first.
"""


@dataclass(frozen=True)
class Facts:
    """What the advice depends on.

    Attributes:
        images: Number of training images.
        per_class: Mean number of training images of a class.
        metric: What `chance`, `probe` and `nearest_mean` are values of, such as accuracy.
        chance: The metric of predictions that ignore the images.
        similar_from: The value of `nearest_mean` from which the data counts as similar to the pretraining data.
        large: The number of images per class from which training every layer is worth it on similar data.
        pretrained: Whether there are pretrained weights.
        probe: The metric of logistic regression on frozen features in cross-validation; None where it wasn't measured.
        nearest_mean: The metric of predicting by the nearest class mean; None where `probe` is.
        measured_on: Number of training images that were measured.
        unmeasured: Why pretrained weights weren't measured.
    """

    images: int
    classes: int
    per_class: float
    metric: str
    chance: float
    similar_from: float
    large: int
    pretrained: bool
    probe: float | None = None
    nearest_mean: float | None = None
    measured_on: int = 0
    unmeasured: str = ""

    @property
    def similarity(self) -> float | None:
        """The metric of the nearest mean, scaled to 0 for chance and 1 for no error; None where it wasn't measured.

        On similar data each class is a cluster in the features, and the nearest mean is as good as the probe. On other
        data the probe can still be good, given enough images: with the CIFAR-10 weights its accuracy on MNIST is 88 %,
        that of the nearest mean 60 %.
        """
        return None if self.nearest_mean is None else (self.nearest_mean - self.chance) / (1 - self.chance)


@dataclass(frozen=True)
class Limits:
    """What the rest of the request requires.

    Attributes:
        trains: Whether settings of training were given, so that the probe alone doesn't suffice.
        solvable: Whether the run's head can be solved, so that the probe is possible.
    """

    trains: bool = False
    solvable: bool = True


@dataclass(frozen=True)
class Advice:
    """A strategy with its options and settings, and the reasons.

    Attributes:
        lr: Learning rate of the head, for optimizers like Adam; None for a strategy without epochs.
        epochs: Number of epochs; 0 for a strategy without any.
        why: Reasons, without a full stop, the most important one first.
    """

    strategy: str
    lr: float | None
    epochs: int
    augment: str
    why: tuple[str, ...]
    options: Mapping[str, float] = field(default_factory=dict)


def advise(facts: Facts, limits: Limits | None = None) -> Advice:
    """The advice for the facts, within the limits."""
    limits = limits or Limits()
    if not facts.pretrained:
        return _scratch(facts)
    if facts.nearest_mean is None:
        return _unknown(facts)
    if facts.nearest_mean >= facts.similar_from:
        return _similar_large(facts) if facts.per_class >= facts.large else _similar_small(facts, limits)
    return _different_large(facts) if facts.per_class >= FEW else _different_small(facts)


def _similar_small(facts: Facts, limits: Limits) -> Advice:
    why = (_similar(facts), f"{_amount(facts)}, fewer than {facts.large}: too few to train the other layers much")
    if limits.trains:
        return Advice("full", 1e-3, EPOCHS, "light", (*why, "so they train at a tenth of the head's rate"))
    if not limits.solvable:
        return Advice("freeze", 3e-3, EPOCHS, "light", (*why, "so only the head trains"))
    return Advice("probe", None, 0, "none", (*why, "so only the head is solved"))


def _similar_large(facts: Facts) -> Advice:
    why = (
        _similar(facts),
        f"{_amount(facts)}, {facts.large} or more: enough to train every layer, at a tenth of the head's rate",
    )
    return Advice("full", 3e-3, EPOCHS, "light", why)


def _different_small(facts: Facts) -> Advice:
    why = (
        _different(facts),
        f"{_amount(facts)}, fewer than {FEW}: hard for any strategy; every layer trains at one rate, since the "
        "features don't fit",
        "closer crops and mirror images make up for some of the missing images; where a mirror image is of another "
        "class, as with letters, add --augment light",
    )
    return Advice("full", 1e-3, EPOCHS, "standard", why, ONE_RATE)


def _different_large(facts: Facts) -> Advice:
    why = [
        _different(facts),
        f"{_amount(facts)}, {FEW} or more: enough to learn other features, so every layer trains at one rate",
    ]
    if facts.per_class >= ENOUGH:
        why.append(f"with {ENOUGH} images per class or more a small network may be as good from scratch: compare both")
    return Advice("full", 1e-3, EPOCHS, "light", tuple(why), ONE_RATE)


def _scratch(facts: Facts) -> Advice:
    few = facts.per_class < ENOUGH
    why = ["there are no pretrained weights, so every layer starts from random weights and trains at the full rate"]
    if few:
        why.append(f"{_amount(facts)} are few for training from scratch: pretrained weights would be better")
    return Advice("scratch", 3e-3, EPOCHS_FROM_SCRATCH, "light", tuple(why))


def _unknown(facts: Facts) -> Advice:
    why = (f"the features couldn't be measured: {facts.unmeasured}", "so every layer trains, at a low rate")
    return Advice("full", 1e-3, EPOCHS, "light", why)


def _similar(facts: Facts) -> str:
    return f"the pretrained features fit the data: {_measured(facts)}"


def _different(facts: Facts) -> str:
    return f"the pretrained features don't fit the data well: {_measured(facts)}"


def _measured(facts: Facts) -> str:
    assert facts.nearest_mean is not None, "called only with a measurement"
    return (
        f"predicting by the nearest class mean has {facts.metric} {100 * facts.nearest_mean:.1f} %, and the limit "
        f"is {100 * facts.similar_from:.1f} %"
    )


def _amount(facts: Facts) -> str:
    return f"{facts.per_class:.0f} image{'s' * (facts.per_class >= 1.5)} per class"
