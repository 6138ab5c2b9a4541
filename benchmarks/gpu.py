"""Training on a GPU against a plain loop: images per second, use of the GPU, and where decoding becomes the limit.

    python benchmarks/gpu.py [--images 4096] [--epochs 4] [--batch-size 128] [--size 224] [--only limits,full,freeze]
    python benchmarks/gpu.py --device cpu --tiny     runs all of it in minutes on a CPU, to find mistakes

ResNet-50 with random weights, on which its speed doesn't depend, on generated JPEGs of 500 x 375 pixels. The loop is
the tutorials' in fp32, and the same in bf16 with channels-last memory and pinned batches; ftkit uses its defaults.
Sides run in separate processes. An epoch is the pass over the training images, without the first of a process; `freeze`
and `gradual` are whole processes, since the cache's gain is over a run. The use of the GPU is the mean of what
nvidia-smi reports while a side runs. All of it is meant to take less than eight minutes on an H200.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

NETWORK = "resnet50"
WIDTH, HEIGHT = 500, 375

LOOP = """
import json, sys, time
import torch, torchvision
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
o = json.loads(sys.argv[1])
device, quick = torch.device(o["device"]), o["quick"]
ORDER = ["fc", "layer4", "layer3", "layer2", "layer1", "stem"]
norm = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
change = {
    "train": transforms.Compose([transforms.RandomResizedCrop(o["size"]), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), norm]),
    "val": transforms.Compose([transforms.Resize(o["size"]), transforms.CenterCrop(o["size"]),
        transforms.ToTensor(), norm]),
}
if __name__ == "__main__":
    loaders = {
        phase: DataLoader(datasets.ImageFolder(f"{o['data']}/{phase}", change[phase]), batch_size=o["batch"],
            shuffle=phase == "train", num_workers=o["loop_workers"], persistent_workers=True,
            pin_memory=quick and device.type == "cuda")
        for phase in ("train", "val")
    }
    model = torchvision.models.get_model(o["network"], num_classes=2).to(device)
    if quick:
        model = model.to(memory_format=torch.channels_last)
    def group(name):
        return next((each for each in ORDER if name.startswith(each)), "stem")
    optimizer = optim.AdamW(model.parameters(), lr=0.0001)
    criterion = nn.CrossEntropyLoss()
    seconds = []
    for epoch in range(o["epochs"]):
        trained = {"full": ORDER, "freeze": ORDER[:1], "gradual": ORDER[: epoch + 1]}[o["strategy"]]
        for name, parameter in model.named_parameters():
            parameter.requires_grad = group(name) in trained
        for phase in ("train", "val"):
            began = time.perf_counter()
            model.train(phase == "train")
            for inputs, labels in loaders[phase]:
                inputs, labels = inputs.to(device, non_blocking=quick), labels.to(device, non_blocking=quick)
                if quick:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad()
                half = torch.autocast(device.type, torch.bfloat16, enabled=quick)
                with torch.set_grad_enabled(phase == "train"), half:
                    loss = criterion(model(inputs), labels)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if phase == "train":
                seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds))
"""

FTKIT = """
import json, sys
import ftkit
if __name__ == "__main__":
    outcome = ftkit.train(ftkit.plan(**json.loads(sys.argv[1])))
    print(json.dumps([record["seconds"] for record in outcome.records if record["epoch"]]))
