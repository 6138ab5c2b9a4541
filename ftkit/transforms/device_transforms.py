"""The transforms after the crop, on whole batches on the device.

On a GPU, workers send 8-bit pixels, a quarter of the size of the network's input, together with the random numbers of
all further changes. The worker draws the same numbers as in `transforms.pipeline`, so a sample is the same function of
the seed either way, within a few levels of 255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from ftkit.transforms import device_operations as ops
from ftkit.transforms.augmentation import Changes
from ftkit.transforms.preprocessing import Preprocessing

RandomParams = dict[str, Tensor]
"""The random numbers of one image, by name; the names depend on the transform alone."""

BODY = "body"
"""Name of the box of a padded image without its bars."""


@dataclass(frozen=True)
class DeviceTransforms:
    """Turns batches of cropped images into the network's input.

    Attributes:
        changes: None in evaluation.
    """

    preprocessing: Preprocessing
    changes: Changes | None = None

    def __call__(self, pixels: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Normalised images, float32 `(b, channels, size, size)`, in the memory layout of the pixels.

        Args:
            pixels: uint8 `(b, channels, size, size)`.
            params: `(b, ...)`, on the device of the pixels.
        """
        fill = mean_colour(self.preprocessing)
        if "flip" in params:
            pixels = ops.flip(pixels, params["flip"])
        images = pixels.float()
        if "angle" in params:
            images = ops.rotate(images, params["angle"], fill)
        if "order" in params:
            images = _jitter(images, params["order"], params["factors"])
        if "kind" in params:
            images = _apply_kind(images, params["kind"], params["strength"], fill)
        images = normalise(images, self.preprocessing)
        # Zero is now the mean colour.
        if BODY in params:
            images = images * ops.inside_boxes(params[BODY], self.preprocessing.size)
        if "erased" in params:
            images = images.masked_fill(ops.inside_boxes(params["erased"], self.preprocessing.size), 0.0)
        return images


def draw_params(change: v2.Transform, shape: Sequence[int]) -> RandomParams:
    """The random numbers that a transform draws for an image of `(channels, height, width)`."""
    if isinstance(change, v2.RandomRotation):
        return {"angle": torch.tensor(change.make_params([])["angle"])}
    if isinstance(change, v2.ColorJitter):
        found = change.make_params([])
        factors = [found[f"{name}_factor"] for name in JITTERS]
        plain = [0.0 if name == "hue" else 1.0 for name in JITTERS]
        values = [unchanged if factor is None else factor for factor, unchanged in zip(factors, plain, strict=True)]
        return {"order": found["fn_idx"], "factors": torch.tensor(values)}
    if isinstance(change, v2.TrivialAugmentWide):
        return _draw_kind(change.num_magnitude_bins)
    assert isinstance(change, v2.RandomErasing), f"{change} has no batched form"
    if float(torch.rand(1)) >= change.p:
        return {"erased": torch.zeros(4, dtype=torch.int64)}
    found = change.make_params([torch.empty(*shape, device="meta")])
    return {"erased": torch.tensor([found[name] if found["v"] is not None else 0 for name in "ijhw"])}


JITTERS = ("brightness", "contrast", "saturation", "hue")
"""In the order in which v2 numbers them."""


