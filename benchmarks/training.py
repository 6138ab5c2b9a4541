"""Speed of training against a plain loop: epochs of the whole network, memory, and layer4 with the head, cached.

    python benchmarks/training.py [--data FOLDER] [--times 3] [--epochs 3] [--only epoch,suffix] [--backbone resnet18]

ResNet-18, or with `epoch` another network of torchvision or `timm/NAME`, at 224 pixels with random weights, on which
its speed doesn't depend. The images are those of a folder with `train` and `val`; by default, 244 and 153 images of
500 x 375 pixels are generated. An epoch is the pass over the training images, as recorded by both sides; the first
epoch of a process isn't counted. The loop uses fp32 and two workers, as in the usual tutorials; ftkit uses fp32 and
`auto`. All sides run alternately in separate processes, and the medians are compared. Peak memory is that of the
largest process. The part of the processor time that the kernel takes is of whole runs, with their workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache import drawn, machine
from processes import measured

LOOP = """
import json, sys, time
import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

data, epochs = sys.argv[1], int(sys.argv[2])
change = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(),
    transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
images = datasets.ImageFolder(f"{data}/train", change)
loader = DataLoader(images, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
name = sys.argv[3]
if name.startswith("timm/"):
    import timm
    model = timm.create_model(name[5:].partition(".")[0], num_classes=len(images.classes))
else:
    model = models.get_model(name, num_classes=len(images.classes))
optimizer = optim.AdamW(model.parameters(), lr=0.0001)
criterion = nn.CrossEntropyLoss()
seconds = []
for epoch in range(epochs):
    began = time.perf_counter()
    model.train()
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(inputs), labels)
        loss.backward()
        optimizer.step()
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
"""

Taken = tuple[list[float], float, float]
"""Seconds of each epoch, the peak memory in megabytes, and the part of the processor time that the kernel took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", default="epoch,suffix")
    parser.add_argument("--backbone", default="resnet18", help="of `epoch`")
    wanted = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), wanted.data or drawn(Path(scratch)), wanted.times, wanted.backbone)
        for name in wanted.only.split(","):
            {"epoch": bench.epoch, "suffix": bench.suffix}[name](wanted.epochs)


class Bench:
    """Both sides of each ratio."""

    def __init__(self, scratch: Path, data: Path, times: int, backbone: str) -> None:
        self.scratch, self.data, self.times, self.backbone = scratch, data, times, backbone

    def epoch(self, epochs: int) -> None:
        full = {"strategy": "full", "epochs": epochs, "cache": {"use": False}, "backbone": self.backbone}
        sides = {
            "loop": [sys.executable, "-W", "ignore", "-c", LOOP, str(self.data), str(epochs), self.backbone],
            "ftkit in fp32": self.ftkit({**full, "precision": "fp32"}),
            "ftkit": self.ftkit(full),
        }
        taken = self.in_turns(sides)
        seconds = {
            name: statistics.median(s for each, *_ in runs for s in each[1:] or each) for name, runs in taken.items()
        }
        memory = {name: statistics.median(peak for _, peak, _ in runs) for name, runs in taken.items()}
        kernel = {name: statistics.median(part for *_, part in runs) for name, runs in taken.items()}
        for name in ("ftkit in fp32", "ftkit"):
            print(
                f"epoch of the whole network: loop {seconds['loop']:.2f} s, {name} {seconds[name]:.2f} s: "
                f"{seconds['loop'] / seconds[name]:.2f}x; peak memory {memory['loop']:.0f} and {memory[name]:.0f} MB: "
                f"{memory[name] / memory['loop']:.2f}x; in the kernel {kernel['loop']:.1%} and {kernel[name]:.1%}",
                flush=True,
            )

    def suffix(self, _: int) -> None:
        """Eight epochs of layer4 and the head, with the frozen prefix cached (one augmentation) and uncached."""
        settings = {"strategy": {"name": "milestones", "milestones": [1, 9], "num_layers": 1}, "epochs": 10}
        sides = {
            "uncached": self.ftkit({**settings, "cache": {"use": False}}),
            "cached": self.ftkit({**settings, "cache": {"augmentations": 1}}),
        }
        taken = self.in_turns(sides)
        seconds = {name: statistics.median(sum(each[1:9]) for each, *_ in runs) for name, runs in taken.items()}
        print(
            f"eight epochs of layer4 and the head: uncached {seconds['uncached']:.2f} s, cached "
            f"{seconds['cached']:.2f} s: {seconds['uncached'] / seconds['cached']:.1f}x",
            flush=True,
        )

    def in_turns(self, sides: dict[str, list[str]]) -> dict[str, list[Taken]]:
        taken: dict[str, list[Taken]] = {name: [] for name in sides}
        for turn in range(self.times):
            for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
                with tempfile.TemporaryDirectory() as cache:
                    taken[name].append(run(sides[name], {"FTKIT_CACHE_DIR": cache}))
        return taken

    def ftkit(self, settings: dict[str, Any]) -> list[str]:
        common = {
            "dataset": {"name": "folder", "root": str(self.data)},
            "backbone": "resnet18",
            "weights": "none",
            "probe": False,
            "augment": "standard",
            "output": str(self.scratch / "runs"),
        }
        config = self.scratch / f"{len(list(self.scratch.glob('*.yaml')))}.yaml"
        config.write_text(json.dumps(common | settings), encoding="utf-8")  # JSON is YAML.
        return [sys.executable, "-m", "ftkit", "train", "--config", str(config), "--json"]


def run(command: Sequence[str], environment: dict[str, str]) -> Taken:
    done = measured(command, environment)
    found = json.loads(done.out)
    if isinstance(found, dict):
        records = (Path(found["run"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(record)["seconds"] for record in records]
    return found, done.peak, done.kernel / done.cpu


if __name__ == "__main__":
    main()
