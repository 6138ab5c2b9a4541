"""The measurement behind a recommendation."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

import ftkit
from ftkit.experiments import recommend as engine


def test_at_most_two_thousand_images_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_IMAGES", 50)
    seen: list[int] = []

    def counted(plan: Any, images: Any, tell: Any) -> tuple[float, float]:
        seen.append(len(images))
        return 0.9, 0.9

    monkeypatch.setattr(engine, "measure", counted)
    ftkit.plan(strategy="auto", workers=0, device="cpu")
    assert seen == [50]


def test_non_finite_features_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    build = vars(engine)["build_model"]

    def spoilt(plan: Any) -> Any:
        model = build(plan)
        for parameter in model.network.parameters():
            nn.init.constant_(parameter, float("nan"))
        return model

    monkeypatch.setattr(engine, "build_model", spoilt)
    with pytest.raises(ftkit.FtkitError, match="not finite"):
        ftkit.plan(strategy="auto", train_samples=60, workers=0, device="cpu")
