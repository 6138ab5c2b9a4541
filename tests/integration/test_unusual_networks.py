"""Networks that other tools' users bring: traced without harm, trained all the same, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import MakeFolder, RunFtkit

PLUGIN = '''
from dataclasses import dataclass

from ftkit.api import Backbone, LayerGroup, Preprocessing, Strategy, hookimpl


@dataclass(frozen=True)
class Still(Strategy):
    """The stem at scale 0, which is frozen."""

    def lr_scales(self, epoch, epochs, groups):
        return {groups[0]: 0.0, groups[-1]: 1.0}


@hookimpl
def ftkit_strategies():
    return {"still": Still}


def networks():
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2)
            self.scale = nn.Parameter(torch.ones(8))
            self.norm = nn.BatchNorm2d(8)
            self.head = nn.Linear(8, classes)

        def features(self, images):
            return self.norm(self.stem(images)).relu().mean((2, 3))

        def forward(self, images):
            return self.head(self.features(images))

    class Keeps(Network):
        """Keeps in eval mode what it made of its weights, until it trains again, as LeViT does."""

        def __init__(self, classes):
            super().__init__(classes)
            self.kept = {}

        def train(self, mode=True):
            if mode:
                self.kept.clear()
            return super().train(mode)

        def features(self, images):
            if not self.training and "scale" not in self.kept:
                self.kept["scale"] = (self.scale * 2)[torch.arange(8)]
            scale = self.scale[torch.arange(8)] * 2 if self.training else self.kept["scale"]
            return super().features(images) * scale

    class Nested(Keeps):
        """Keeps it a level deeper, in an attribute that it makes anew."""

        def features(self, images):
            if not self.training and not self.kept.get("by", {}).get("scale", [None])[0] is not None:
                self.kept["by"] = {"scale": [self.scale * 2]}
            scale = self.scale * 2 if self.training else self.kept["by"]["scale"][0]
            return Network.features(self, images) * scale

    class Counts(Network):
        """Its own code counts and changes a buffer while it runs."""

        def __init__(self, classes):
            super().__init__(classes)
            self.register_buffer("seen", torch.zeros(()))
            self.calls = []

        def features(self, images):
            self.calls.append(len(self.calls))
            self.seen += 1
            return super().features(images)

    class Looks(Network):
        """Can't be traced, only replayed: what it does depends on values."""

        def features(self, images):
            found = super().features(images)
            return found if found.sum() > 0 else -found

    class Distilled(Network):
        """Two heads in training, their mean in evaluation."""

        def __init__(self, classes):
            super().__init__(classes)
            self.head_dist = nn.Linear(8, classes)

        def forward(self, images):
            found = self.features(images)
            both = self.head(found), self.head_dist(found)
            return both if self.training else (both[0] + both[1]) / 2

    class Mapping(Network):
        def forward(self, images):
            return {"logits": super().forward(images)}

    class Pair(Network):
        def forward(self, images):
            return super().forward(images), images

    class Nothing(Network):
        def forward(self, images):
            super().forward(images)

    class Pixels(Network):
        def forward(self, images):
            return super().forward(images)[:, :, None, None]

    class Fixed(Network):
        def __init__(self, classes):
            super().__init__(5)

    class Whole(Network):
        def forward(self, images):
            return super().forward(images).argmax(1)

    class Raises(Network):
        def forward(self, images):
            raise LookupError("no such size\\nat all")

    class RaisesInTraining(Network):
        def forward(self, images):
            if self.training:
                raise KeyError("labels")
            return super().forward(images)

    return {one.__name__.lower(): one for one in (
        Keeps, Nested, Counts, Looks, Distilled, Mapping, Pair, Nothing, Pixels, Fixed, Whole, Raises, RaisesInTraining
    )}


def make(name):
    return Backbone(
        name=f"nets/{name}",
        groups=(LayerGroup("stem", r"(stem|scale|norm)"), LayerGroup("head", r"head")),
        head=("head", "head_dist") if name == "distilled" else ("head",),
        build=lambda classes: networks()[name](classes),
        preprocessing=Preprocessing(size=32, crop_pct=1.0),
        min_size=8,
        aux_weight=1.0,
    )


