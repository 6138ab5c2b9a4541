"""Fitting temperature and vector scaling, and what it changes."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftkit.uncertainty.calibrated_network import calibrated_logits, calibrated_network, uncalibrated_logits
from ftkit.uncertainty.calibration import Calibration, calibrated_decision
from ftkit.uncertainty.calibration_fit import calibration_sample, fit_calibration
from ftkit.uncertainty.calibration_report import pivotal_interval
from ftkit.uncertainty.scaling_fit import fit_temperature, fit_vector
from tests.evaluating import metrics_named, task_named

ERROR = metrics_named("calibration_error")["calibration_error"]


def outputs(images: int, classes: int, factor: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are `factor` times those that the classes are drawn by."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits * factor, torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]


def label_sets(images: int, classes: int, factor: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits * factor, (torch.rand(images, classes, generator=generator) < logits.sigmoid()).float()


def fit(logits: Tensor, targets: Tensor, method: str = "auto", task: str = "multiclass") -> Calibration:
    classes = [str(label) for label in range(logits.shape[1])]
    return fit_calibration(calibration_sample(logits, targets), task_named(task), classes, method, ERROR, "images")


@pytest.mark.parametrize("right", [60, 75, 100])
def test_the_temperature_of_one_margin_has_a_closed_form(right: int) -> None:
    # 100 images at the margin 2, of which some are right: their probability becomes the smoothed rate of right ones.
    logits = torch.tensor([[2.0, 0.0]]).double().repeat(100, 1)
    targets = torch.tensor([0] * right + [1] * (100 - right))
    share = (right / 100 * 101 + (1 - right / 100)) / 102
    (scale,), bias = fit_temperature(logits, targets)
    assert scale == pytest.approx(math.log(share / (1 - share)) / 2, rel=1e-4)
    assert bias == ()
    (scale,), _ = fit_temperature(torch.tensor([[2.0]]).double().repeat(100, 1), 1.0 - targets[:, None].float())
    assert scale == pytest.approx(math.log(share / (1 - share)) / 2, rel=1e-4)


def test_a_model_that_is_right_on_every_image_keeps_a_finite_temperature() -> None:
    (scale,), _ = fit_temperature(torch.tensor([[9.0, 0.0]]).double().repeat(50, 1), torch.zeros(50).long())
    assert torch.tensor(9.0 * scale).sigmoid().item() == pytest.approx(51 / 52, abs=1e-4)


def test_without_information_the_factor_is_the_smallest() -> None:
    logits = torch.tensor([[2.0, 0.0]]).double().repeat(10, 1)
    assert fit_temperature(logits, torch.ones(10).long()) == ((0.02,), ())


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_planted_scaling_is_found_again(task: str) -> None:
    make, loss = (outputs, cross_entropy) if task == "multiclass" else (label_sets, binary_cross_entropy_with_logits)
    logits, targets = make(20_000, 3, 1.0)
    factors, summands = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([1.0, 0.0, -1.0])
    spoilt = (logits * factors + summands).double()
    scale, bias = fit_vector(spoilt, targets)
    assert torch.tensor(scale) * factors == pytest.approx(1, abs=0.06)
    # A summand for all classes of a softmax changes nothing.
    left = torch.tensor(bias) + torch.tensor(scale) * summands
    assert left - (left.mean() if task == "multiclass" else 0) == pytest.approx(0, abs=0.06)
    fitted = loss(calibrated_logits(spoilt.float(), Calibration("vector", scale, bias)), targets)
    assert fitted < loss(logits, targets) + 1e-4


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_probabilities_that_are_too_high_or_too_low_are_calibrated(factor: float) -> None:
    logits, targets = outputs(1000, 4, factor)
    found = fit(logits, targets)
    assert found.method == "temperature"
    assert 1 / found.scale[0] == pytest.approx(factor, rel=0.15)
    assert found.errors is not None
    assert found.errors.uncalibrated_error is not None
    assert found.errors.error < 0.06 < 0.12 < found.errors.uncalibrated_error
    low, high = found.errors.change_interval
    assert low is not None
    assert high is not None
    assert low < found.errors.error - found.errors.uncalibrated_error < high < -0.05
    assert found.loss == pytest.approx(cross_entropy(logits, targets).item(), rel=1e-5)
    assert found.calibrated_loss is not None
    assert found.loss is not None
    assert found.calibrated_loss < found.loss - 0.02
    assert torch.equal(calibrated_logits(logits, found).argmax(dim=1), logits.argmax(dim=1))


def test_calibrated_probabilities_are_left_as_they_are() -> None:
    found = [fit(*outputs(200, 4, 1.0, seed)) for seed in range(20)]
    assert sum(one.method == "none" for one in found) >= 15, "a gain of a standard error by chance is rare"
    kept_out = next(one for one in found if one.method == "none")
    assert (kept_out.scale, kept_out.bias) == ((), ())
    assert "doesn't lower the log loss" in kept_out.reason


def test_what_cannot_be_calibrated_has_a_reason() -> None:
    logits, targets = outputs(60, 3, 3.0)
    assert fit(logits[:49], targets[:49]).reason == "it needs 50 images or more"
    logits[7, 1] = math.nan
    assert fit(logits, targets).reason == "some outputs are not finite"
    assert fit(torch.zeros(60, 1), torch.zeros(60).long()).reason == "there is one class alone"


def test_of_many_images_a_sample_is_used_always_the_same() -> None:
    logits, targets = torch.arange(3000.0)[:, None].expand(3000, 1500), torch.arange(3000)
    one, other = (calibration_sample(logits, targets) for _ in range(2))
    assert len(one.logits) == 2000
    assert torch.equal(one.targets, other.targets)
    assert torch.equal(one.logits[:, 0].long(), one.targets)


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_calibration_changes_no_prediction_of_label_sets(method: str) -> None:
    logits, targets = label_sets(400, 3, 2.0)
    task = task_named("multilabel")
    decision = task.fit_decision(logits, targets)
    found = fit(logits, targets, method, "multilabel")
    assert found.method == method
    applied = calibrated_decision(decision, found, 3)
    before = task.outputs(logits, targets, "abc", decision).predicted
    after = task.outputs(calibrated_logits(logits, found), targets, "abc", applied).predicted
    assert (before == after).all()
    assert before.any(axis=0).all()
    assert applied != decision
    assert calibrated_decision({}, found, 3) == {}, "0.5 for each class isn't written down"


def test_a_network_and_its_outputs_are_calibrated_alike_and_back() -> None:
    network, images = nn.Linear(5, 3).eval(), torch.randn(4, 5)
    vector = Calibration("vector", (2.0, 0.5, 1.0), (0.0, 1.0, -1.0))
    with torch.no_grad():
        logits = network(images)
        found = calibrated_network(network, vector, torch.device("cpu"))(images)
    calibrated = calibrated_logits(logits, vector)
    assert torch.equal(found, calibrated)
    assert torch.equal(calibrated[:, 1], logits[:, 1] * 0.5 + 1)
    torch.testing.assert_close(uncalibrated_logits(calibrated, vector), logits)
    assert calibrated_network(network, None, torch.device("cpu")) is network
    assert calibrated_network(network, Calibration(), torch.device("cpu")) is network
    places = [2, 0, 1]
    assert torch.equal(calibrated_logits(logits[:, places], vector.reordered(places)), calibrated[:, places])


def test_the_interval_is_turned_around_the_value() -> None:
    draws = torch.linspace(0.1, 0.3, 1001).numpy()
    low, high = pivotal_interval(0.15, draws)
    assert low == pytest.approx(0.005, abs=1e-6)
    assert high == pytest.approx(0.195)
    assert pivotal_interval(0.12, draws)[0] == 0, "no error is negative"
    assert asdict(Calibration())["errors"] is None
