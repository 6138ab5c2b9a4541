"""The numbers of a comparison: bootstrap intervals, the paired test, and what may be paired at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from ftkit.api import MulticlassOutputs
from ftkit.config.load import Resolved
from ftkit.errors import RequestError
from ftkit.evaluation.comparison import compare
from ftkit.evaluation.trained_runs import SplitOutputs, TrainedRun, most_trainable
from ftkit.experiments.trials import mean_and_spread
from ftkit.metrics.bootstrap import Interval, interval, resampled
from ftkit.metrics.paired_test import mcnemar, smallest_difference
from ftkit.runs.run_folder import RunFolder
from ftkit.runs.run_summary import RunSummary
from tests.evaluating import evaluate, metrics_named, task_named

CLASSES = tuple("abcdefg")


def outputs(images: int, seed: int = 0, skill: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that lean to the right class, and labels with every class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % len(CLASSES)
    noise = torch.randn(images, len(CLASSES), generator=generator)
    return noise + skill * torch.nn.functional.one_hot(labels, len(CLASSES)), labels


def draw(logits: torch.Tensor, labels: torch.Tensor, *names: str, seed: int = 0) -> Mapping[str, np.ndarray]:
    return resampled(MulticlassOutputs(logits, labels, CLASSES[: logits.shape[1]]), metrics_named(*names), seed)


def resampler(metric: str, logits: torch.Tensor, labels: torch.Tensor) -> Callable[[np.ndarray], np.ndarray]:
    return metrics_named(metric)[metric].resampler(MulticlassOutputs(logits, labels, CLASSES))


def split_outputs(name: str, seed: int = 0, skill: float = 1.5, images: int = 140) -> SplitOutputs:
    logits, labels = outputs(images, seed, skill)
    records = ({"epoch": 0, "seconds": 1.5}, {"epoch": 1, "seconds": 2.0})
    summary = RunSummary(RunFolder(Path(name)), datetime.now(UTC), "finished", {}, {}, records, None)
    trained = TrainedRun(summary, Path(name) / "model", cast(Resolved, None))
    names = tuple(f"{i:04d}.png" for i in range(images))
    return SplitOutputs(trained, "test", CLASSES, names, labels, logits, task_named("multiclass"), {})


@pytest.mark.parametrize("metric", task_named("multiclass").metrics)
def test_each_image_counted_once_gives_the_metric_that_evaluate_gives(metric: str) -> None:
    logits, labels = outputs(300)
    value = resampler(metric, logits, labels)(np.ones((1, 300)))
    assert value[0] == pytest.approx(evaluate(logits, labels, CLASSES).values[metric], abs=1e-6)


@pytest.mark.parametrize("metric", task_named("multiclass").metrics)
def test_a_count_of_two_is_the_image_twice(metric: str) -> None:
    logits, labels = outputs(70)
    counts = np.ones((1, 70))
    counts[0, :20] = 2
    twice = torch.cat([torch.arange(70), torch.arange(20)])
    expected = evaluate(logits[twice], labels[twice], CLASSES).values[metric]
    # Counts add up to as many images as there are, in a resample; here there are 20 more.
    scale = 1 if metric in ("macro_f1", "weighted_f1", "auroc") else 90 / 70
    assert resampler(metric, logits, labels)(counts)[0] / scale == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_accuracy_is_as_wide_as_the_binomial_says() -> None:
    logits = torch.zeros(400, 2)
    logits[:, 0] = 1
    labels = (torch.arange(400) < 80).long()
    found = interval(draw(logits, labels, "accuracy")["accuracy"])
    spread = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert found.low == pytest.approx(0.8 - spread, abs=0.006)
    assert found.high == pytest.approx(0.8 + spread, abs=0.006)


def test_resamples_follow_from_the_seed_and_are_the_same_for_every_model() -> None:
    logits, labels = outputs(50)
    first = draw(logits, labels, "accuracy", seed=1)["accuracy"]
    assert len(first) == 2000
    assert (first == draw(logits, labels, "accuracy", "loss", seed=1)["accuracy"]).all()
    assert (first != draw(logits, labels, "accuracy", seed=2)["accuracy"]).any()
    # A model that is right exactly where the other is wrong is as good as the other is bad, resample by resample.
    right = logits.argmax(1) == labels
    other = torch.nn.functional.one_hot(torch.where(right, (labels + 1) % 7, labels), 7).float()
    assert np.allclose(1 - draw(other, labels, "accuracy", seed=1)["accuracy"], first)


def test_resamples_without_a_metric_are_left_out() -> None:
    assert interval(np.array([np.nan, 1.0, np.nan, 1.0])) == Interval(1.0, 1.0)
    assert interval(np.array([np.nan])) == Interval(None, None)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    values = draw(torch.randn(6, 2), labels, "auroc")["auroc"]
    assert 0.2 < np.isnan(values).mean() < 0.5, "one image in six is missed by (5/6)**6 of the resamples"


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"), [(1, 9, 22 / 1024), (5, 5, 1.0), (0, 0, 1.0), (0, 3, 0.25), (3, 0, 0.25)]
)
def test_mcnemars_test_is_exact(only_first: int, only_second: int, p: float) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True] * 20 + [False] * 7)
    second = np.array([False] * only_first + [True] * only_second + [True] * 20 + [False] * 7)
    found = mcnemar(first, second)
    assert found[:2] == (only_first, only_second)
    assert found[2] == pytest.approx(p)


def test_a_run_against_itself_differs_by_nothing() -> None:
    first, second = compare([split_outputs("a"), split_outputs("b")], metrics_named("accuracy", "loss"))
    assert first.against is None
    assert second.against is not None
    assert second.against.differences == {"accuracy": (0.0, Interval(0.0, 0.0)), "loss": (0.0, Interval(0.0, 0.0))}
    assert (second.against.only_first, second.against.only_this, second.against.p) == (0, 0, 1.0)


def test_a_better_run_differs_by_more_than_chance() -> None:
    first, second = compare([split_outputs("weak", 0, 1.0), split_outputs("strong", 1, 3.0)], metrics_named("accuracy"))
    assert second.against is not None
    difference, where = second.against.differences["accuracy"]
    assert difference == pytest.approx((second.metrics["accuracy"][0] or 0) - (first.metrics["accuracy"][0] or 0))
    assert where.low is not None
    assert where.low > 0
    assert second.against.p < 1e-6


def test_classes_in_another_order_are_matched_by_name() -> None:
    one = split_outputs("one")
    order = [3, 1, 0, 2, 6, 5, 4]
    back = torch.tensor(order).argsort()
    classes = tuple(CLASSES[i] for i in order)
    other = replace(one, classes=classes, logits=one.logits[:, order], targets=back[one.targets])
    _, second = compare([one, other], metrics_named("accuracy", "loss"))
    assert second.against is not None
    assert second.against.differences["loss"][0] == pytest.approx(0, abs=1e-12)
    assert second.against.only_first == second.against.only_this == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": (*CLASSES[:6], "z")}, "their classes differ: g is only in the first"),
        ({"names": tuple(f"{i:04d}.png" for i in range(2, 142))}, "images differ: 0000.png and 1 more are only in the"),
        ({"targets": torch.arange(140).roll(1) % 7}, "classes of test images differ, as that of 0000.png"),
    ],
)
def test_what_cant_be_paired_is_named(change: dict[str, object], says: str) -> None:
    other = replace(split_outputs("other"), **change)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="one and other can't be paired") as caught:
        compare([split_outputs("one"), other], metrics_named("accuracy"))
    assert says in caught.value.message
    assert "--unpaired" in (caught.value.hint or "")
    results = compare([split_outputs("one"), other], metrics_named("accuracy"), paired=False)
    assert [r.against for r in results] == [None, None]


def test_a_metric_that_is_undefined_for_the_images_is_refused() -> None:
    few = replace(split_outputs("few"), classes=("a", "b"), logits=torch.randn(140, 2), targets=torch.zeros(140).long())
    with pytest.raises(RequestError, match="top5 is undefined for the test images: it needs 6 classes"):
        compare([few], metrics_named("top5"))
    with pytest.raises(RequestError, match=r"--metric: auroc .* all images are of class 'a'"):
        compare([few], metrics_named("auroc"))


def test_costs_come_from_the_plan_and_the_records() -> None:
    phases = [{"trainable": 10}, {"trainable": 300}, {"trainable": 200}]
    head = [{"name": "stem", "parameters": 290}, {"name": "head", "parameters": 10}]
    assert most_trainable({"phases": phases, "groups": head, "probe": "usual"}) == 300
    assert most_trainable({"phases": [], "groups": head, "probe": "required"}) == 10
    assert most_trainable({"phases": [], "groups": head, "probe": None}) == 0
    assert split_outputs("a").trained.seconds == 3.5


def test_spread_is_the_standard_deviation_over_seeds() -> None:
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([0.5]) == (0.5, None)
    assert mean_and_spread([0.5, None]) == (None, None)
    assert mean_and_spread([0.5, float("nan")]) == (None, None)


@pytest.mark.parametrize("images", [*range(40), 101, 1000])
def test_the_smallest_difference_is_significant(images: int) -> None:
    needed, differing = smallest_difference(images), max(images, 6)
    assert binomtest((differing + needed) // 2, differing).pvalue < 0.05
    assert needed <= 2 or binomtest((differing + needed) // 2 - 1, differing).pvalue >= 0.05