NAMES = ("keeps", "nested", "counts", "looks", "distilled", "mapping", "pair", "nothing", "pixels", "fixed", "whole",
         "raises", "raisesintraining")


@hookimpl
def ftkit_backbones():
    return {name: make(name) for name in NAMES}
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    folder = tmp_path_factory.mktemp("project")
    image_folder(folder / "photos", {"train": {"a": 12, "b": 12, "c": 12}, "val": {"a": 5, "b": 5, "c": 5}})
    (folder / "nets.py").write_text(PLUGIN)
    settings = {
        "plugins": ["nets.py"],
        "dataset": {"name": "folder", "root": "photos"},
        "weights": "none",
        "epochs": 3,
        "batch_size": 12,
        "workers": 0,
        "augment": "none",
        "optimizer": {"name": "adamw", "lr": 0.05},
        "precision": "fp32",
        "device": "cpu",
    }
    (folder / "ftkit.yaml").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("strategy", ["freeze", "full"])
@pytest.mark.parametrize("name", ["keeps", "nested", "counts", "looks", "distilled"])
def test_what_a_training_says_of_a_network_holds_for_its_bundle(
    name: str, strategy: str, project: Path, run_ftkit: RunFtkit
) -> None:
    """So neither the trace nor an earlier epoch has left anything in the network that the bundle hasn't got."""
    run = f"{name}-{strategy}"
    trained = run_ftkit("train", "--backbone", f"nets/{name}", "--strategy", strategy, "--name", run, cwd=project)
    assert trained.returncode == 0, trained.stderr
    records = [json.loads(line) for line in (project / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    chosen = ("--split", "val", "--data", "photos", "--no-cache", "--precision", "fp32", "--json")
    evaluated = run_ftkit("evaluate", f"runs/{run}/last", *chosen, cwd=project)
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    assert scores["loss"] == pytest.approx(records[-1]["val_loss"], abs=1e-6)
    assert records[0]["val_loss"] != pytest.approx(records[-1]["val_loss"], abs=1e-4), "it learnt nothing"
    reported = trained.stdout + trained.stderr
    assert "nothing is cached" not in reported


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("mapping", "nets/mapping returns a dict of logits in evaluation"),
        ("pair", "nets/pair returns a tuple of Tensor, Tensor in evaluation"),
        ("nothing", "nets/nothing returns None in evaluation"),
        ("pixels", "nets/pixels returns a tensor (2, 3, 1, 1) of float32 for 2 images and 3 classes in evaluation"),
        ("fixed", "nets/fixed returns a tensor (2, 5) of float32 for 2 images and 3 classes in evaluation"),
        ("whole", "nets/whole returns a tensor (2,) of int64 for 2 images and 3 classes in evaluation"),
        ("raises", "nets/raises fails in evaluation on images of 3x32x32: LookupError: no such size at all"),
        ("raisesintraining", "nets/raisesintraining fails in training on images of 3x32x32: KeyError: 'labels'"),
    ],
)
def test_a_network_that_cant_be_trained_is_one_line(
    name: str, printed: str, project: Path, run_ftkit: RunFtkit
) -> None:
    done = run_ftkit("train", "--backbone", f"nets/{name}", "--strategy", "freeze", cwd=project)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr
    assert printed in errors[0]
    assert "internal error" not in done.stderr


def test_a_group_at_scale_0_is_frozen_as_one_without_a_scale(project: Path, run_ftkit: RunFtkit) -> None:
    """Its BatchNorm statistics too, which drift, a distance of weights, wouldn't show."""
    for strategy, run in (("nets/still", "still"), ("freeze", "frozen")):
        options = ("--strategy", strategy, "--name", run, "--no-cache")
        done = run_ftkit("train", "--backbone", "nets/distilled", *options, cwd=project)
        assert done.returncode == 0, done.stderr
    still, frozen = (load_file(project / "runs" / run / "last" / "model.safetensors") for run in ("still", "frozen"))
    assert torch.equal(still["norm.running_mean"], torch.zeros(8))
    assert all(torch.equal(value, frozen[name]) for name, value in still.items())
