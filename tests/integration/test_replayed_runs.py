"""Runs whose network is replayed, since it can't be traced, end as uncached ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import Listener, Outcome, resume
from ftkit.errors import RunInterrupted
from tests import inside
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import plan, tensors
from tests.stopping import StopAt

SETTINGS: dict[str, Any] = {
    "backbone": "cifar_resnet20",
    "weights": "none",
    "strategy": {"name": "gradual", "every": 1},
    "batch_size": 6,
    "epochs": 4,
    "workers": 0,
    "precision": "fp32",
    "device": "cpu",
    "augment": "none",
}
PLUGIN = '''
from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl


def build(classes):
    import torch
    from torch import nn

    class Network(nn.Module):
        """Its width depends on the size of the images, which a trace can't follow."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8))
            self.head = nn.Linear(8, classes)

        def forward(self, images):
            low = self.stem(images)
            if low.shape[2] != max(low.shape[2], low.shape[3]):
                raise ValueError("images must be square")
            return self.head(self.body(low.relu_()).relu_().mean((2, 3)))

    return Network()


@hookimpl
def ftkit_backbones():
    groups = tuple(LayerGroup(name, name) for name in ("stem", "body", "head"))
    return {"square": Backbone("nets/square", groups, ("head",), build, Preprocessing(32))}
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 14, "b": 12}, "val": {"a": 4, "b": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


@pytest.fixture
def untraced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network can be traced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    inside.replay_every_network(monkeypatch)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows written to tables, by call."""
    counts: list[int] = []
    inside.watch_cached_rows(monkeypatch, counts.append)
    return counts


def train(data: Path, name: str, listener: Listener | None = None, **settings: Any) -> Outcome:
    return ftkit.train(plan(data, name, **(SETTINGS | settings)), listener)


@pytest.mark.usefixtures("untraced")
def test_it_ends_as_an_uncached_run_and_a_resumed_one_and_a_later_one_computes_nothing(
    data: Path, computed: list[int]
) -> None:
    cached = train(data, "cached")
    assert sum(computed) > 0
    plain = train(data, "plain", cache={"use": False})
    for name, value in tensors(plain.run.path).items():
        torch.testing.assert_close(tensors(cached.run.path)[name], value, rtol=0, atol=1e-5, msg=name)
    with pytest.raises(RunInterrupted):
        train(data, "resumed", StopAt(7))
    resume(Path("runs", "resumed"))
    model = Path("last", "model.safetensors")
    assert Path("runs", "resumed", model).read_bytes() == (cached.run.path / model).read_bytes()
    computed.clear()
    train(data, "later", strategy="freeze", epochs=1)
    assert computed == []


@pytest.fixture
def project(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "nets.py").write_text(PLUGIN)
    settings = SETTINGS | {
        "dataset": {"name": "folder", "root": str(data)},
        "plugins": ["nets.py"],
        "backbone": "nets/square",
        "epochs": 3,
    }
    (tmp_path / "ftkit.yaml").write_text(json.dumps(settings))
    return tmp_path


def test_an_evaluation_reads_its_activations(project: Path, run_ftkit: RunFtkit) -> None:
    trained = run_ftkit("train", "--name", "run", "--strategy", "freeze", "--epochs", "2", cwd=project)
    assert trained.returncode == 0, trained.stderr
    said = []
    for more in ((), ("--no-cache",)):
        done = run_ftkit("evaluate", "runs/run/last", "--split", "val", "--json", *more, cwd=project)
        assert done.returncode == 0, done.stderr
        assert ("the cache has the activations after body()" in done.stderr) == (not more), done.stderr
        said.append(json.loads(done.stdout)["loss"])
    assert said[0] == pytest.approx(said[1], abs=1e-6)


def test_a_recommendation_reads_the_activations_of_a_run(project: Path, run_ftkit: RunFtkit) -> None:
    first = run_ftkit("train", "--name", "first", "--strategy", "full", "--epochs", "1", cwd=project)
    assert first.returncode == 0, first.stderr
    weights = ("--weights", "runs/first/last/model.safetensors")
    trained = run_ftkit("train", *weights, "--strategy", "freeze", "--epochs", "1", cwd=project)
    assert trained.returncode == 0, trained.stderr
    said = {}
    for more in ((), ("--no-cache",)):
        done = run_ftkit("advise", *weights, "--json", *more, cwd=project)
        assert done.returncode == 0, done.stderr
        assert ("the cache has the activations after body()" in done.stderr) == (not more), done.stderr
        said[more] = json.loads(done.stdout)["facts"]
    assert said[()] == pytest.approx(said[("--no-cache",)])


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        ("--num-processes", "2", "--batch-size", "3"),
        pytest.param(("--compile",), marks=pytest.mark.skipif(sys.platform != "linux", reason="wants a C++ compiler")),
        ("--precision", "bf16"),
    ],
)
def test_several_processes_compiled_code_and_16_bits_end_as_without_the_cache(
    more: tuple[str, ...], project: Path, run_ftkit: RunFtkit
) -> None:
    for name, cache in (("cached", ()), ("plain", ("--no-cache",))):
        done = run_ftkit("train", "--name", name, *cache, *more, cwd=project)
        assert done.returncode == 0, done.stderr
        assert "nothing is cached" not in done.stdout + done.stderr
    atol = 0.02 if "bf16" in more else 1e-5
    for name, value in tensors(project / "runs" / "plain").items():
        torch.testing.assert_close(tensors(project / "runs" / "cached")[name], value, rtol=0, atol=atol, msg=name)