def _jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, in an order of its own for each image.

    Args:
        order: int64 `(b, 4)`, indices into `JITTERS`.
        factors: float32 `(b, 4)`, in the order of `JITTERS`.
    """
    brightness, contrast, saturation, turns = factors.unbind(dim=1)
    for turn in range(len(JITTERS)):
        which = order[:, turn]
        parts = torch.where(which == 0, brightness, torch.where(which == 1, contrast, saturation))
        choices = [ops.black(images), ops.mean_grey(images), ops.grey(images)]
        other = _choose(choices, which.clamp(max=2))
        mixed, shifted = ops.blend(images, other, parts), ops.shift_hue(images, turns)
        images = _choose([mixed, shifted], (which == 3).long())
    return images


KINDS: tuple[tuple[str, tuple[float, float] | None, bool], ...] = (
    ("identity", None, False),
    ("shear x", (0.0, 0.99), True),
    ("shear y", (0.0, 0.99), True),
    ("translate x", (0.0, 32.0), True),
    ("translate y", (0.0, 32.0), True),
    ("rotate", (0.0, 135.0), True),
    ("brightness", (0.0, 0.99), True),
    ("colour", (0.0, 0.99), True),
    ("contrast", (0.0, 0.99), True),
    ("sharpness", (0.0, 0.99), True),
    ("posterize", (8.0, 2.0), False),
    ("solarize", (1.0, 0.0), False),
    ("stretch", None, False),
    ("equalize", None, False),
)
"""TrivialAugment's operations in v2's order: name, minimum and maximum strength, and whether it may be negative."""
PLACE = {name: place for place, (name, _, _) in enumerate(KINDS)}


def _draw_kind(bins: int) -> RandomParams:
    kind = int(torch.randint(len(KINDS), ()))
    name, ends, signed = KINDS[kind]
    strength = 0.0
    if ends is not None:
        strength = float(torch.linspace(*ends, bins)[int(torch.randint(bins, ()))])
        if name == "posterize":
            strength = float(round(strength))
        if signed and float(torch.rand(())) <= 0.5:
            strength = -strength
    return {"kind": torch.tensor(kind), "strength": torch.tensor(strength)}


def _apply_kind(images: Tensor, kind: Tensor, strength: Tensor, fill: Sequence[int]) -> Tensor:
    """Apply one operation to each image, of its own kind and strength."""
    images = ops.resample(images, _kind_matrices(kind, strength, images.shape[-1]), fill, "nearest")
    pixels = images.round().to(torch.uint8)
    mixed: dict[str, Callable[[Tensor], Tensor]] = {
        "brightness": ops.black,
        "colour": ops.grey,
        "contrast": ops.mean_grey,
        "sharpness": ops.blur,
    }
    found = {name: ops.blend(images, other(images), 1 + strength) for name, other in mixed.items()}
    found["posterize"] = ops.posterize(images, strength.clamp(1, 8))
    found["solarize"] = ops.solarize(images, ops.TOP * strength)
    found["stretch"], found["equalize"] = ops.autocontrast(pixels).float(), ops.equalize(pixels).float()
    for name, changed in found.items():
        images = torch.where((kind == PLACE[name])[:, None, None, None], changed, images)
    return images


def _kind_matrices(kind: Tensor, strength: Tensor, size: int) -> Tensor:
    """Matrices for `ops.resample` by kind of operation."""
    matrices = ops.identity(strength)
    rotate = ops.rotation(strength)
    is_kind = {name: kind == place for name, place in PLACE.items()}
    matrices = torch.where(is_kind["rotate"][:, None, None], rotate, matrices)
    none = torch.zeros_like(strength)
    # Shears keep the top or the left edge, at -1, in place; translations are by whole pixels.
    for name, row, column in (("shear x", 0, 1), ("shear y", 1, 0)):
        shear = torch.where(is_kind[name], strength, none)
        matrices[:, row, column] += shear
        matrices[:, row, 2] += shear
    for name, row in (("translate x", 0), ("translate y", 1)):
        matrices[:, row, 2] -= torch.where(is_kind[name], strength.trunc() * 2 / size, none)
    return matrices


def _choose(choices: Sequence[Tensor], which: Tensor) -> Tensor:
    """For each image the one from the batch of its number."""
    result = choices[0]
    for place, choice in enumerate(choices[1:], 1):
        result = torch.where((which == place)[:, None, None, None], choice, result)
    return result


def mean_colour(preprocessing: Preprocessing) -> list[int]:
    """The value of each channel that normalisation turns into nearly zero."""
    return [round(255 * value) for value in preprocessing.mean]


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`(images / 255 - mean) / std`, float32, for one image or a batch of any type."""
    scale = ops.constants(tuple(1 / (255 * std) for std in preprocessing.std), images.device)
    shift = ops.constants(
        tuple(-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)), images.device
    )
    return images.to(torch.float32).mul_(scale).add_(shift)
