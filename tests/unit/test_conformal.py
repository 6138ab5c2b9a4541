"""Prediction sets, and rejection at an error rate."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from ftkit import RequestError
from ftkit.api import MulticlassOutputs
from ftkit.uncertainty.calibration_scores import read_scores, scores_of, write_scores
from ftkit.uncertainty.conformal_scores import class_scores, least_images, limits_by_class, quantile, set_members
from ftkit.uncertainty.rejection import rejection_rule, rejection_rules, risk_coverage, upper_bound
from ftkit.uncertainty.set_methods import METHODS, SetMethod

PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25]])


def drawn(images: int, classes: int, seed: int, factor: float = 1.0) -> MulticlassOutputs:
    """Outputs of a model whose probabilities are those of the classes, if the factor is 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return MulticlassOutputs(logits * factor, targets, [str(label) for label in range(classes)])


def test_scores_by_hand() -> None:
    assert class_scores(PROBABILITIES, "lac") == pytest.approx(1 - PROBABILITIES)
    expected = np.array([[0.0, 0.5, 0.8], [0.9, 0.7, 0.0], [0.5, 0.0, 0.75]])
    assert class_scores(PROBABILITIES, "aps") == pytest.approx(expected), "of equal classes the first one is likelier"
    eight = np.array([[0.3, 0.2, 0.15, 0.12, 0.1, 0.06, 0.04, 0.03]])
    raps = np.array([[0.0, 0.3, 0.5, 0.65, 0.77, 0.88, 0.95, 1.0]])
    assert class_scores(eight, "raps") == pytest.approx(raps)


