"""Transforms of batches on the device equal those of single images in the workers, within a few levels of 255."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ftkit.api import Preprocessing
from ftkit.data.loading.pixels import pixels_of
from ftkit.transforms.augmentation import Changes, Light, Standard, Strong
from ftkit.transforms.device_transforms import KINDS, RandomParams
from ftkit.transforms.pipeline import Transform, evaluation, training

PREPROCESSING = Preprocessing(size=48)
SEEDS = 24


def photograph(number: int, channels: int = 3) -> Tensor:
    """Pixels as smooth as a photograph's, and another one for each number."""
    rough = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return pixels_of(Image.fromarray(rough).resize((80, 60), Image.Resampling.BICUBIC), channels)


def both(transform: Transform, seeds: range) -> tuple[Tensor, Tensor, list[RandomParams]]:
    """Images transformed by a worker and on the device, in levels of 255, and the random parameters."""
    preprocessing = transform.device_transforms.preprocessing
    alone, cropped, params = [], [], []
    for seed in seeds:
        pixels = photograph(seed, preprocessing.channels)
        torch.manual_seed(seed)
        alone.append(transform(pixels))
        after = torch.rand(1)
        torch.manual_seed(seed)
        image, drawn = transform.crop(pixels)
        assert image.dtype == torch.uint8
        assert torch.equal(torch.rand(1), after), "as many numbers are drawn"
        cropped.append(image)
        params.append(drawn)
    stacked = {name: torch.stack([drawn[name] for drawn in params]) for name in params[0]}
    together = transform.device_transforms(torch.stack(cropped), stacked)
    assert together.dtype == torch.float32
    levels = 255 * torch.tensor(preprocessing.std)[:, None, None]
    return torch.stack(alone) * levels, together * levels, params


def apart(transform: Transform, seeds: range = range(SEEDS)) -> Tensor:
    """Mean difference of each image, in levels."""
    alone, together, _ = both(transform, seeds)
    return (alone - together).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_evaluation_is_the_same_bit_for_bit(fit: Any) -> None:
    alone, together, _ = both(evaluation(replace(PREPROCESSING, fit=fit)), range(3))
    assert torch.equal(alone, together)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_crops_flips_and_erased_parts_are_the_same_bit_for_bit(fit: Any) -> None:
    alone, together, params = both(training(replace(PREPROCESSING, fit=fit), Standard(erase=0.5)), range(SEEDS))
    assert torch.equal(alone, together)
    assert 0 < sum(bool(drawn["flip"]) for drawn in params) < SEEDS
    assert 0 < sum(bool(drawn["erased"][2]) for drawn in params) < SEEDS


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"brightness": 0.5}, 0.7),
        ({"contrast": 0.5}, 0.7),
        ({"saturation": 0.5}, 0.7),
        # PIL has 256 hues, and rounds each part of a colour twice.
        ({"hue": 0.5}, 2.5),
        ({"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}, 1.6),
        ({"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}, 3.5),
        ({"rotate": 45.0}, 0.7),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_colours_and_angles_are_within_a_few_levels(options: dict[str, float], levels: float) -> None:
    plain, changed = Light(), Light(**options)  # type: ignore[arg-type]
    assert apart(training(PREPROCESSING, changed)).max() < levels
    moved = [both(training(PREPROCESSING, one), range(SEEDS))[0] for one in (plain, changed)]
    assert (moved[0] - moved[1]).abs().mean() > 5 * levels / 3, "the change is larger than what it is compared within"


def test_corners_of_rotated_images_are_pils() -> None:
    alone, together, _ = both(training(PREPROCESSING, Light(rotate=90)), range(SEEDS))
    assert (alone - together).abs().max() < 1.01


def test_each_kind_of_trivial_augment_is_what_pil_makes_of_it() -> None:
    seeds = range(250)
    transform = training(PREPROCESSING, Light(trivial=True))
    alone, together, params = both(transform, seeds)
    apart = (alone - together).abs().mean(dim=(1, 2, 3))
    worst: dict[str, float] = {}
    for drawn, difference in zip(params, apart.tolist(), strict=True):
        name = KINDS[int(drawn["kind"])][0]
        worst[name] = max(worst.get(name, 0.0), difference)
    assert worst.keys() == {name for name, _, _ in KINDS}
    assert all(difference < 0.7 for difference in worst.values()), worst


@pytest.mark.parametrize("changes", [Light(), Strong(), Light(brightness=0.4, contrast=0.4, rotate=20, erase=0.3)])
def test_grey_images_are_too(changes: Changes) -> None:
    preprocessing = Preprocessing(size=32, mean=(0.4,), std=(0.3,))
    # PIL rounds after each of up to three changes, and contrast makes more of it.
    assert apart(training(preprocessing, changes)).max() < 2.5


def test_an_image_is_the_same_in_every_batch() -> None:
    transform = training(PREPROCESSING, Strong(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1, rotate=20))
    _, many, _ = both(transform, range(6))
    _, few, _ = both(transform, range(2))
    assert torch.allclose(many[:2], few, atol=0.01)