"""


@dataclass(frozen=True)
class Taken:
    """A side's run.

    Attributes:
        seconds: Of each epoch.
        whole: Seconds of the process.
        used: Mean use of the GPU in percent; None where nvidia-smi doesn't report it.
    """

    seconds: list[float]
    whole: float
    used: float | None

    @property
    def epoch(self) -> float:
        return statistics.median(self.seconds[1:] or self.seconds)

    def use_text(self) -> str:
        return "" if self.used is None else f", GPU used {self.used:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few small images, to find mistakes in the benchmark")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--only", default="limits,full,freeze,gradual")
    options = parser.parse_args()
    if options.device == "cuda" and not has_cuda():
        raise SystemExit("skipped: CUDA isn't available (--device cpu --tiny runs it on the CPU)")
    if options.tiny:
        options.images, options.epochs, options.batch_size, options.size = 64, 2, 16, 64
    print(machine(options.device), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        data = draw(Path(scratch) / "images", options.images)
        bench = Bench(options, Path(scratch), data)
        for name in options.only.split(","):
            {"limits": bench.limits, "full": bench.full}.get(name, lambda name=name: bench.run_of(name))()


class Bench:
    """Both sides of each ratio."""

    def __init__(self, options: argparse.Namespace, scratch: Path, data: Path) -> None:
        self.options, self.scratch, self.data = options, scratch, data
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = sorted({max(1, cores // part) for part in (8, 4, 2, 1)})
        self.common = {
            "device": options.device, "network": NETWORK, "size": options.size, "batch": options.batch_size,
            "data": str(data), "loop_workers": self.workers[-1],
        }  # fmt: skip

    def limits(self) -> None:
        """Images per second of the network alone, and of decoding alone by number of workers."""
        few = {"warm_up": 1, "steps": 2} if self.options.tiny else {"warm_up": 20, "steps": 100}
        script = Path(__file__).with_name("gpu_limits.py").read_text(encoding="utf-8")
        found = json.loads(self.process(script, {**self.common, **few, "workers": self.workers})[0])
        device = found.pop("device")
        print(f"the network alone, in {found.pop('precision')}: {device:.0f} images/s", flush=True)
        for name, speed in found.items():
            limit = "the GPU is the limit" if speed > device else "decoding is the limit"
            print(f"decoding alone, {name}: {speed:.0f} images/s; {limit}", flush=True)

    def full(self) -> None:
        """Epochs of the whole network."""
        sides = self.sides("full", self.options.epochs)
        for name, taken in sides.items():
            speed = self.options.images / taken.epoch
            print(f"full, {name}: {speed:.0f} images/s{taken.use_text()}", flush=True)

    def run_of(self, strategy: str) -> None:
        """Whole processes of a strategy whose frozen layers are cached."""
        sides = self.sides(strategy, 6)
        loop = sides["loop in bf16"]
        for name, taken in sides.items():
            ratio = f", {loop.whole / taken.whole:.1f}x" if taken is not loop else ""
            print(
                f"{strategy}, 6 epochs, {name}: {taken.whole:.1f} s{ratio}, an epoch {taken.epoch:.2f} s"
                f"{taken.use_text()}",
                flush=True,
            )

    def sides(self, strategy: str, epochs: int) -> dict[str, Taken]:
        loop = {**self.common, "strategy": strategy, "epochs": epochs}
        settings = {
            "dataset": {"name": "folder", "root": str(self.data)}, "backbone": NETWORK, "weights": "none",
            "probe": False, "augment": "standard", "strategy": strategy, "epochs": epochs,
            "batch_size": self.options.batch_size, "device": self.options.device,
            "preprocessing": {"size": self.options.size}, "output": str(self.scratch / "runs"),
        }  # fmt: skip
        found = {"loop in fp32": self.timed(LOOP, {**loop, "quick": False})} if strategy == "full" else {}
        found["loop in bf16"] = self.timed(LOOP, {**loop, "quick": True})
        found["ftkit"] = self.timed(FTKIT, settings)
        return found

    def timed(self, script: str, settings: dict[str, Any]) -> Taken:
        text, whole, used = self.process(script, settings)
        return Taken(json.loads(text), whole, used)

    def process(self, script: str, settings: dict[str, Any]) -> tuple[str, float, float | None]:
        """Last line of stdout, seconds, and use of the GPU, of a script with settings; its caches are new."""
        # Worker processes import the script.
        file = self.scratch / "side.py"
        file.write_text(script, encoding="utf-8")
        with tempfile.TemporaryDirectory() as cache, Use(self.options.device) as use:
            began = time.perf_counter()
            command = [sys.executable, "-W", "ignore", str(file), json.dumps(settings)]
            environment = os.environ | {"FTKIT_CACHE_DIR": cache}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            whole = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout.splitlines()[-1], whole, use.mean()


class Use:
    """Samples the use of the first GPU while the context is open."""

    def __init__(self, device: str) -> None:
        self.percent: list[float] = []
        self._query = shutil.which("nvidia-smi") if device == "cuda" else None
        self._ended, self._thread = Event(), Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Use:
        if self._query is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def mean(self) -> float | None:
        return statistics.fmean(self.percent) if self.percent else None

    def _sample(self) -> None:
        while not self._ended.wait(0.25):
            command = [str(self._query), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
            text = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if text.isdigit():  # some virtual GPUs report "[N/A]"
                self.percent.append(float(text))


def draw(folder: Path, images: int) -> Path:
    """JPEGs of upscaled noise, with about the file size of photographs: `images` to train, an eighth to validate."""
    for split in ("train", "val"):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
    numbers = [(folder / "train", n) for n in range(images)] + [(folder / "val", -n - 1) for n in range(images // 8)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw_one, *zip(*numbers, strict=True), chunksize=64))
    return folder


def _draw_one(folder: Path, number: int) -> None:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(number % 2**32)
    small = Image.fromarray(random.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8))
    small.resize((WIDTH, HEIGHT)).save(folder / "ab"[number % 2] / f"{abs(number)}.jpg", quality=90)


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def machine(device: str) -> str:
    """The device, the cores and the versions of the packages."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__.partition('+')[0]}, {NETWORK}"


if __name__ == "__main__":
    main()
