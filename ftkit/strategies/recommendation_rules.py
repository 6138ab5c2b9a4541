"""Rules for fine-tuning, from the number of images and how well the backbone's features separate the classes.

The rules are the usual table of transfer learning: data similar to the pretraining data or not, few images or many.
Similarity is measured by a probe on frozen features; see `ftkit.experiments.recommend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

AUTO = "auto"
"""The strategy that is replaced by the recommended one before a run is planned."""

SIMILAR = 0.7
"""The similarity from which the data counts as similar to the pretraining data; see `Facts.similarity`.

Measured with 10 or more images per class, two seeds each. The ResNet-20 weights of CIFAR-10: other images of
CIFAR-10 0.78 to 0.86, small digits 0.63 to 0.67, MNIST 0.46 to 0.55, ants and bees at 64 pixels -0.4 to 0.4.
LeNet's MNIST weights: small digits 0.89 to 0.93, CIFAR-10 in grey 0.03 to 0.10. On CIFAR-10 the probe is hard
to beat; on ants and bees training every layer at one rate is ten percentage points better.
"""

LARGE = 25
"""Images per class from which training every layer pays on similar data.

Measured as above, over 3 seeds of 10 epochs with AdamW: with 10 images per class two rates from the probe reach
81.8 % against the probe's own 81.5 %, which is within the spread; with 50 they reach 83.7 %. The geometric
mean of 10 and 50 is 22.
"""

ENOUGH = 1000
"""Images per class from which training from scratch is worth a comparison: the size of MNIST and CIFAR-10."""

EPOCHS, EPOCHS_FROM_SCRATCH = 10, 30
"""All of the above was measured with the first; random weights need more epochs."""

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
        chance: The accuracy of always predicting the largest class.
        pretrained: Whether there are pretrained weights.
        probe: Accuracy of logistic regression on frozen features in cross-validation; None where it wasn't measured.
        nearest_mean: Accuracy of predicting the class whose mean feature is nearest; None where `probe` is.
        measured_on: Number of training images that were measured.
        unmeasured: Why pretrained weights weren't measured.
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
        """Mean number of training images per class."""
        return self.images / self.classes

    @property
    def similarity(self) -> float | None:
        """The accuracy of the nearest mean, scaled to 0 for chance and 1 for no error; None where it wasn't measured.

        On similar data each class is a cluster in the features, and the nearest mean is as good as the probe. On other
        data the probe can still be good, given enough images: with the CIFAR-10 weights its accuracy on MNIST is 88 %,
        that of the nearest mean 60 %.
        """
        return None if self.nearest_mean is None else (self.nearest_mean - self.chance) / (1 - self.chance)

    @property
    def similar_from(self) -> float:
        """The accuracy of the nearest mean from which the data counts as similar."""
        return self.chance + SIMILAR * (1 - self.chance)


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
    if facts.similarity is None:
        return _unknown(facts)
    is_large = facts.per_class >= LARGE
    if facts.similarity >= SIMILAR:
        return _similar_large(facts) if is_large else _similar_small(facts, limits)
    return _different_large(facts) if is_large else _different_small(facts)


def _similar_small(facts: Facts, limits: Limits) -> Advice:
    why = (_similar(facts), f"{_amount(facts)}, fewer than {LARGE}: too few to train the other layers much")
    if limits.trains:
        return Advice("full", 1e-3, EPOCHS, "light", (*why, "so they train at a tenth of the head's rate"))
    if not limits.solvable:
        return Advice("freeze", 3e-3, EPOCHS, "light", (*why, "so only the head trains"))
    return Advice("probe", None, 0, "none", (*why, "so only the head is solved"))


def _similar_large(facts: Facts) -> Advice:
    why = (
        _similar(facts),
        f"{_amount(facts)}, {LARGE} or more: enough to train every layer, at a tenth of the head's rate",
    )
    return Advice("full", 3e-3, EPOCHS, "light", why)


def _different_small(facts: Facts) -> Advice:
    why = (
        _different(facts),
        f"{_amount(facts)}, fewer than {LARGE}: hard for any strategy; every layer trains at one rate, since the "
        "features don't fit",
        "closer crops and mirror images make up for some of the missing images; where a mirror image is of another "
        "class, as with letters, add --augment light",
    )
    return Advice("full", 1e-3, EPOCHS, "standard", why, ONE_RATE)


def _different_large(facts: Facts) -> Advice:
    why = [
        _different(facts),
        f"{_amount(facts)}, {LARGE} or more: enough to learn other features, so every layer trains at one rate",
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
        f"predicting the nearest class mean is right for {100 * facts.nearest_mean:.1f} % of the images, and the limit "
        f"is {100 * facts.similar_from:.1f} %"
    )


def _amount(facts: Facts) -> str:
    return f"{facts.per_class:.0f} image{'s' * (facts.per_class >= 1.5)} per class"
