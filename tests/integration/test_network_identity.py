"""An edited network never uses the activations of its earlier version; an unchanged one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import inside
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import cached_tables, without_times

PLUGIN = """
from collections.abc import Mapping
from ftkit.api import Backbone, LayerGroup, Preprocessing, Strategy, hookimpl

SCALE = 1.5

def factor():
    return SCALE

def build(num_classes):
    import torch
    from torch import nn

    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.full((32, 1, 1), 0.25), persistent=False)

        def forward(self, x):
            return torch.relu(x + self.offset)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 8, stride=8)
            self.offset = Offset()
            self.block = nn.TransformerEncoderLayer(32, 4, 32, dropout=0.0, batch_first=True, norm_first=False)
            self.head = nn.Linear(32, num_classes)

        def forward(self, x):
            x = self.offset(self.stem(x)).flatten(2).transpose(1, 2)
            return self.head(self.block(x).mean(1) * factor())

    return Net()

NET = Backbone(
    name="own/net",
    groups=(LayerGroup("stem", r"(stem|block)\\."), LayerGroup("head", r"head\\.")),
    head=("head",),
    build=build,
    preprocessing=Preprocessing(size=32, crop_pct=1.0),
    min_size=8,
)

@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return {"net": NET}
"""

LINE = ("--backbone", "own/net", "--strategy", "freeze", "--epochs", "2", "--augment", "none", "--batch-size", "8")
FLAGS = ("--weights", "net.pth", "--workers", "0", "--precision", "fp32", "--no-probe", "--json", "-q")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_folder: MakeFolder) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    image_folder(tmp_path / "data", {"train": {"a": 8, "b": 8}, "val": {"a": 4, "b": 4}})
    Path("ftkit.yaml").write_text("plugins: [./own.py]\ndataset: {name: folder, root: data}\n")
    Path("own.py").write_text(PLUGIN)
    spaces: dict[str, Any] = {}
    exec(PLUGIN, spaces)
    torch.manual_seed(0)
    torch.save(spaces["build"](2).state_dict(), "net.pth")


def trained(run_ftkit: RunFtkit, name: str, *flags: str) -> list[dict[str, Any]]:
    done = run_ftkit("train", *LINE, *FLAGS, "--name", name, *flags)
    assert done.returncode == 0, done.stderr
    return without_times(json.loads(done.stdout)["epochs"])


def tables() -> set[str]:
    return {table["path"] for table in cached_tables()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Layer(32, 4,", "Layer(32, 2,"),
        ("norm_first=False", "norm_first=True"),
        ("0.25), persistent", "0.5), persistent"),
        ("torch.relu(x +", "torch.relu(x -"),
        ("batch_first=True", "batch_first=True, activation=torch.nn.functional.gelu"),
        ("32, dropout=0.0", "32, dropout=0.0, layer_norm_eps=0.5"),
    ],
)
def test_an_edited_network_is_computed_again(before: str, after: str, run_ftkit: RunFtkit) -> None:
    trained(run_ftkit, "before")
    assert before in PLUGIN
    Path("own.py").write_text(PLUGIN.replace(before, after))
    assert trained(run_ftkit, "after") == trained(run_ftkit, "anew", "--cache-dir", "empty")


def test_edits_beside_the_network_change_no_key(run_ftkit: RunFtkit) -> None:
    before, kept = trained(run_ftkit, "before"), tables()
    Path("own.py").write_text(PLUGIN.replace("def build", "# A comment.\ndef other():\n    return 1\n\n\ndef build"))
    assert trained(run_ftkit, "after") == before
    assert tables() == kept


def test_a_table_with_other_values_is_reported_and_not_used(
    run_ftkit: RunFtkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the key of a table should miss."""
    inside.identify_all_networks_alike(monkeypatch)
    before = trained(run_ftkit, "before")
    Path("own.py").write_text(PLUGIN.replace("torch.relu(x +", "torch.relu(x -"))
    after = trained(run_ftkit, "after")
    assert after == trained(run_ftkit, "anew", "--cache-dir", "empty")
    log = (Path("runs") / "after" / "train.log").read_text()
    assert "cached activations aren't what the network computes" in log
    line = ("evaluate", "runs/before/last", "--split", "val", "--json", "--precision", "fp32")
    cached, plain = (json.loads(run_ftkit(*line, *flags).stdout)["loss"] for flags in ((), ("--no-cache",)))
    assert cached == pytest.approx(plain, abs=1e-6)
    Path("own.py").write_text(PLUGIN)
    assert trained(run_ftkit, "again") == before
