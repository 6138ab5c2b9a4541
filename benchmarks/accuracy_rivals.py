"""What `accuracy.py` compares ftkit with: plain training loops, fastai's `fine_tune`, the Trainer of Hugging Face.

All use batches of 32, ten epochs and all training images, and report their last epoch. Their images are decoded and
augmented by ftkit, so that all methods see the same ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ftkit
from ftkit.data.loading.loader import Samples
from ftkit.data.loading.order import Key
from ftkit.models.build import build_model
from ftkit.models.parameter_groups import assign_parameters
from ftkit.transforms.pipeline import evaluation, training

EPOCHS, BATCH = 10, 32
WHOLE = "whole"
"""Folder beside the data of a case, with all of its training images as `train` and its test images as `val`."""
Settings = dict[str, Any]
"""Keyword arguments of `ftkit.plan`; the dataset is a folder with `train` and `test`."""


class Rival:
    """The data of a case, and its network with a new head.

    Attributes:
        head: Name of the head's last layer in the network.
        groups: Names of the parameters of each layer group, from the input to the head.
    """

    def __init__(self, settings: Settings) -> None:
        whole = Path(settings["dataset"]["root"]).with_name(WHOLE)
        self.plan = plan = ftkit.plan(**{**settings, "dataset": {"name": "folder", "root": str(whole)}})
        assert plan.splits.train is not None, "the folder has training images"
        assert plan.splits.val is not None, "the folder has validation images"
        self.train, self.test, self.seed = plan.splits.train, plan.splits.val, plan.config.seed
        torch.manual_seed(self.seed)
        self.network, self.head = build_model(plan).network, plan.backbone.head[0]
        self.groups = assign_parameters(self.network, plan.backbone.groups)
        # The initialisation of the networks' own heads is wider, which costs loops up to 17 points on few images.
        old = self.network.get_submodule(self.head)
        assert isinstance(old, nn.Linear), "the networks of all cases end in a linear layer"
        self.network.set_submodule(self.head, nn.Linear(old.in_features, plan.num_classes))

    def samples(self) -> Samples:
        """The training images, augmented."""
        transform = training(self.plan.preprocessing, self.plan.augmentation, self.plan.image_transforms)
        return Samples(self.train, transform, self.seed)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of augmented images, as from a DataLoader; the last one may be smaller."""
        samples = self.samples()
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        for chosen in torch.split(order, BATCH):
            yield stacked(samples, [(epoch, int(i), 0) for i in chosen])

    def accuracy(self) -> float:
        """Accuracy on the test images."""
        samples, right = Samples(self.test, evaluation(self.plan.preprocessing), self.seed), 0
        self.network.eval()
        with torch.inference_mode():
            for chosen in torch.split(torch.arange(len(samples)), 128):
                images, labels = stacked(samples, [(0, int(i), 0) for i in chosen])
                right += int((self.network(images).argmax(1) == labels).sum())
        return right / len(samples)


def stacked(samples: Samples, keys: list[Key]) -> tuple[Tensor, Tensor]:
    drawn: list[Any] = [samples[key] for key in keys]
    return torch.stack([sample.image for sample in drawn]), torch.tensor([sample.label for sample in drawn])


