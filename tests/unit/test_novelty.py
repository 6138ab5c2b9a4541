"""The energy of images, their novelty, and the comparison of many images with the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from ftkit.api import MulticlassOutputs, MultilabelOutputs
from ftkit.uncertainty.novelty import energies, measure_shift, novelties, reference_outputs
from ftkit.uncertainty.reference_outputs import ReferenceOutputs


def drawn(images: int, seed: int, factor: float = 1.0) -> MulticlassOutputs:
    """Outputs whose probabilities are right, if the factor is 1; a smaller one makes each class fit less."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * factor * torch.randn(images, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return MulticlassOutputs(logits, targets, "abcde")


def reference(images: int = 1000, seed: int = 0) -> ReferenceOutputs:
    found = reference_outputs(drawn(images, seed), "validation images")
    assert found is not None
    return found


def novelty_of(outputs: MulticlassOutputs, known: ReferenceOutputs) -> np.ndarray:
    return novelties(energies(outputs.logits, True).numpy(), known.energies, known.images)


def test_energies_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    assert energies(logits, True).tolist() == pytest.approx([-math.log(2), -math.log(4)])
    assert energies(logits, False).tolist() == pytest.approx([-2 * math.log(2), -math.log(4) - math.log(2)])


def test_the_reference_has_the_spread_and_the_accuracy_of_the_outputs() -> None:
    outputs = drawn(1000, 0)
    known = reference()
    values = np.sort(energies(outputs.logits, True).numpy())
    assert (known.energies[0], known.energies[-1]) == (values[0], values[-1])
    assert known.energies[100] == pytest.approx(np.median(values))
    assert known.accuracy == outputs.right.mean()
    assert (outputs.confidence < known.threshold).mean() == pytest.approx(1 - known.accuracy, abs=0.001)
    assert reference_outputs(drawn(49, 0), "few") is None
    broken = outputs.logits.clone()
    broken[3, 1] = math.nan
    assert reference_outputs(MulticlassOutputs(broken, torch.from_numpy(outputs.targets), "abcde"), "nan") is None
    several = MultilabelOutputs(outputs.logits, torch.zeros(1000, 5, dtype=torch.bool), "abcde")
    assert reference_outputs(several, "labels") is not None


def test_novelty_is_a_rank_among_the_reference_images() -> None:
    known = ReferenceOutputs("images", 99, (0.0, 1.0, 3.0), 0.9, 0.5)
    found = novelties(np.array([-5.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0]), known.energies, known.images)
    assert found.tolist() == [1, 1, 0.75, 0.5, 0.25, 0.01, 0.01]


def test_of_images_like_the_reference_the_rate_is_flagged() -> None:
    found = novelty_of(drawn(20_000, 1), reference())
    for rate in (0.01, 0.05, 0.2):
        assert (found <= rate).mean() == pytest.approx(rate, rel=0.5)
    less = energies(drawn(2000, 1).logits - 5, True).numpy()
    assert (novelties(less, reference().energies, 1000) <= 0.05).mean() > 0.5, "no class fits"


def test_a_shift_is_found_and_none_is_made_up() -> None:
    known, alarms = reference(), 0
    for seed in range(40):
        own = drawn(300, 10 + seed)
        alarms += measure_shift(novelty_of(own, known), own.confidence, known, 0.01).p < 0.05
    assert alarms <= 6, "one in twenty, and chance"
    other = drawn(300, 9, 0.5)
    found = measure_shift(novelty_of(other, known), other.confidence, known, 0.05)
    assert found.p < 1e-6
    assert found.distance == pytest.approx(kstest(novelty_of(other, known), "uniform").statistic)
    assert found.unlike == (novelty_of(other, known) <= 0.05).mean()


def test_the_estimated_accuracy_follows_the_accuracy() -> None:
    known = reference(5000)
    for factor, most in ((1.0, 0.02), (0.8, 0.1)):
        other = drawn(5000, 7, factor)
        found = measure_shift(novelty_of(other, known), other.confidence, known, 0.01)
        assert found.accuracy is not None
        assert found.accuracy == (other.confidence >= known.threshold).mean()
        assert found.accuracy == pytest.approx(other.right.mean(), abs=most)
        assert found.mean_confidence == other.confidence.mean()
    assert measure_shift(np.array([0.5]), None, known, 0.01).accuracy is None


@pytest.mark.parametrize("energies_read", [(1.0,), (1.0, 0.0), (0.0, math.inf)])
def test_a_reference_of_a_forged_card_is_refused(energies_read: tuple[float, ...]) -> None:
    assert ReferenceOutputs("images", 99, energies_read, 0.9, 0.5).check()
    assert not reference().check()
