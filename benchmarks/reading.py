"""Time from an image file to the network's input tensor, on one core, against PIL and v1 transforms.

    python benchmarks/reading.py [--data FOLDER] [--times 3] [--side 375]

The images are the JPEGs in a folder; by default, 200 of 4:3 are generated. The methods alternate, and the medians are
compared. `decoded` is the second read of an image with --decoded-cache ram; `cropped` is the part of a worker where a
GPU does the rest (augment_on).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from cache import machine
from PIL import Image
from torchvision import transforms as v1

from ftkit.config.schema import Cache
from ftkit.data.images import ImageFiles
from ftkit.data.loading.decoded_images import decoded_sizes, open_decoded_cache
from ftkit.data.loading.loader import Samples
from ftkit.parts.dataset import Split
from ftkit.testing import draw_image
from ftkit.transforms.augmentation import Standard, Strong
from ftkit.transforms.pipeline import evaluation, training
from ftkit.transforms.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PREPROCESSING = Preprocessing()
NORM = v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)
TUTORIALS = {
    "training": v1.Compose([v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), NORM]),
    "strong": v1.Compose(
        [
            v1.RandomResizedCrop(224),
            v1.RandomHorizontalFlip(),
            v1.TrivialAugmentWide(),
            v1.ToTensor(),
            NORM,
            v1.RandomErasing(0.1),
        ]
    ),
    "evaluation": v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), NORM]),
}
OURS = {
    "training": training(PREPROCESSING, Standard(scale=(0.08, 1.0))),
    "strong": training(PREPROCESSING, Strong(scale=(0.08, 1.0))),
    "evaluation": evaluation(PREPROCESSING),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with JPEGs")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--side", type=int, default=375, help="shorter side of generated images, in pixels")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        files = sorted((wanted.data or drawn(Path(scratch), wanted.side)).rglob("*.jpg"))
        split = Split([f.name for f in files], [0] * len(files), ImageFiles(Path(), [str(f.absolute()) for f in files]))
        for name in OURS:
            compare(name, files, split, wanted.times)


def compare(name: str, files: list[Path], split: Split, times: int) -> None:
    kept = open_decoded_cache(split, decoded_sizes(split, 3), Cache(decoded="ram"), "")
    plain, again = Samples(split, OURS[name]), Samples(split, OURS[name], pixels=kept.pixels)
    cropped = Samples(split, OURS[name], on_device=True)
    ways: dict[str, Callable[[int], object]] = {
        "PIL": lambda index: TUTORIALS[name](Image.open(files[index]).convert("RGB")),
        "ftkit": lambda index: plain[0, index, 0],
        "decoded": lambda index: again[0, index, 0],
        "cropped": lambda index: cropped[0, index, 0],
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(times + 1):
        for way in list(ways) if turn % 2 == 0 else reversed(list(ways)):
            began = time.perf_counter()
            for index in range(len(files)):
                ways[way](index)
            # The first round fills caches.
            taken[way] += [time.perf_counter() - began] if turn else []
    each = {way: 1000 * statistics.median(seconds) / len(files) for way, seconds in taken.items()}
    for way in ("ftkit", "decoded", "cropped"):
        print(f"{name}: PIL {each['PIL']:.2f} ms per image, {way} {each[way]:.2f} ms: {each['PIL'] / each[way]:.2f}x")


def drawn(folder: Path, side: int) -> Path:
    for number in range(200):
        draw_image(number, (side * 4 // 3, side), str(number)).save(folder / f"{number:03d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