def test_the_quantile_counts_the_new_image() -> None:
    scores = np.arange(1, 20) / 100
    assert quantile(scores, 0.95) == 0.19, "the 19th of 19: ceil(20 * 0.95)"
    assert quantile(scores, 0.9) == 0.18
    assert quantile(scores[:18], 0.95) == inf
    assert [least_images(coverage) for coverage in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    assert quantile(np.arange(99) / 100, 0.99) == 0.98
    assert limits_by_class([scores, scores[:3]], 0.95).tolist() == [0.19, inf]


def test_sets_by_hand() -> None:
    members = set_members(PROBABILITIES, "lac", 0.75)
    assert members.tolist() == [[True, True, False], [False, False, True], [True, True, True]]
    assert set_members(PROBABILITIES, "aps", 0.6).tolist() == [
        [True, True, False],
        [False, False, True],
        [True, True, False],
    ]
    assert set_members(PROBABILITIES, "lac", 0.2, empty=True).sum() == 0
    assert set_members(PROBABILITIES, "lac", 0.2).argmax(axis=1).tolist() == [0, 2, 1], "the likeliest class at least"
    assert set_members(PROBABILITIES, "lac", np.array([inf, 0, 0]))[:, 0].all(), (
        "a class without a limit is in each set"
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_coverage_of_100_splits_is_within_its_binomial_interval(method: SetMethod) -> None:
    # The model is overconfident: the guarantee doesn't depend on the model.
    outputs, coverage, hits = drawn(1500, 10, 1, factor=2.0), 0.9, 0
    probabilities, rng = outputs.scores, np.random.default_rng(0)
    for _ in range(100):
        order = rng.permutation(len(outputs))
        own, new = order[:500], order[500:]
        limit = scores_of(outputs.take(own), "images", False).limit(method, coverage)
        members = set_members(probabilities[new], method, limit, empty=True)
        hits += int(members[np.arange(len(new)), outputs.targets[new]].sum())
    # The splits share their images, so the interval is that of the 1,500 images, not of 100,000.
    low, high = binom.interval(0.99, 1500, coverage)
    assert low / 1500 <= hits / 100_000 <= high / 1500


def test_by_class_each_class_is_covered() -> None:
    outputs = drawn(12_000, 3, 2)
    weak = MulticlassOutputs(outputs.logits + torch.tensor([0.0, 0.0, -2.0]), torch.from_numpy(outputs.targets), "abc")
    own, new = weak.take(np.arange(6000)), weak.take(np.arange(6000, 12_000))
    scores = scores_of(own, "images", False)

    def rates(limits: float | np.ndarray) -> list[float]:
        held = set_members(new.scores, "lac", limits)[np.arange(len(new)), new.targets]
        return [float(held[new.targets == label].mean()) for label in range(3)]

    together, apart = rates(scores.limit("lac", 0.9)), rates(scores.class_limits("lac", 0.9, 3))
    assert together[2] < 0.8, "the class that the model neglects"
    assert apart == pytest.approx([0.9] * 3, abs=0.02)


def waves(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `(n, 5)` and labels, of which 73 % are likeliest, from a formula."""
    places = np.arange(images)[:, None] * 7.31 + np.arange(5) ** 2 * 2.17
    values = np.exp(2 * np.sin(places) + np.sin(3.7 * places))
    rank = np.arange(images) % 7 % 4 // 2 * (np.arange(images) % 3)
    return values / values.sum(axis=1, keepdims=True), np.argsort(-values, axis=1)[np.arange(images), rank]


def test_the_sets_are_those_of_mapie() -> None:
    """MAPIE 1.6: `SplitConformalClassifier(model, confidence_level=0.9, conformity_score="lac", prefit=True)`.

    The first 99 images conformalize it; `model` returns its input. Its APS has random numbers, ours has none.
    """
    probabilities, targets = waves(139)
    own = MulticlassOutputs(torch.from_numpy(probabilities[:99]).log(), torch.from_numpy(targets[:99]), "abcde")
    members = set_members(probabilities[99:], "lac", scores_of(own, "waves", False).limit("lac", 0.9), empty=True)
    sizes = "2223323132231121321211322213223233234234"
    assert "".join(map(str, members.sum(axis=1))) == sizes


def test_scores_are_kept_with_the_model_that_they_are_of(tmp_path: Path) -> None:
    folder, scores = tmp_path, scores_of(drawn(50, 4, 5), "photos", True)
    write_scores(folder, "model", scores)
    found = read_scores(folder, "model")
    assert (found.source, found.cross_fitted, len(found)) == ("photos", True, 50)
    for method in METHODS:
        assert found.scores[method] == pytest.approx(scores.scores[method], abs=0)
    assert (found.targets == scores.targets).all()
    assert (found.right == scores.right).all()
    for identity, change in (("other", 0), ("model", 7)):
        content = bytearray((folder / "conformal.json").read_bytes())
        content[200] += change
        (folder / "conformal.json").write_bytes(content)
        with pytest.raises(RequestError, match="damaged, or belongs to another model"):
            read_scores(folder, identity)


def test_of_very_many_images_a_sample_is_stored() -> None:
    assert len(scores_of(drawn(10_100, 3, 6), "images", False)) == 10_000
    assert len(scores_of(drawn(10_100, 102, 6), "images", False)) == 10_100, "100 a class"


def test_the_risk_coverage_curve_by_hand() -> None:
    confidence, right = np.array([0.9, 0.5, 0.7, 0.7]), np.array([True, False, True, False])
    curve = risk_coverage(confidence, right)
    assert [(p.threshold, p.coverage, p.risk) for p in curve.points] == [
        (0.9, 0.25, 0.0), (0.7, 0.75, pytest.approx(1 / 3)), (0.5, 1.0, 0.5)
    ]  # fmt: skip
    assert curve.area == pytest.approx((0 + 2 / 3 + 0.5) / 4)
    assert curve.at(0.3).coverage == 0.75
    many = risk_coverage(np.random.default_rng(0).random(5000), np.ones(5000, dtype=bool))
    assert len(many.points) == 200
    assert many.points[-1].coverage == 1


def test_the_bound_is_clopper_and_pearsons() -> None:
    for wrong, images in ((0, 50), (3, 120), (7, 7)):
        expected = binomtest(wrong, images).proportion_ci(0.9, method="exact").high
        assert upper_bound(wrong, images, 0.05) == pytest.approx(expected)


def test_a_rejection_rule_holds_its_error_rate_on_new_images() -> None:
    broken = 0
    for seed in range(60):
        own, new = drawn(600, 4, 100 + seed), drawn(4000, 4, 500 + seed)
        rule = rejection_rule(own.confidence, own.right, 0.2)
        assert rule is not None
        answered = new.confidence >= rule.threshold
        broken += bool((~new.right[answered]).mean() > 0.2)
        assert rule.coverage == pytest.approx((own.confidence >= rule.threshold).mean())
    assert broken <= 6, "one in twenty at most, and chance"


def test_an_error_rate_that_the_images_cant_show_has_no_rule() -> None:
    confidence, right = np.linspace(0.5, 1, 100), np.ones(100, dtype=bool)
    assert rejection_rule(confidence, right, 0.01) is None
    bounds = [rule.bound for rule in rejection_rules(confidence, right)]
    assert len(bounds) == 20
    assert min(bounds) == pytest.approx(1 - (0.05 / 20) ** (1 / 100)), "no errors on 100 images, for one bound of 20"
    rule = rejection_rule(confidence, right, min(bounds) + 1e-9)
    assert rule is not None
    assert (rule.threshold, rule.coverage, rule.risk) == (0.5, 1.0, 0.0)
