"""The rules of advice: which row of the table the facts are in, and what the row says."""

from __future__ import annotations

import pytest

from ftkit.api import LabelSets, Multiclass, Multilabel
from ftkit.strategies.recommendation_rules import Advice, Facts, Limits, advise

BASIS = Multiclass().advice_basis([number % 10 for number in range(20)], 10)
LARGE, SIMILAR = BASIS.large, BASIS.similar


def facts(per_class: int, nearest: float | None, pretrained: bool = True, classes: int = 10) -> Facts:
    return Facts(
        images=per_class * classes,
        classes=classes,
        per_class=per_class,
        metric="accuracy",
        chance=1 / classes,
        similar_from=1 / classes + SIMILAR * (1 - 1 / classes),
        large=LARGE,
        pretrained=pretrained,
        probe=nearest,
        nearest_mean=nearest,
        unmeasured="" if nearest is not None else "the head is odd",
    )


def row(advice: Advice) -> tuple[str, float | None, int, str, dict[str, float]]:
    return advice.strategy, advice.lr, advice.epochs, advice.augment, dict(advice.options)


ONE_RATE = {"backbone_lr_scale": 1.0}


@pytest.mark.parametrize(
    ("per_class", "nearest", "expected"),
    [
        (10, 0.85, ("probe", None, 0, "none", {})),
        (50, 0.85, ("full", 3e-3, 10, "light", {})),
        (20, 0.30, ("full", 1e-3, 10, "standard", ONE_RATE)),
        (122, 0.30, ("full", 1e-3, 10, "light", ONE_RATE)),
    ],
)
def test_each_row_of_the_table(
    per_class: int, nearest: float, expected: tuple[str, float | None, int, str, dict[str, float]]
) -> None:
    assert row(advise(facts(per_class, nearest))) == expected


def test_the_thresholds_belong_to_the_upper_side() -> None:
    known = 0.1 + SIMILAR * 0.9
    assert advise(facts(LARGE - 1, known)).strategy == "probe"
    assert row(advise(facts(LARGE, known)))[:2] == ("full", 3e-3)
    assert advise(facts(LARGE, known - 0.01)).options == ONE_RATE


def test_similarity_is_the_part_of_the_way_from_chance_to_no_error() -> None:
    assert facts(10, 0.82).similarity == pytest.approx(0.8)
    assert facts(10, 0.1).similarity == pytest.approx(0.0)
    assert facts(10, 0.6, classes=2).similarity == pytest.approx(0.2)
    assert facts(10, None).similarity is None
    assert facts(10, 0.5).similar_from == pytest.approx(0.73)


def test_a_probe_that_wont_do_has_a_trained_stand_in() -> None:
    trained = advise(facts(10, 0.9), Limits(trains=True))
    assert row(trained) == ("full", 1e-3, 10, "light", {})
    frozen = advise(facts(10, 0.9), Limits(solvable=False))
    assert row(frozen) == ("freeze", 3e-3, 10, "light", {})


def test_without_weights_there_is_scratch_only() -> None:
    advice = advise(facts(10, None, pretrained=False))
    assert row(advice) == ("scratch", 3e-3, 30, "light", {})
    assert "10 images per class are few for training from scratch" in advice.why[-1]
    assert len(advise(facts(5000, None, pretrained=False)).why) == 1


def test_without_a_measurement_the_reason_is_given_and_rates_are_low() -> None:
    advice = advise(facts(500, None))
    assert row(advice)[:2] == ("full", 1e-3)
    assert "couldn't be measured: the head is odd" in advice.why[0]


def test_the_reasons_name_the_metrics() -> None:
    why = "; ".join(advise(facts(122, 0.661, classes=2)).why)
    assert "66.1 %" in why
    assert "the limit is 85.0 %" in why
    assert "122 images per class" in why


def test_scratch_is_worth_a_comparison_with_very_many_unlike_images() -> None:
    assert not any("scratch" in reason for reason in advise(facts(999, 0.3)).why)
    assert "compare both" in advise(facts(1000, 0.3)).why[-1]


def test_the_basis_of_several_labels_is_of_the_classes_that_can_be_measured() -> None:
    sets = LabelSets([[0], [0, 1], [0], [1, 2], [0], [0], [0, 1], [0]], 4)
    basis = Multilabel().advice_basis(sets, 4)
    assert basis is not None
    assert (basis.chance, basis.unmeasured) == (3 / 8, ""), "of class 1; one image has no 0, one has 2, none has 3"
    none = Multilabel().advice_basis(LabelSets([[0], [1], []], 2), 2)
    assert none is not None
    assert none.unmeasured == "no class has at least two images, and two without it"
    single = Multiclass().advice_basis([0, 0, 1], 2)
    assert "a class has only one image or none" in single.unmeasured
