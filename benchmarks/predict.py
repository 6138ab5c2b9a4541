"""`ftkit predict` over a folder, against an eager loop over a DataLoader: whole processes, time and peak memory.

    python benchmarks/predict.py [--images 500] [--many 10000] [--times 3] [--side 320]

The network is ResNet-18 at 224 pixels with random weights, on which its speed doesn't depend; the images are generated
JPEGs. The loop uses fp32, batches of 32 and two workers, as in the usual tutorials. Both sides run alternately, and the
medians are compared. Peak memory with `--many` images against `--images` is measured in one run each, on links to the
same files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cache import machine
from processes import measured

LOOP = """
import sys
import torch
from pathlib import Path
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

class Folder(Dataset):
    def __init__(self, folder):
        self.files = sorted(Path(folder).iterdir())
        self.change = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        return self.change(Image.open(self.files[index]).convert("RGB")), str(self.files[index])

model = models.resnet18(num_classes=10).eval()
with torch.no_grad():
    for images, names in DataLoader(Folder(sys.argv[1]), batch_size=32, num_workers=2):
        values, places = model(images).softmax(1).max(1)
        for name, value, place in zip(names, values.tolist(), places.tolist()):
            print(name, place, value)
"""

BUNDLE = """
import sys
from pathlib import Path
from ftkit.models.bundle import backbone_id, save_bundle
from ftkit.plugins import Registry
from ftkit.runs.model_card import ModelCard
registry = Registry()
backbone = registry.backbones.get("resnet18")
classes = tuple(f"class {number}" for number in range(10))
card = ModelCard(classes, backbone.preprocessing, backbone_id(registry, "resnet18"))
save_bundle(Path(sys.argv[1]), backbone.build(10), card)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--many", type=int, default=10_000, help="0 skips the measurement of memory")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--side", type=int, default=320, help="shorter side of the images, in pixels")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw_images(folder / "some", wanted.images, wanted.side)
        subprocess.run([sys.executable, "-c", BUNDLE, str(folder / "model")], check=True)
        ours = [sys.executable, "-m", "ftkit", "predict", "--model", str(folder / "model"), "--json"]
        loop = [sys.executable, "-c", LOOP]
        times: dict[str, list[float]] = {"loop": [], "ftkit": []}
        for turn in range(wanted.times):
            pairs = [("loop", loop), ("ftkit", ours)]
            for name, command in pairs if turn % 2 == 0 else reversed(pairs):
                times[name].append(measured([*command, str(folder / "some")]).seconds)
        middle = {name: statistics.median(values) for name, values in times.items()}
        report = {"images": wanted.images, "seconds": middle, "ratio": middle["loop"] / middle["ftkit"]}
        if wanted.many:
            link_images(folder / "some", folder / "many", wanted.many)
            peaks = {n: measured([*ours, str(folder / n)]).peak for n in ("some", "many")}
            report |= {"peak_mb": peaks, "peak_ratio": peaks["many"] / peaks["some"]}
    print(json.dumps({**report, "machine": machine()}, indent=2))


def draw_images(folder: Path, count: int, side: int) -> None:
    from ftkit.testing import draw_image

    folder.mkdir()
    for number in range(count):
        draw_image(number, (side * 4 // 3, side), str(number)).save(folder / f"{number:05d}.jpg")


def link_images(source: Path, target: Path, count: int) -> None:
    files = sorted(source.iterdir())
    target.mkdir()
    for number in range(count):
        (target / f"{number:06d}.jpg").symlink_to(files[number % len(files)])


if __name__ == "__main__":
    main()
