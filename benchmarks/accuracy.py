"""Which strategy does best on little data: ftkit's own beside plain loops and fastai's `fine_tune`.

    python benchmarks/accuracy.py --data ../shared --case cifar10-10 --seeds 3 [--only default,probe,fastai]

The same pretrained network (ResNet-20 of CIFAR-10), the same training images for each seed, ten epochs, batches
of 32, accuracy on the same test images. ftkit holds a part of the other training images out to choose its epoch
by; the loops and fastai report their last epoch. The loops are written as the tutorials have them: AdamW, the head
at 0.01 and the rest at 0.001 where there are two rates, cosine except in the gradual one, which thaws one group
every second epoch from a head drawn at random.

Prints a line a run as it ends, then mean and spread over the seeds. Nothing is timed.
"""

from __future__ import annotations

import argparse
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ftkit
from ftkit.engine.bundle import load_bundle
from ftkit.engine.data import Samples
from ftkit.engine.evaluate import evaluate_bundle
from ftkit.engine.groups import assign
from ftkit.engine.model import build_model
from ftkit.engine.transforms import evaluation, training

EPOCHS, BATCH = 10, 32
CASES = ("cifar10-10", "cifar10-50", "hymenoptera-64")
STRATEGIES = ("probe", "freeze", "full", "gradual", "discriminative", "freeze-unfreeze", "norms", "scratch")

Method = Callable[[ftkit.Plan], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with data/ and weights/")
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","), help="methods, by name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        methods = {**{n: ftkit_run(n) for n in ("default", *STRATEGIES)}, **LOOPS, "fastai fine_tune": fastai_run}
        settings = case(options.case, options.data, Path(scratch))
        for name in options.only or methods:
            results = [methods[name](plan_of(settings, seed)) for seed in range(options.seeds)]
            report(options.case, name, results)


def report(case: str, name: str, results: list[float]) -> None:
    spread = statistics.stdev(results) if len(results) > 1 else 0.0
    each = " ".join(f"{100 * r:.1f}" for r in results)
    print(f"{case:15} {name:20} {100 * statistics.mean(results):5.1f} +- {100 * spread:.1f}   ({each})", flush=True)


def case(name: str, shared: Path, scratch: Path) -> dict[str, Any]:
    """The settings of a case, its data unpacked or linked into `scratch`."""
    if name == "hymenoptera-64":
        source = (shared / "data" / "hymenoptera").resolve()
        # Its `val` images are the test here, so that no epoch is chosen on them.
        (scratch / "train").symlink_to(source / "train")
        (scratch / "test").symlink_to(source / "val")
        extra: dict[str, Any] = {"preprocessing": {"size": 64}, "augment": "standard"}
    else:
        with tarfile.open(shared / "data" / "cifar10-subset.tar") as archive:
            archive.extractall(scratch, filter="data")
        extra = {"train_samples": 10 * int(name.removeprefix("cifar10-")), "val_fraction": 0.05}
    return {
        "dataset": {"name": "folder", "root": str(scratch)},
        "backbone": "cifar_resnet20",
        "weights": str(shared / "weights" / "resnet20-12fca82f.th"),
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "output": str(scratch / "runs"),
        **extra,
    }


def plan_of(settings: dict[str, Any], seed: int) -> ftkit.Plan:
    return ftkit.plan(**settings, seed=seed)


def ftkit_run(name: str) -> Method:
    """A strategy of ftkit; `default` is what a person gets who asks for none."""

    def run(plan: ftkit.Plan) -> float:
        given = plan.config.model_dump(include=set(type(plan.config).model_fields) - {"strategy", "optimizer"})
        kept = {key: value for key, value in given.items() if key in plan.resolved.sources}
        if name != "default":
            kept["strategy"] = name
        if name == "probe":
            del kept["epochs"]
        if name == "scratch":
            kept["weights"] = "none"
        outcome = ftkit.train(ftkit.plan(**kept))
        assert plan.splits.test is not None, "every case has test images"
        return evaluate_bundle(load_bundle(outcome.run.model), plan.splits.test, 128).accuracy

    return run