def loop(head: float, body: float, *, gradual: bool = False) -> Callable[[Settings], float]:
    """The loop of a tutorial: AdamW with a cosine curve; with `gradual`, a layer group more every second epoch.

    Args:
        head: Learning rate of the head.
        body: That of the other layers; 0 freezes them.
    """

    def run(settings: Settings) -> float:
        rival = Rival(settings)
        parameters = dict(rival.network.named_parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [parameters[name] for name in names], "lr": head if i == len(rival.groups) - 1 else body}
                for i, names in enumerate(rival.groups.values())
            ]
        )
        steps = -(-len(rival.train) // BATCH) * EPOCHS
        curve = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(EPOCHS):
            trainable = 1 + epoch // 2 if gradual else len(rival.groups) if body else 1
            for depth, names in enumerate(reversed(rival.groups.values())):
                for name in names:
                    parameters[name].requires_grad_(depth < trainable)
            rival.network.train()
            for images, labels in rival.batches(epoch):
                if len(labels) == 1:
                    continue  # BatchNorm can't train on a single image.
                optimizer.zero_grad()
                cross_entropy(rival.network(images), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if not gradual:
                    curve.step()
        return rival.accuracy()

    return run


def fastai(own_head: bool, rate: float) -> Callable[[Settings], float]:
    """fastai's `fine_tune`: one frozen epoch, then all layers, the first at a hundredth of the rate.

    Args:
        own_head: With the head of its `vision_learner`: two layers on mean and maximum of the features.
    """

    def run(settings: Settings) -> float:
        import fastai.callback.progress  # gives Learner its no_bar
        import fastai.callback.schedule  # noqa: F401  gives it fine_tune
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.losses import CrossEntropyLossFlat
        from fastai.torch_core import apply_init
        from fastai.vision.learner import create_head

        rival = Rival(settings)
        if own_head:
            torch.manual_seed(rival.seed)
            maps = feature_maps(rival.network)
            channels = maps(next(rival.batches(0))[0][:2]).shape[1]
            head = create_head(channels, rival.plan.num_classes)
            apply_init(head, nn.init.kaiming_normal_)
            rival.network = nn.Sequential(maps, head)
        else:
            head = rival.network.get_submodule(rival.head)
        of_head = {id(parameter) for parameter in head.parameters()}
        learner = Learner(
            DataLoaders(EpochLoader(rival), EpochLoader(rival)),
            rival.network,
            loss_func=CrossEntropyLossFlat(),
            splitter=lambda network: [
                [p for p in network.parameters() if id(p) not in of_head],
                list(head.parameters()),
            ],
        )
        with learner.no_bar(), learner.no_logging():
            learner.fine_tune(EPOCHS - 1, base_lr=rate, freeze_epochs=1)
        return rival.accuracy()

    return run


def feature_maps(network: nn.Module) -> nn.Module:
    """The network up to the features before its pooling."""
    parts = dict(network.named_children())
    if "conv_stem" in parts:  # EfficientNet-Lite
        stem, blocks, last = (parts[name] for name in ("conv_stem", "blocks", "conv_head"))
        return nn.Sequential(stem, parts["bn1"], nn.ReLU6(), blocks, last, parts["bn2"], nn.ReLU6())
    if "layer3" in parts:  # a CIFAR ResNet
        stages = (parts[name] for name in ("layer1", "layer2", "layer3"))
        return nn.Sequential(parts["conv1"], parts["bn1"], nn.ReLU(), *stages)
    return nn.Sequential(  # LeNet
        *(parts["conv1"], nn.ReLU(), nn.MaxPool2d(2)), *(parts["conv2"], nn.ReLU(), nn.MaxPool2d(2))
    )


class EpochLoader:
    """A rival's batches, as much of a DataLoader as fastai needs; an incomplete last batch is left out."""

    def __init__(self, rival: Rival) -> None:
        self.rival, self.epoch = rival, -1
        self.device = torch.device("cpu")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        return (batch for batch in self.rival.batches(self.epoch) if len(batch[1]) == BATCH or len(self) == 0)

    def __len__(self) -> int:
        return len(self.rival.train) // BATCH


class WithLoss(nn.Module):
    """A network as the Trainer calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """A rival's training images as the Trainer reads them, augmented anew in each epoch."""

    def __init__(self, rival: Rival) -> None:
        self.samples, self.drawn = rival.samples(), 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: Any = self.samples[(self.drawn // len(self), index, 0)]
        self.drawn += 1
        return {"pixel_values": sample.image, "labels": sample.label}


def hugging_face(rate: float) -> Callable[[Settings], float]:
    """The Trainer with its defaults for ten epochs: AdamW without weight decay, a linear curve, gradients clipped at 1.

    This is what the image-classification script of transformers runs.
    """

    def run(settings: Settings) -> float:
        from transformers import Trainer, TrainingArguments

        rival = Rival(settings)

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                learning_rate=rate,
                seed=rival.seed,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            )
            Trainer(model=WithLoss(rival.network), args=arguments, train_dataset=Images(rival)).train()
        return rival.accuracy()

    return run


TIMES = (0.3, 1.0, 3.0)
"""The three learning rates of each method, as multiples of the tutorials' or the library's default. The
Trainer's default is meant for many more steps, so ten times as much is taken."""

RIVALS: dict[str, Callable[[Settings], float]] = {
    **{f"loop: frozen at {t:g}x": loop(0.01 * t, 0.0) for t in TIMES},
    **{f"loop: one rate at {t:g}x": loop(0.003 * t, 0.003 * t) for t in TIMES},
    **{f"loop: two rates at {t:g}x": loop(0.01 * t, 0.001 * t) for t in TIMES},
    **{f"loop: gradual at {t:g}x": loop(0.01 * t, 0.001 * t, gradual=True) for t in TIMES},
    **{f"fastai fine_tune (plain head) at {t:g}x": fastai(False, 0.002 * t) for t in TIMES},
    **{f"fastai fine_tune (its own head) at {t:g}x": fastai(True, 0.002 * t) for t in TIMES},
    **{f"transformers Trainer at {t:g}x": hugging_face(0.0005 * t) for t in TIMES},
}
