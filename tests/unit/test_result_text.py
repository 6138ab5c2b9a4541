"""How results of commands are worded."""

from __future__ import annotations

from dataclasses import replace

from scipy.stats import binomtest

from ftkit.cli.output.training.weight_drift_bars import weight_drift_lines
from ftkit.evaluation.comparison import PairedComparison, verdict
from ftkit.metrics.rounding import digits_of


def test_metrics_have_the_digits_that_the_number_of_images_justifies() -> None:
    assert [digits_of(images) for images in (1, 39, 100, 101, 1000, 10**6)] == [2, 2, 2, 3, 3, 4]


def test_a_comparison_reports_significance_and_power() -> None:
    against = PairedComparison({}, only_first=1, only_this=3, p=0.625)
    assert verdict("full", "frozen", against, 39) == (
        "full: not significantly different from frozen on 39 images: +2 correct; "
        "6 (0.15 in accuracy) would be significant"
    )
    sure = replace(against, only_first=1, only_this=14, p=float(binomtest(1, 15).pvalue))
    assert verdict("full", "frozen", sure, 39) == "full: significantly better than frozen (p below 0.05)"
    assert "worse than" in verdict("full", "frozen", replace(sure, only_first=14, only_this=1), 39)


def test_bars_are_as_long_as_the_weight_drift() -> None:
    heading, *lines = weight_drift_lines({"stem": 0.0, "layer1": 0.0001, "head": 0.5, "scale": None}, 7)
    assert "epoch 7" in heading
    assert [line.split() for line in lines] == [
        ["stem", "0", "%"],
        ["layer1", "0.01", "%", "▏"],
        ["head", "50", "%", "█" * 32],
        ["scale", "from", "0"],
    ]


def test_no_weight_drift_has_no_bar() -> None:
    assert [line.split()[-2:] for line in list(weight_drift_lines({"head": 0.0}, 1))[1:]] == [["0", "%"]]
    assert list(weight_drift_lines({}, 1)) == []
