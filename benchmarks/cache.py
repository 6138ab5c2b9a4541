"""Speed with the activation cache, against the loops of the usual tutorials: whole processes, and time after imports.

    python benchmarks/cache.py [--data FOLDER] [--weights FILE] [--times 3] [--only freeze,gradual,second] [--size 224]
    python benchmarks/cache.py --network lite0|dinov2|vit --only freeze

The network is ResNet-18, EfficientNet-Lite0 or ViT-S/14 DINOv2 of timm (with ftkit-timm), or ViT-B/16 of transformers
(with ftkit-hf). Its speed doesn't depend on its weights, which are random unless a file for ResNet-18 is given. The
images are those of a folder with `train` and `val`; by default, 244 and 153 images of 500 x 375 pixels are generated.
Both sides of a ratio run alternately in separate processes, and the medians are compared. "After imports" excludes the
imports of both sides. ftkit's cache is empty before each run except that of `second`, a second strategy on the same
data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

EPOCHS, GRADUAL_EPOCHS = 20, 12
NETWORKS = {
    "resnet18": ("resnet18", "models.resnet18(weights=None)", "fc"),
    "lite0": ("timm/tf_efficientnet_lite0", "timm.create_model('tf_efficientnet_lite0')", "classifier"),
    "dinov2": (
        "timm/vit_small_patch14_dinov2",
        "timm.create_model('vit_small_patch14_dinov2', img_size=size, num_classes=2)",
        "head",
    ),
    "vit": ("hf/{folder}", "transformers.ViTForImageClassification(transformers.ViTConfig())", "classifier"),
}
"""Name of each for ftkit, how the loop makes it, and its last layer."""

LOOP = """
import sys, time
import torch
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, models, transforms

data, size, schedule, epochs, weights = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
make, last = sys.argv[6:]
if "timm" in make:
    import timm
if "transformers" in make:
    import transformers
began = time.perf_counter()
norm = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
change = {
    "train": transforms.Compose(
        [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor(), norm]
    ),
    "val": transforms.Compose(
        [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size), transforms.ToTensor(), norm]
    ),
}
sets = {x: datasets.ImageFolder(f"{data}/{x}", change[x]) for x in change}
loaders = {x: DataLoader(sets[x], batch_size=32, shuffle=x == "train", num_workers=2) for x in sets}
model = eval(make)
if weights:
    model.load_state_dict(torch.load(weights, weights_only=True))
for parameter in model.parameters():
    parameter.requires_grad = False
