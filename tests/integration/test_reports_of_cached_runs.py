"""The features and the report at the end of a run are made of the activations that the run has cached."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ftkit
from tests.conftest import MakeFolder, typed
from tests.runs import Notes, plan

CLASSES = {"train": {"a": 60, "b": 60}, "val": {"a": 40, "b": 40}}
SETTINGS: dict[str, Any] = {"strategy": "freeze", "epochs": 2, "augment": "none", "precision": "fp32", "device": "cpu"}
FEW = 60
"""Images that are computed otherwise: for heat maps, and to try the network."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    return image_folder(tmp_path_factory.mktemp("data"), CLASSES)


def computed_images(data: Path, output: Path, patch: pytest.MonkeyPatch, **settings: Any) -> int:
    """The number of images that the first layer has computed in a run with a cache of its own."""
    count, forward, notes = [0], nn.Conv2d.forward, Notes()

    def counted(layer: nn.Conv2d, images: Tensor) -> Tensor:
        count[0] += len(images) if layer.in_channels == 3 else 0
        return forward(layer, images)

    with patch.context() as inner:
        inner.setattr(nn.Conv2d, "forward", counted)
        inner.setenv("FTKIT_CACHE_DIR", str(output / "cache"))
        ftkit.train(plan(data, output, name="run", **(SETTINGS | settings)), notes)
    assert notes.notes == []
    return count[0]


def test_no_image_is_computed_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = computed_images(data, tmp_path / "bare", monkeypatch, novelty_features=False)
    whole = computed_images(data, tmp_path / "whole", monkeypatch, report=True)
    assert (tmp_path / "whole/run/report.html").is_file()
    assert bare >= 200
    assert whole - bare <= FEW


def test_they_are_those_without_a_cache(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    answers = {}
    for name, used in (("cached", True), ("plain", False)):
        ftkit.train(plan(data, tmp_path, name=name, **SETTINGS, report=True, cache={"use": used}))
        flags = [
            "--model",
            str(tmp_path / name),
            "--novelty",
            "0.05",
            "--json",
            "--device",
            "cpu",
            "--precision",
            "fp32",
        ]
        done = typed("predict", str(data / "val"), *flags)
        assert done.returncode == 0, done.stderr
        answers[name] = [json.loads(line) for line in done.stdout.splitlines()]
    scores = [torch.tensor([[one["probability"], one["novelty"]] for one in each]) for each in answers.values()]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-4)
    pages = ((tmp_path / name / "report.html").read_text(encoding="utf-8") for name in answers)
    cached, plain = (re.findall(r'<section id="slices".*?</section>', page, re.DOTALL) for page in pages)
    assert len(cached) == 1
    assert cached == plain
