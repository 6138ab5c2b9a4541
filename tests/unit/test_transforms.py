"""Preprocessing: what a network sees is what it was trained on, and random changes obey the seed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import ResNet18_Weights, ViT_B_16_Weights

from ftkit.api import IMAGENET_STD, Preprocessing, open_image
from ftkit.transforms.augmentation import LEVELS, Light
from ftkit.transforms.pipeline import evaluation, training
from tests.transformed import transformed

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "hymenoptera" / "val" / "bees"
GREY = Preprocessing(size=4, crop_pct=1.0, mean=(0.0,), std=(1.0,))


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


ONE_LEVEL = 1 / 255 / min(IMAGENET_STD) + 1e-6
"""Of 255, after normalisation."""


def agrees(pre: Preprocessing, preset: Callable[[Any], Tensor], image: Image.Image) -> bool:
    """Whether torchvision's preset gives the same of the PIL image, but for single levels here and there."""
    apart = (transformed(evaluation(pre), image) - preset(image.convert("RGB"))).abs()
    return bool(apart.max() < ONE_LEVEL) and bool(apart.mean() < ONE_LEVEL / 4)


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (224, 224), (31, 47), (1, 20), (301, 300)])
def test_equals_torchvisions_preset(size: tuple[int, int]) -> None:
    assert agrees(Preprocessing(), ResNet18_Weights.IMAGENET1K_V1.transforms(), noise(*size))


@pytest.mark.shared
def test_equals_torchvisions_preset_on_photographs() -> None:
    if not PHOTOS.is_dir():
        pytest.skip("../shared isn't there")
    photos = sorted(PHOTOS.glob("*.jpg"))[:12]
    assert len(photos) == 12
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert all(agrees(Preprocessing(), preset, open_image(photo)) for photo in photos)


def test_equals_a_bicubic_preset_of_another_size() -> None:
    preset = ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms()
    pre = Preprocessing(size=384, crop_pct=1.0, interpolation="bicubic")
    image = noise(400, 300)
    assert agrees(pre, preset, image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
@pytest.mark.parametrize("mean", [(0.5,), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_every_mode_becomes_the_same_shape(mode: str, mean: tuple[float, ...], fit: str) -> None:
    pre = Preprocessing(size=24, mean=mean, std=mean, fit=fit)  # type: ignore[arg-type]
    image = noise(40, 30, "L").convert("I").convert("I;16") if mode == "I;16" else noise(40, 30, mode)
    for level in LEVELS.values():
        tensor = transformed(training(pre, level()), image)
        assert tensor.shape == (len(mean), 24, 24)
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()


def test_normalises_by_mean_and_spread() -> None:
    pre = Preprocessing(size=2, crop_pct=1.0, mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    tensor = transformed(evaluation(pre), Image.new("RGB", (2, 2), (255, 51, 0)))
    assert tensor[:, 0, 0].tolist() == pytest.approx([1.0, 0.2, -4.0])


def halves(width: int, height: int) -> Image.Image:
    """Black on the left, white on the right."""
    image = Image.new("L", (width, height), 0)
    image.paste(255, (width // 2, 0, width, height))
    return image


def test_crop_keeps_the_middle() -> None:
    image = Image.new("L", (12, 4), 0)
    image.paste(255, (4, 0, 8, 4))
    assert transformed(evaluation(GREY), image).tolist() == [[[1.0] * 4] * 4]


def test_stretch_keeps_everything() -> None:
    stretched = evaluation(Preprocessing(size=4, mean=(0.0,), std=(1.0,), fit="stretch", interpolation="nearest"))
    assert transformed(stretched, halves(12, 4)).tolist() == [[[0.0, 0.0, 1.0, 1.0]] * 4]


def test_pad_adds_bars_of_exactly_the_mean_colour() -> None:
    pre = Preprocessing(size=4, mean=(0.3,), std=(0.5,), fit="pad", interpolation="nearest")
    tensor = transformed(evaluation(pre), Image.new("L", (8, 4), 255))
    bar, body = [0.0] * 4, pytest.approx([1.4] * 4)
    assert tensor[0].tolist() == [bar, body, body, bar]


def test_pad_of_an_odd_difference_is_still_square() -> None:
    pre = Preprocessing(size=7, fit="pad")
    assert transformed(evaluation(pre), noise(70, 40)).shape == (3, 7, 7)
    assert transformed(evaluation(pre), noise(1, 400)).shape == (3, 7, 7)


def test_a_hair_thin_image_doesnt_fill_the_memory() -> None:
    # Resized whole, its long side would be 256 million pixels.
    tensor = transformed(evaluation(Preprocessing()), Image.new("RGB", (1_000_000, 1), "white"))
    assert tensor.shape == (3, 224, 224)
    assert torch.allclose(tensor, tensor[:, :1, :1].expand_as(tensor))


@pytest.mark.parametrize("level", ["light", "standard", "strong"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_training_is_a_function_of_torchs_seed(level: str, fit: str) -> None:
    transform = training(Preprocessing(size=16, fit=fit), LEVELS[level]())  # type: ignore[arg-type]
    image = noise(48, 32)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transformed(transform, image)

    assert torch.equal(drawn(3), drawn(3))
    assert len({drawn(seed).numpy().tobytes() for seed in range(8)}) == 8


def test_level_none_is_evaluation() -> None:
    assert training(Preprocessing(), LEVELS["none"]()) == evaluation(Preprocessing())


@pytest.mark.parametrize(("level", "flips"), [("light", False), ("standard", True)])
def test_only_standard_flips(level: str, flips: bool) -> None:
    transform = training(GREY, LEVELS[level]())
    found = set()
    for seed in range(40):
        torch.manual_seed(seed)
        tensor = transformed(transform, halves(40, 40))
        found.add(bool(tensor[0, 0, 0] > tensor[0, 0, -1]))
    assert found == ({False, True} if flips else {False})


def test_light_crops_of_a_photograph_vary_and_keep_most_of_the_square() -> None:
    # The image's columns count upwards, so that a crop's ends tell how wide it is.
    ramp = Image.fromarray(np.tile(np.arange(150, dtype=np.uint8), (100, 1)))
    transform = training(Preprocessing(size=100, mean=(0.0,), std=(1.0,)), Light())
    widths = []
    for seed in range(60):
        torch.manual_seed(seed)
        row = transformed(transform, ramp)[0, 50] * 255
        widths.append(float(row.max() - row.min()))
    assert 80 <= min(widths) < 90
    assert 97 < max(widths) <= 100


def test_stretched_crops_keep_the_images_proportions() -> None:
    # A 3:1 image: a crop that ignored its proportions could never hold more than a third of its columns.
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (80, 1)))
    transform = training(Preprocessing(size=80, mean=(0.0,), std=(1.0,), fit="stretch"), Light())
    torch.manual_seed(0)
    row = transformed(transform, ramp)[0, 40] * 255
    assert float(row.max() - row.min()) > 190


@pytest.mark.parametrize("level", LEVELS)
def test_survives_pickling_for_workers(level: str) -> None:
    transform = training(Preprocessing(size=16), LEVELS[level]())
    torch.manual_seed(1)
    here = transformed(transform, noise(30, 20))
    torch.manual_seed(1)
    assert torch.equal(transformed(pickle.loads(pickle.dumps(transform)), noise(30, 20)), here)
