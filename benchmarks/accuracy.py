"""Test accuracy on little data: ftkit, the loops of the usual tutorials, fastai and the Trainer of Hugging Face.

    python benchmarks/accuracy.py --data ../shared --results accuracy.jsonl [--case cifar10-10] [--only default,probe]

All methods of a case train the same pretrained network on the same images, which are drawn anew for each seed, and are
evaluated once on the same test images. ftkit gets no other images: what it selects by comes from the training images.
The rivals use all training images, and report their last epoch. Loops, fastai and the Trainer have a method for each of
three learning rates. Seeds 0 and 1 run all three; later seeds run the one whose mean accuracy on the test images was
highest with these two, which favours the rivals. The tables show that one.

Each run adds a line to the results file, with its seconds; completed runs are skipped, so a stopped benchmark can be
continued. At the end, tables of all results are printed: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accuracy_rivals import RIVALS, WHOLE, Settings

import ftkit
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.evaluation.evaluator import ComputeOptions, evaluate_bundle
from ftkit.models.bundle import load_bundle

STRATEGIES = ("probe", "freeze", "full", "gradual", "discriminative", "freeze-unfreeze", "auto")
RATE_SEEDS = (0, 1)
"""The seeds that compare the learning rates of a rival."""
Results = dict[tuple[str, str, int], dict[str, Any]]
"""Records by case, method and seed."""
Row = tuple[float, float, int, float, str]
"""Mean and standard deviation of the accuracy in percent, number of seeds, median of the seconds, and the method."""
VERSIONS = {"ftkit": ftkit.__version__, "torch": torch.__version__}


@dataclass(frozen=True)
class Case:
    """Data and network.

    Attributes:
        source: `cifar10`, `hymenoptera` or `digits`.
        per_class: Training images of each class; None for all.
        network: `resnet20` with its CIFAR-10 weights, `lite0` with ImageNet weights, or `lenet` with MNIST weights.
        settings: Of all methods.
    """

    source: str
    per_class: int | None
    network: str
    settings: Settings = field(default_factory=dict)


CASES = {
    "cifar10-10": Case("cifar10", 10, "resnet20", {"augment": "none"}),
    "cifar10-50": Case("cifar10", 50, "resnet20", {"augment": "none"}),
    "cifar10-all": Case("cifar10", None, "resnet20", {"augment": "none"}),
    "hymenoptera-64": Case("hymenoptera", None, "resnet20", {"preprocessing": {"size": 64}, "augment": "standard"}),
    "cifar10-lite0-10": Case("cifar10", 10, "lite0", {"preprocessing": {"size": 96}, "augment": "standard"}),
    "cifar10-lite0-50": Case("cifar10", 50, "lite0", {"preprocessing": {"size": 96}, "augment": "standard"}),
    "digits-10": Case("digits", 10, "lenet", {"augment": "light"}),
}
"""Augmentation is that of the rivals: the best of none, light and standard for the loop with two rates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, one per run")
    parser.add_argument("--case", choices=tuple(CASES), action="append", help="can be repeated; by default all")
    parser.add_argument("--seeds", type=seed_range, default=range(5), help="5 for 0 to 4, or 10-14")
    parser.add_argument("--only", type=chosen_methods, default=tuple(METHODS), help="methods, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.case or CASES:
            fill_in(options, name, seed)
    print_tables(read_results(options.results))


def seed_range(text: str) -> range:
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


def chosen_methods(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - METHODS.keys():
        raise argparse.ArgumentTypeError(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    return names


def fill_in(options: argparse.Namespace, name: str, seed: int) -> None:
    """Run the methods of a case that the results file lacks."""
    results = read_results(options.results)
    missing = [m for m in options.only if (name, m, seed) not in results and worth_running(results, name, m, seed)]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as scratch:
        settings = {**draw(CASES[name], options.data, Path(scratch), seed), "seed": seed}
        for method in missing:
            started = perf_counter()
            accuracy = METHODS[method](settings)
            seconds = round(perf_counter() - started, 1)
            record = {
                "case": name,
                "method": method,
                "seed": seed,
                "accuracy": accuracy,
                "seconds": seconds,
                **VERSIONS,
            }
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{name} {method}, seed {seed}: {100 * accuracy:.1f} %, {seconds} s", file=sys.stderr, flush=True)


def worth_running(results: Results, name: str, method: str, seed: int) -> bool:
    """False for a learning rate that was worse than another one with the seeds that compare them."""
    if seed <= max(RATE_SEEDS):
        return True
    means = {}
    for rival in [each for each in RIVALS if family(each) == family(method)]:
        found = [results.get((name, rival, each)) for each in RATE_SEEDS]
        if None in found:
            return True
        means[rival] = statistics.mean(each["accuracy"] for each in found if each)
    return method not in means or method == max(means, key=lambda rival: means[rival])


def family(method: str) -> str:
    """The method without its learning rate."""
    return method.partition(" at ")[0]


def read_results(results: Path) -> Results:
    """The records; an incomplete last line is removed."""
    if not results.exists():
        return {}
    text = results.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        results.write_text(whole, encoding="utf-8")
    found = [json.loads(line) for line in whole.splitlines()]
    return {(each["case"], each["method"], each["seed"]): each for each in found}


def print_tables(results: Results) -> None:
    """Print a Markdown table for each case, with the best method first."""
    for name in CASES:
        rows = []
        for method in METHODS:
            found = [each for (c, m, _), each in results.items() if (c, m) == (name, method)]
            values = [100 * each["accuracy"] for each in found]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                seconds = statistics.median(each["seconds"] for each in found)
                rows.append((statistics.mean(values), spread, len(values), seconds, method))
        rows = best_of_each(rows)
        if rows:
            print(f"\n| {name} | test accuracy, % | seeds | seconds |\n| --- | --- | --- | --- |")
        for mean, spread, count, seconds, method in sorted(rows, reverse=True):
            print(f"| {method} | {mean:.1f} ± {spread:.1f} | {count} | {seconds:.0f} |")


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """Of a method's learning rates, the row with the most seeds; of equals, the most accurate one."""
    ranked = sorted(rows, key=lambda row: (row[2], row[0]), reverse=True)
    families = [family(row[-1]) for row in ranked]
    return [row for i, row in enumerate(ranked) if families[i] not in families[:i]]


def draw(case: Case, shared: Path, scratch: Path, seed: int) -> Settings:
    """Settings of a case; its images are linked into `scratch/train` and `scratch/test`."""
    train, test = source_folders(case, shared, scratch)
    for folder in sorted(path for path in train.iterdir() if path.is_dir()):
        images = sorted(folder.iterdir())
        chosen = images if case.per_class is None else random.Random(seed).sample(images, case.per_class)
        target = scratch / "data" / "train" / folder.name
        target.mkdir(parents=True)
        for image in chosen:
            (target / image.name).symlink_to(image.resolve())
    (scratch / "data" / "test").symlink_to(test.resolve())
    (scratch / WHOLE).mkdir()
    (scratch / WHOLE / "train").symlink_to(scratch / "data" / "train")
    (scratch / WHOLE / "val").symlink_to(test.resolve())
    return {
        "dataset": {"name": "folder", "root": str(scratch / "data")},
        **network_of(case, shared),
        "output": str(scratch / "runs"),
        # So that accuracy doesn't depend on what the machine computes fastest.
        "precision": "fp32",
        **case.settings,
    }


def source_folders(case: Case, shared: Path, scratch: Path) -> tuple[Path, Path]:
    """Folders of the images to draw from, and of the test images."""
    if case.source == "hymenoptera":
        # Its `val` images are the test images here, so that nothing is selected by them.
        return shared / "data" / "hymenoptera" / "train", shared / "data" / "hymenoptera" / "val"
    source = scratch / "source"
    if case.source == "digits":
        write_digits(source)
    else:
        with tarfile.open(shared / "data" / "cifar10-subset.tar") as archive:
            archive.extractall(source, filter="data")
    return source / "train", source / "test"


def write_digits(folder: Path) -> None:
    """The images of dataset `digits`, its validation images as test images."""
    splits = ftkit.plan(dataset="digits", backbone="lenet").splits
    for name, split in (("train", splits.train), ("test", splits.val)):
        assert split is not None, "digits has both"
        for i in range(len(split)):
            image, label = split[i]
            assert isinstance(label, int), "digits has one label per image"
            target = folder / name / splits.classes[label]
            target.mkdir(parents=True, exist_ok=True)
            image.save(target / f"{i}.png")


def network_of(case: Case, shared: Path) -> Settings:
    if case.network == "resnet20":
        return {"backbone": "cifar_resnet20", "weights": str(shared / "weights" / "resnet20-12fca82f.th")}
    return {"backbone": "efficientnet_lite0" if case.network == "lite0" else "lenet"}


def ftkit_run(**more: Any) -> Callable[[Settings], float]:
    """A run of ftkit, with its own augmentation unless it is among `more`."""

    def run(settings: Settings) -> float:
        own = {key: value for key, value in settings.items() if key != "augment"}
        plan = ftkit.plan(**{**own, **more})
        outcome = ftkit.train(plan)
        assert plan.splits.test is not None, "every case has test images"
        loaded = load_bundle(outcome.run.model, precision="fp32")
        images = EvaluationData("the test images", "test", plan.splits.test)
        evaluation, _ = evaluate_bundle(loaded, images, plan.metrics, ComputeOptions(batch_size=128))
        return evaluation.values["accuracy"] or 0.0

    return run


METHODS: dict[str, Callable[[Settings], float]] = {
    "default": ftkit_run(),
    "budget of 10 minutes": ftkit_run(budget="10m"),
    "one training": ftkit_run(budget=None),
    **{f"ftkit: {name}": ftkit_run(strategy=name, budget=None) for name in STRATEGIES},
    **RIVALS,
}

if __name__ == "__main__":
    main()