setattr(model, last, nn.Linear(getattr(model, last).in_features, len(sets["train"].classes)))
optimizer = optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for epoch in range(epochs):
    thawed = {"freeze": [], "gradual": ["layer4", "layer3", "layer2", "layer1", "conv1"][: epoch // 2]}[schedule]
    for name in thawed:
        for parameter in getattr(model, name).parameters():
            parameter.requires_grad = True
    for phase in ("train", "val"):
        model.train(phase == "train")
        for inputs, labels in loaders[phase]:
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(inputs)
                outputs = getattr(outputs, "logits", outputs)
                loss = criterion(outputs, labels)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            outputs.argmax(1).eq(labels).sum().item()
print(time.perf_counter() - began)
"""

FTKIT = """
import json, sys, time
import ftkit, ftkit.training.train, torchvision.models
settings = json.loads(sys.argv[1])
if settings["backbone"].startswith("timm/"):
    import timm
if settings["backbone"].startswith("hf/"):
    import transformers.models.vit.modeling_vit
began = time.perf_counter()
ftkit.train(ftkit.plan(**settings))
print(time.perf_counter() - began)
"""

Run = Callable[[], tuple[float, float]]
"""Seconds of the whole process, and after its imports."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--weights", type=Path, help="weights of torchvision's ResNet-18")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument(
        "--only", default="freeze,gradual,second", help="freeze alone for other networks than ResNet-18"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or drawn(Path(scratch))
        bench = Bench(Path(scratch), data, options.weights, options.size, options.network)
        print(f"{machine()}, {options.network} at {options.size} pixels", flush=True)
        for name in options.only.split(","):
            bench.compare(name, options.times)


def machine() -> str:
    """The processor, its cores and 16-bit instructions, and the versions of the packages."""
    import torch

    about = torch.cpu.get_capabilities()
    bf16 = next((name for name in ("amx_bf16", "avx512_bf16") if about.get(name)), "no bf16")
    name = about.get("cpu_name") or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {bf16}, torch {torch.__version__.partition('+')[0]}"


def drawn(scratch: Path) -> Path:
    """JPEGs of upscaled noise, with about the file size of photographs."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 244), ("val", 153)):
        for number in range(count):
            place = scratch / "images" / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(random.integers(0, 255, (47, 63, 3), dtype=np.uint8))
            small.resize((500, 375)).save(place / f"{number}.jpg", quality=90)
    return scratch / "images"


class Bench:
    """Both sides of each ratio."""

    def __init__(self, scratch: Path, data: Path, weights: Path | None, size: int, network: str) -> None:
        self.scratch, self.data, self.weights, self.size = scratch, data, weights, size
        backbone, *self.making = NETWORKS[network]
        self.backbone = backbone.format(folder=scratch / "vit")
        if network == "vit":
            (scratch / "vit").mkdir()
            (scratch / "vit" / "config.json").write_text('{"model_type": "vit"}')
            (scratch / "vit" / "preprocessor_config.json").write_text(json.dumps({"size": size}))

    def compare(self, name: str, times: int) -> None:
        if name == "second":
            self.second(times)
            return
        epochs = {"freeze": EPOCHS, "gradual": GRADUAL_EPOCHS}[name]
        sides = {
            "loop": self.loop(name, epochs),
            "one augmentation": self.ftkit(name, epochs, 1),
            "default": self.ftkit(name, epochs, None),
        }
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for turn in range(times):
            for side in list(sides) if turn % 2 == 0 else reversed(list(sides)):
                taken[side].append(sides[side]())
        whole, inner = ({s: statistics.median(t[n] for t in runs) for s, runs in taken.items()} for n in (0, 1))
        for side in ("one augmentation", "default"):
            print(
                f"{name}, {side}: loop {whole['loop']:.1f} s, ftkit {whole[side]:.1f} s: "
                f"{whole['loop'] / whole[side]:.1f}x; after imports {inner['loop']:.1f} and {inner[side]:.1f} s: "
                f"{inner['loop'] / inner[side]:.1f}x",
                flush=True,
            )

    def loop(self, schedule: str, epochs: int) -> Run:
        arguments = [str(self.data), str(self.size), schedule, str(epochs), str(self.weights or ""), *self.making]
        return lambda: timed([sys.executable, "-W", "ignore", "-c", LOOP, *arguments], {})

    def ftkit(
        self, strategy: str, epochs: int, augmentations: int | None, keep: bool = False, report: bool = True
    ) -> Run:
        cache = self.scratch / "cache"
        settings = {
            "dataset": {"name": "folder", "root": str(self.data)},
            "backbone": self.backbone,
            "weights": str(self.weights) if self.weights else "none",
            "preprocessing": {"size": self.size},
            "augment": "standard",
            "strategy": {"name": strategy, **({"every": 2} if strategy == "gradual" else {})},
            "epochs": epochs,
            "output": str(self.scratch / "runs"),
            "report": report,
            "novelty_features": report,
            "cache": {"augmentations": augmentations} if augmentations else {},
        }

        def run() -> tuple[float, float]:
            if not keep:
                shutil.rmtree(cache, ignore_errors=True)
            return timed([sys.executable, "-c", FTKIT, json.dumps(settings)], {"FTKIT_CACHE_DIR": str(cache)})

        return run

    def second(self, times: int) -> None:
        """A strategy on activations that another one has cached, with and without what follows the training."""
        self.ftkit("gradual", GRADUAL_EPOCHS, 1)()
        sides = {each: self.ftkit("freeze", EPOCHS, 1, keep=True, report=each) for each in (False, True)}
        taken: dict[bool, list[float]] = {side: [] for side in sides}
        for _ in range(times):
            for side, run in sides.items():
                taken[side].append(run()[1])
        alone, whole = (statistics.median(taken[side]) for side in (False, True))
        print(
            f"second strategy on the same data, freeze, after imports: {alone:.2f} s, "
            f"with its report and stored features {whole:.2f} s"
        )


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return whole, float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