def plain_loop(
    rates: dict[str, float], *, frozen: bool = False, gradual: bool = False, pretrained: bool = True
) -> Method:
    """A tutorial's loop: `rates` for the body and the head."""

    def run(plan: ftkit.Plan) -> float:
        if not pretrained:
            plan = ftkit.plan(**{**_settings(plan), "weights": "none"})
        built = build_model(plan)
        network, members = built.network, assign(built.network, plan.backbone.groups)
        parameters = dict(network.named_parameters())
        groups = [{"params": [parameters[n] for n in names], "name": g} for g, names in members.items()]
        optimizer = torch.optim.AdamW(groups)
        steps = -(-len(plan.splits.train or ()) // BATCH)
        curve = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * EPOCHS)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rates["head" if group["name"] == "head" else "body"]
        curve.base_lrs = [group["lr"] for group in optimizer.param_groups]
        for epoch in range(EPOCHS):
            thawed = 1 + epoch // 2 if gradual else 1 if frozen else len(members)
            for depth, names in enumerate(reversed(members.values())):
                for name in names:
                    parameters[name].requires_grad_(depth < thawed)
            network.train()
            for images, labels in epoch_batches(plan, epoch):
                optimizer.zero_grad()
                cross_entropy(network(images), labels).backward()
                optimizer.step()
                if not gradual:
                    curve.step()
        return test_accuracy(network, plan)

    return run


def epoch_batches(plan: ftkit.Plan, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of augmented images, the last one short, as a DataLoader gives them."""
    assert plan.splits.train is not None, "every case has training images"
    samples = Samples(plan.splits.train, training(plan.preprocessing, plan.augmentation), plan.config.seed)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1000 * plan.config.seed + epoch))
    for chosen in order.split(BATCH):
        drawn: list[Any] = [samples[(epoch, int(i))] for i in chosen]
        yield torch.stack([s.image for s in drawn]), torch.tensor([s.label for s in drawn])


def test_accuracy(network: nn.Module, plan: ftkit.Plan) -> float:
    assert plan.splits.test is not None, "every case has test images"
    transform, right = evaluation(plan.preprocessing), 0
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(plan.splits.test), 128):
            pairs = [plan.splits.test[i] for i in range(start, min(start + 128, len(plan.splits.test)))]
            logits = network(torch.stack([transform(image) for image, _ in pairs]))
            right += int((logits.argmax(1) == torch.tensor([label for _, label in pairs])).sum())
    return right / len(plan.splits.test)


def fastai_run(plan: ftkit.Plan) -> float:
    """fastai's `fine_tune` with its defaults: one frozen epoch, then the rest at falling rates."""
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat

    built = build_model(plan)
    network, members = built.network, assign(built.network, plan.backbone.groups)
    parameters = dict(network.named_parameters())
    torch.manual_seed(plan.config.seed)

    class Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
        def __init__(self) -> None:
            assert plan.splits.train is not None, "every case has training images"
            transform = training(plan.preprocessing, plan.augmentation)
            self.samples = Samples(plan.splits.train, transform, plan.config.seed)
            self.drawn = 0

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            self.drawn += 1
            sample: Any = self.samples[(self.drawn // len(self), index)]
            return sample.image, sample.label

    loader = torch.utils.data.DataLoader(Pairs(), batch_size=BATCH, shuffle=True, drop_last=True)
    learner = Learner(
        DataLoaders(loader, loader),
        network,
        loss_func=CrossEntropyLossFlat(),
        splitter=lambda _: [[parameters[n] for n in names] for names in members.values()],
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(EPOCHS - 1, freeze_epochs=1)
    return test_accuracy(network, plan)


def _settings(plan: ftkit.Plan) -> dict[str, Any]:
    dumped = plan.config.model_dump()
    return {key: dumped[key] for key in plan.resolved.sources if key in dumped} | {"dataset": dumped["dataset"]}


LOOPS: dict[str, Method] = {
    "loop: frozen": plain_loop({"head": 0.01, "body": 0.0}, frozen=True),
    "loop: one rate": plain_loop({"head": 0.001, "body": 0.001}),
    "loop: two rates": plain_loop({"head": 0.01, "body": 0.001}),
    "loop: gradual": plain_loop({"head": 0.01, "body": 0.001}, gradual=True),
    "loop: scratch": plain_loop({"head": 0.001, "body": 0.001}, pretrained=False),
}

if __name__ == "__main__":
    main()
