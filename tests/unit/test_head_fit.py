"""The linear fit of a head: scikit-learn's optimum, and the cross-validated accuracy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ftkit.api import Multilabel
from ftkit.tasks.fold_fits import fold_predictions, label_scores
from ftkit.tasks.head_fit import cross_validated, fit_multinomial


def clouds(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points, each class around its own centre; features of very different sizes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, 12)) * 1.5
    points = (centres[labels] + rng.normal(size=(count, 12))) * np.logspace(-1, 2, 12) + 5
    return torch.from_numpy(points).float(), torch.from_numpy(labels)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_solution_is_that_of_scikit_learn_on_the_same_features(classes: int) -> None:
    x, y = clouds(210, classes)
    solution = fit_multinomial(x, y, classes)
    scaled = (x.double().numpy() - x.double().numpy().mean(0)) / x.double().numpy().std()
    theirs = LogisticRegression(C=solution.strength, max_iter=1000).fit(scaled, y.numpy())
    ours = (x.double() @ solution.weight.double().T + solution.bias.double()).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(scaled)).max() < 2e-3
    assert (ours.argmax(1) == theirs.predict(scaled)).mean() == 1.0


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("features", [6, 60])
@pytest.mark.parametrize("classes", [2, 3])
def test_models_of_all_folds_predict_what_scikit_learn_predicts(classes: int, features: int, intercept: bool) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % classes
    x = rng.normal(size=(40, features)) + rng.normal(size=(classes, features))[y] * 0.3
    weights = rng.choice([0.0, 1.0, 2.5], size=(5, 40))
    strengths = (1e-4, 0.01, 1.0)
    ((part, predicted),) = fold_predictions(x, y, weights, strengths, intercept, 1e-5)
    assert predicted.shape == (3, 40, 5)
    for strength, ours in zip(strengths, predicted, strict=True):
        for fold in range(5)[part]:
            model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000, fit_intercept=intercept)
            model.fit(x, y, sample_weight=weights[fold])
            assert (ours[:, fold] == model.predict(x)).all()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("features", [6, 60])
def test_models_of_several_labels_give_the_log_odds_of_scikit_learn(features: int, intercept: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, features))
    targets = x @ rng.normal(size=(features, 3)) + rng.normal(size=(40, 3)) > 0
    weights = rng.choice([0.0, 1.0, 2.5], size=(4, 40))
    models, strengths = [(3, 0), (0, 2), (1, 1), (0, 0), (2, 2)], (1e-4, 0.01, 1.0)
    ((part, scores),) = label_scores(x, targets, weights, models, strengths, intercept, 1e-5)
    assert scores.shape == (3, 40, 5)
    for strength, ours in zip(strengths, scores, strict=True):
        for place, (fold, label) in enumerate(models[part]):
            model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000, fit_intercept=intercept)
            model.fit(x, targets[:, label], sample_weight=weights[fold])
            assert ours[:, place] == pytest.approx(model.decision_function(x), abs=3e-3)


def test_folds_are_fitted_in_parts_where_models_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(60, 3)
    weights = np.random.default_rng(0).choice([0.0, 1.0], size=(4, 60))
    ((_, whole),) = fold_predictions(x.double().numpy(), y.numpy(), weights, (0.01,), True, 1e-5)
    monkeypatch.setattr("ftkit.tasks.fold_fits.MOST_VALUES", 3 * 60 * 3)
    parts = list(fold_predictions(x.double().numpy(), y.numpy(), weights, (0.01,), True, 1e-5))
    assert [part for part, _ in parts] == [slice(0, 3), slice(3, 6)]
    assert (np.concatenate([found for _, found in parts], axis=2) == whole).all()


def test_a_class_with_one_image_can_be_solved() -> None:
    x, y = clouds(30, 3)
    keep = torch.cat([torch.where(y != 2)[0], torch.where(y == 2)[0][:1]])
    solution = fit_multinomial(x[keep], y[keep], 3)
    assert solution.strength == 0.01
    assert solution.weight.shape == (3, 12)


def test_balanced_classes_count_equally() -> None:
    x, y = clouds(400, 2)
    few = torch.cat([torch.where(y == 0)[0], torch.where(y == 1)[0][:8]])
    usual, balanced = (fit_multinomial(x[few], y[few], 2, balanced=b) for b in (False, True))
    rest = torch.where(y == 1)[0][8:]
    found = [((x[rest] @ s.weight.T + s.bias).argmax(1) == 1).float().mean() for s in (usual, balanced)]
    assert found[1] > found[0]


def clusters(images: int, classes: int, clusters_each: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in tight clusters on a circle, which are assigned to the classes in turn."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.arange(images) % (classes * clusters_each)
    angle = cluster * 2 * torch.pi / (classes * clusters_each)
    points = torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + 0.05 * torch.randn(images, 2, generator=generator), cluster % classes


def test_tight_clusters_are_separated_by_both_and_mixed_ones_by_neither() -> None:
    assert cross_validated(*clusters(60, 3, 1)) == (1.0, 1.0)
    probe, nearest = cross_validated(*clusters(60, 2, 2))
    assert probe < 0.75
    assert nearest < 0.75


def test_only_the_probe_separates_a_class_inside_another() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    # One axis separates the classes; one class is spread along the other, which is much wider.
    points = torch.stack([labels * 1.0, torch.randn(200, generator=generator) * 20 * labels], dim=1)
    probe, nearest = cross_validated(points, labels)
    assert probe == 1.0
    assert nearest < 0.9


def test_random_labels_are_at_chance() -> None:
    features, _ = clusters(400, 4, 1)
    labels = torch.randint(0, 2, (400,), generator=torch.Generator().manual_seed(1))
    probe, nearest = cross_validated(features, labels)
    assert probe == pytest.approx(0.5, abs=0.1)
    assert nearest == pytest.approx(0.5, abs=0.1)


def test_several_labels_are_measured_by_the_map_of_each_class() -> None:
    features, corner = clusters(120, 4, 1)
    sets = torch.stack([corner < 2, corner % 3 == 0, corner == 3], dim=1)
    assert Multilabel().cross_validate(features, sets.float(), 0) == (1.0, 1.0)
    opposite = (corner % 2 == 0)[:, None].float()
    probe, nearest = Multilabel().cross_validate(features, opposite, 0)
    assert max(probe, nearest) < 0.75, "opposite corners aren't separated by a line"
    drawn = torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    probe, nearest = Multilabel().cross_validate(torch.randn(400, 5), drawn.float(), 0)
    assert probe == pytest.approx(0.3, abs=0.1)
    assert nearest == pytest.approx(0.3, abs=0.1)


def test_the_first_fit_of_a_process_uses_one_thread() -> None:
    """Thread pools that scikit-learn's libraries bring are limited too, even where it wasn't imported before."""
    program = """
import sys
import threadpoolctl
import ftkit.tasks.head_fit as head_fit
assert "sklearn.linear_model" not in sys.modules
with head_fit.single_thread():
    before = len(threadpoolctl.threadpool_info())
    head_fit.regression(1.0, True, False)
    after = threadpoolctl.threadpool_info()
assert len(after) == before and {pool["num_threads"] for pool in after} == {1}, after
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
