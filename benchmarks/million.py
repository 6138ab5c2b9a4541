"""Planning and starting a run on very many images: seconds, CPU seconds and peak memory of whole processes.

    python benchmarks/million.py [--images 1000000] [--layout folder|csv|shards] [--data FOLDER] [--keep FOLDER]

The images are generated JPEGs of 32 pixels, 1,000 of a class; a fifth is held out for validation. `plan` runs
without a scan, with the first scan and with a second one, and `train` until its first optimizer step, with two workers.
At a million images, generating them takes some minutes and 4 GB of disk space; `--keep` keeps them, `--data` uses them
again. The scan cache is always a new one.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cache import machine
from processes import Measured, measured

OF_A_CLASS, OF_A_SHARD = 1000, 10_000

PLAN = ("-m", "ftkit", "plan", "--backbone", "lenet", "--weights", "none", "--strategy", "scratch")

FIRST_STEP = """
import os, sys
import ftkit
from pathlib import Path
from psutil import Process

class Stop(ftkit.Listener):
    def step_done(self, event):
        workers = Process().children(recursive=True)
        Path(sys.argv[2]).write_text(str(sum(one.memory_full_info().pss for one in workers)))
        for one in workers:
            one.kill()
        os._exit(0)

dataset = dict(item.split("=", 1) for item in sys.argv[3:])
plan = ftkit.plan(
    dataset=dataset, backbone="lenet", weights="none", strategy="scratch", epochs=1, workers=2, output=sys.argv[1]
)
ftkit.train(plan, Stop())
"""

LAYOUTS = ("folder", "csv", "shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--layout", choices=LAYOUTS, default="folder")
    parser.add_argument("--data", type=Path, help="folder of an earlier --keep")
    parser.add_argument("--keep", type=Path, help="folder for the images, which are kept")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = wanted.data or wanted.keep or Path(scratch, "data")
        if wanted.data is None:
            make(data, wanted.images, wanted.layout)
        rows = list(measurements(Path(scratch), dataset(data, wanted.images, wanted.layout)))
    print(f"{wanted.images:,} images, {wanted.layout}; {machine()}\n")
    print("| what | seconds | CPU seconds | peak memory |\n| --- | --- | --- | --- |")
    for what, *times, peak in rows:
        print(f"| {what} | {' | '.join(f'{seconds:.1f}' if seconds else '' for seconds in times)} | {peak:,.0f} MB |")


def dataset(data: Path, count: int, layout: str) -> dict[str, str]:
    """The dataset in the form of the config."""
    if layout == "folder":
        return {"name": "folder", "root": str(data / "images")}
    if layout == "csv":
        return {"name": "csv", "path": str(data / "images.csv")}
    last = -(-count // OF_A_SHARD) - 1
    return {"name": "webdataset/shards", "train": f"{data}/shards/train-{{00000..{last:05d}}}.tar"}


def measurements(scratch: Path, config: dict[str, str]) -> Iterator[tuple[str, float, float, float]]:
    """What, seconds, CPU seconds and megabytes of each process."""
    os.environ["FTKIT_CACHE_DIR"] = str(scratch / "cache")
    flags = ["--dataset", config["name"]]
    for key, value in config.items():
        flags += ["--set", f"dataset.{key}={value}"] if key != "name" else []
    for what, more in (("plan, --scan off", ["--scan", "off"]), ("plan, first scan", []), ("plan, second scan", [])):
        yield row(what, measured([sys.executable, *PLAN, *flags, *more]))
    first = [str(scratch / "runs"), str(scratch / "workers"), *(f"{key}={value}" for key, value in config.items())]
    yield row("train to its first step", measured([sys.executable, "-c", FIRST_STEP, *first]))
    yield "its two workers", 0.0, 0.0, int((scratch / "workers").read_text()) / 1e6


def row(what: str, done: Measured) -> tuple[str, float, float, float]:
    return what, done.seconds, done.cpu, done.peak


def make(data: Path, count: int, layout: str) -> None:
    """Generate the images with a table of them, or in shards."""
    if layout == "shards":
        write_shards(data / "shards", count)
        return
    names = list(write_folder(data / "images", count))
    with (data / "images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows((f"images/{label}/{name}", label) for label, name in names)


def write_folder(root: Path, count: int) -> Iterator[tuple[str, str]]:
    for number, label, content in images(count):
        if number % OF_A_CLASS == 0:
            (root / label).mkdir(parents=True)
        name = f"image_{number:07d}.jpg"
        (root / label / name).write_bytes(content)
        yield label, name


def write_shards(root: Path, count: int) -> None:
    root.mkdir(parents=True)
    shard: tarfile.TarFile | None = None
    for number, label, content in images(count):
        if number % OF_A_SHARD == 0:
            if shard is not None:
                shard.close()
            shard = tarfile.open(root / f"train-{number // OF_A_SHARD:05d}.tar", "w")  # noqa: SIM115 - closed below
        assert shard is not None, "opened for the first image"
        for suffix, part in (("jpg", content), ("cls", label.removeprefix("class").encode())):
            entry = tarfile.TarInfo(f"{number:07d}.{suffix}")
            entry.size = len(part)
            shard.addfile(entry, io.BytesIO(part))
    if shard is not None:
        shard.close()


def images(count: int) -> Iterator[tuple[int, str, bytes]]:
    """Number, class and content of each image; all differ as photographs do."""
    import numpy as np
    from PIL import Image

    classes = max(2, count // OF_A_CLASS)
    for number in range(count):
        rng = np.random.default_rng(number)
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((32, 32)).save(file, "JPEG")
        yield number, f"class{number * classes // count:05d}", file.getvalue()


if __name__ == "__main__":
    main()
