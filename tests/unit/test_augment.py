"""The levels of augmentation: what each option does to an image, and where randomness comes from."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ftkit.api import Preprocessing
from ftkit.errors import RequestError
from ftkit.transforms.augmentation import (
    LEVELS,
    Augmentation,
    Changes,
    Light,
    Standard,
    Strong,
    Unchanged,
    check_channels,
)
from ftkit.transforms.pipeline import evaluation, training
from tests.transformed import transformed

UNAUGMENTED: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
GREY = Preprocessing(size=32, crop_pct=1.0, mean=(0.25,), std=(0.5,))
COLOUR = Preprocessing(size=32, crop_pct=1.0, mean=(0.5, 0.25, 0.75), std=(0.5, 0.5, 0.5))


def noise(width: int = 32, height: int = 32, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def drawn(changes: Augmentation, image: Image.Image, seeds: int = 40, pre: Preprocessing = COLOUR) -> list[Any]:
    transform = training(pre, changes)
    found = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        found.append(transformed(transform, image))
    return found


def part_changed(changes: Changes, image: Image.Image, pre: Preprocessing = COLOUR) -> float:
    plain = transformed(evaluation(pre), image)
    results = drawn(changes, image, 200, pre)
    return sum(not torch.equal(result, plain) for result in results) / len(results)


def test_the_levels_and_their_numbers() -> None:
    assert list(LEVELS)[:4] == ["none", "light", "standard", "strong"]
    assert asdict(Unchanged()) == {}
    assert (Light().scale, Light().ratio, Light().flip) == ((0.8, 1.0), (0.9, 1.1), 0.0)
    assert (Standard().scale, Standard().ratio, Standard().flip) == ((0.35, 1.0), (0.75, 4 / 3), 0.5)
    assert asdict(Strong()) == asdict(Standard()) | {"trivial": True, "erase": 0.1}


def test_with_everything_off_a_square_image_is_as_in_evaluation() -> None:
    assert part_changed(Standard(**UNAUGMENTED), noise()) == 0.0


@pytest.mark.parametrize("level", [Light, Standard])
def test_only_torchs_generator_is_drawn_from(level: type[Light | Standard]) -> None:
    everything = level(rotate=15, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, erase=0.5, trivial=True)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = drawn(everything, noise(48, 40))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(2)
    np.random.seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, drawn(everything, noise(48, 40)), strict=True))


@pytest.mark.parametrize(
    ("option", "value", "low", "high"),
    [
        ("flip", 0.25, 0.15, 0.35),
        ("erase", 0.25, 0.15, 0.35),
        ("rotate", 20.0, 0.9, 1.0),
        ("brightness", 0.3, 0.9, 1.0),
        ("contrast", 0.3, 0.9, 1.0),
        ("saturation", 0.3, 0.9, 1.0),
        ("hue", 0.2, 0.9, 1.0),
        ("trivial", True, 0.7, 1.0),
        ("scale", (0.5, 0.6), 1.0, 1.0),
    ],
)
def test_each_option_changes_images_as_often_as_it_says(option: str, value: Any, low: float, high: float) -> None:
    assert low <= part_changed(Standard(**(UNAUGMENTED | {option: value})), noise()) <= high


def test_the_crop_keeps_the_part_and_the_ratio_that_are_asked_for() -> None:
    """Columns count upwards and rows too, so that the ends of a crop tell its width and height."""
    columns = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    rows = columns.transpose(Image.Transpose.TRANSPOSE)
    pre = Preprocessing(size=200, crop_pct=1.0, mean=(0.0,), std=(1.0,))
    changes = Standard(scale=(0.25, 0.25), ratio=(4.0, 4.0), flip=0.0)

    def span(image: Image.Image) -> float:
        tensor = drawn(changes, image, 1, pre)[0] * 255
        return float(tensor.max() - tensor.min()) + 1

    assert span(columns) == pytest.approx(200, abs=2)
    assert span(rows) == pytest.approx(50, abs=2)


def test_erased_and_uncovered_parts_take_the_mean_colour() -> None:
    white = Image.new("RGB", (32, 32), "white")
    erased = drawn(Standard(**UNAUGMENTED, erase=1.0, erase_scale=(0.25, 0.25)), white, 5)
    for image in erased:
        assert (image == 0).all(dim=0).float().mean() == pytest.approx(0.25, abs=0.05)
    corners = torch.stack(drawn(Standard(**UNAUGMENTED, rotate=45), white, 20))[:, :, 0, 0]
    assert corners.abs().amin(dim=0).max() < 0.01


@pytest.mark.parametrize("level", LEVELS)
def test_grey_images_work_with_every_level(level: str) -> None:
    for image in drawn(LEVELS[level](), noise(50, 40, "L"), 30, GREY):
        assert image.shape == (1, 32, 32)
        assert image.isfinite().all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": (0.0, 1.0)}, "augment.scale is 0 to 1 (give a minimum and a maximum, more than 0 and at most 1)"),
        ({"scale": (0.9, 0.5)}, "augment.scale is 0.9 to 0.5"),
        ({"ratio": (0.5, float("inf"))}, "augment.ratio is 0.5 to inf"),
        ({"flip": 1.5}, "augment.flip is 1.5 (give a number from 0 to 1)"),
        ({"hue": 0.6}, "augment.hue is 0.6 (give a number from 0 to 0.5)"),
        ({"rotate": float("nan")}, "augment.rotate is nan"),
        ({"erase_scale": (0.1, 0.2)}, "augment.erase_scale is set, but nothing is erased (set augment.erase too)"),
    ],
)
def test_values_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        Standard(**options)
    assert says in str(caught.value)


def test_changes_of_colour_are_refused_on_grey_images() -> None:
    check_channels(Strong(brightness=0.2), 1)
    check_channels(Strong(hue=0.1), 3)
    with pytest.raises(RequestError, match=r"augment\.hue has no effect on grey images"):
        check_channels(Strong(hue=0.1), 1)
