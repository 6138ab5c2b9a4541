"""What is left of a transform once a worker has cropped an image: drawn by the worker, done with the whole batch.

On a GPU, workers send pixels of 8 bits, a quarter of what the network takes, with the random numbers of all further
changes beside them. The numbers are those that the worker would have drawn for itself (`input.transforms`), so that a
sample is the same function of the seed either way, but for a few levels of 255.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from ftkit.transforms import device_operations as bc
from ftkit.transforms.augmentation import Changes
from ftkit.transforms.preprocessing import Preprocessing

RandomParams = dict[str, Tensor]
"""Of one image, without a dimension for the batch: what it is and isn't there for depends on the transform alone."""

BODY = "body"
"""The box of what isn't a padded image's bars."""


@dataclass(frozen=True)
class DeviceTransforms:
    """What is done with a batch.

    Attributes:
        changes: None for what evaluation sees.
    """

    pre: Preprocessing
    changes: Changes | None = None

    def __call__(self, pixels: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Images float32 `(b, channels, size, size)`, normalised, of uint8 pixels in the same memory layout.

        Args:
            draws: `(b, ...)`, on the device of the pixels.
        """
        fill = mean_colour(self.pre)
        if "flip" in params:
            pixels = bc.flipped(pixels, params["flip"])
        images = pixels.float()
        if "angle" in params:
            images = bc.turned(images, params["angle"], fill)
        if "order" in params:
            images = _jittered(images, params["order"], params["factors"])
        if "kind" in params:
            images = _varied(images, params["kind"], params["strength"], fill)
        images = normalised(images, self.pre)
        # Zero is the mean colour now.
        if BODY in params:
            images = images * bc.within(params[BODY], self.pre.size)
        if "erased" in params:
            images = images.masked_fill(bc.within(params["erased"], self.pre.size), 0.0)
        return images


def draw_params(change: v2.Transform, shape: Sequence[int]) -> RandomParams:
    """A change's random numbers, as it would draw them itself for an image of `(channels, height, width)`."""
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
    assert isinstance(change, v2.RandomErasing), f"{change} has no form for batches"
    if float(torch.rand(1)) >= change.p:
        return {"erased": torch.zeros(4, dtype=torch.int64)}
    found = change.make_params([torch.empty(*shape, device="meta")])
    return {"erased": torch.tensor([found[name] if found["v"] is not None else 0 for name in "ijhw"])}


JITTERS = ("brightness", "contrast", "saturation", "hue")
"""In the order of v2's numbers for them."""


def _jittered(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image's in an order of its own.

    Args:
        order: int64 `(b, 4)`, places in `JITTERS`.
        factors: float32 `(b, 4)`, in the order of `JITTERS`.
    """
    brightness, contrast, saturation, turns = factors.unbind(dim=1)
    for turn in range(len(JITTERS)):
        which = order[:, turn]
        parts = torch.where(which == 0, brightness, torch.where(which == 1, contrast, saturation))
        choices = [bc.black(images), bc.even(images), bc.grey(images)]
        other = _chosen(choices, which.clamp(max=2))
        mixed, shifted = bc.blended(images, other, parts), bc.hue_turned(images, turns)
        images = _chosen([mixed, shifted], (which == 3).long())
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
"""TrivialAugment's, in v2's order: their name, least and greatest strength, and whether it may be turned around."""
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


def _varied(images: Tensor, kind: Tensor, strength: Tensor, fill: Sequence[int]) -> Tensor:
    """One change of each image, of its own kind and strength."""
    images = bc.moved(images, _places(kind, strength, images.shape[-1]), fill, "nearest")
    pixels = images.round().to(torch.uint8)
    mixed: dict[str, Callable[[Tensor], Tensor]] = {
        "brightness": bc.black,
        "colour": bc.grey,
        "contrast": bc.even,
        "sharpness": bc.blurred,
    }
    found = {name: bc.blended(images, other(images), 1 + strength) for name, other in mixed.items()}
    found["posterize"] = bc.posterized(images, strength.clamp(1, 8))
    found["solarize"] = bc.solarized(images, bc.TOP * strength)
    found["stretch"], found["equalize"] = bc.stretched(pixels).float(), bc.equalized(pixels).float()
    for name, changed in found.items():
        images = torch.where((kind == PLACE[name])[:, None, None, None], changed, images)
    return images


def _places(kind: Tensor, strength: Tensor, size: int) -> Tensor:
    """Where pixels come from, by kind: matrices as `moved` takes them."""
    matrices = bc.identity(strength)
    turned = bc.rotation(strength)
    is_kind = {name: kind == place for name, place in PLACE.items()}
    matrices = torch.where(is_kind["rotate"][:, None, None], turned, matrices)
    none = torch.zeros_like(strength)
    # Shears leave the top or the left edge, which lies at -1, where it is; translations are by whole pixels.
    for name, row, column in (("shear x", 0, 1), ("shear y", 1, 0)):
        shear = torch.where(is_kind[name], strength, none)
        matrices[:, row, column] += shear
        matrices[:, row, 2] += shear
    for name, row in (("translate x", 0), ("translate y", 1)):
        matrices[:, row, 2] -= torch.where(is_kind[name], strength.trunc() * 2 / size, none)
    return matrices


def _chosen(choices: Sequence[Tensor], which: Tensor) -> Tensor:
    """For each image that of the batches that its number says."""
    result = choices[0]
    for place, choice in enumerate(choices[1:], 1):
        result = torch.where((which == place)[:, None, None, None], choice, result)
    return result


def mean_colour(pre: Preprocessing) -> list[int]:
    """Of each channel, what normalisation makes nearly zero."""
    return [round(255 * value) for value in pre.mean]


def normalised(images: Tensor, pre: Preprocessing) -> Tensor:
    """`(images / 255 - mean) / std`, of values from 0 to 255 of any type, one image or many."""
    scale = bc.constants(tuple(1 / (255 * std) for std in pre.std), images.device)
    shift = bc.constants(tuple(-mean / std for mean, std in zip(pre.mean, pre.std, strict=True)), images.device)
    return images.to(torch.float32).mul_(scale).add_(shift)
