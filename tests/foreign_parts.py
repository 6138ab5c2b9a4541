"""A plugin as somebody else would write it: a backbone without sizes, images that are no files, and a strategy."""

from __future__ import annotations

from pathlib import Path

PLUGIN = '''
from dataclasses import dataclass

from ftkit.api import Backbone, Dataset, LayerGroup, Preprocessing, Pretrained, Split, Splits, Strategy, hookimpl

LOOK = Preprocessing(size=16, crop_pct=1.0)


def build(num_classes):
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
            self.classify_it = nn.Linear(6, num_classes)

        def forward(self, images):
            return self.classify_it(self.features(images).mean(dim=(2, 3)))

    return Net()


def weights():
    import torch

    torch.manual_seed(0)
    return build(5).state_dict()


NET = Backbone(
    name="foreign/net",
    groups=(LayerGroup("everything", r"features\\."), LayerGroup("head", r"classify_it\\.")),
    head=("classify_it",),
    build=build,
    preprocessing=LOOK,
    weights=(Pretrained("DRAWN", weights, LOOK),),
)


@dataclass(frozen=True)
class Opener:
    kinds: tuple

    def __call__(self, index):
        from ftkit.testing import draw_image

        return draw_image(self.kinds[index], (16, 16), f"{index}")


@dataclass(frozen=True)
class Drawn(Dataset):
    """Pictures that are drawn when they are asked for.

    Attributes:
        per_class: Number of training pictures of each class.
    """

    per_class: int = 12

    def load(self):
        def split(name, count):
            labels = [index % 2 for index in range(2 * count)]
            return Split([f"{name}-{index}" for index in range(2 * count)], labels, Opener(tuple(labels)))

        return Splits(("round", "square"), split("train", self.per_class), split("val", 4), split("test", 4))


@dataclass(frozen=True)
class Late(Strategy):
    """The head first, then everything.

    Attributes:
        after: Epochs that the head trains alone.
    """

    after: int = 1

    def lr_scales(self, epoch, epochs, groups):
        return {groups[-1]: 1.0} if epoch < self.after else dict.fromkeys(groups, 0.5)


@hookimpl
def ftkit_backbones():
    return {"net": NET}


@hookimpl
def ftkit_datasets():
    return {"drawn": Drawn}


@hookimpl
def ftkit_strategies():
    return {"late": Late}
'''

CONFIG = """\
plugins: [./foreign.py]
backbone: foreign/net
dataset: {name: foreign/drawn}
strategy: {name: foreign/late}
epochs: 2
batch_size: 8
workers: 0
device: cpu
"""


def foreign_project(folder: Path, plugin: str = PLUGIN, config: str = CONFIG) -> Path:
    """Write the plugin and a config that uses all of it into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "foreign.py").write_text(plugin, encoding="utf-8")
    (folder / "ftkit.yaml").write_text(config, encoding="utf-8")
    return folder
