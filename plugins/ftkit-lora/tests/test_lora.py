"""LoRA and DoRA: what trains, what is kept, and that nothing else moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ftkit_lora import Dora, Lora
from peft import PeftModel
from safetensors.torch import load_file

import ftkit
from ftkit.api import Backbone, RequestError
from ftkit.testing import check_strategy
from ftkit.testing.project import Project

SMALL = ("--backbone", "cifar_resnet20", "--weights", "none", "--batch-size", "4", "--output", "runs", "--name", "run")


@pytest.fixture
def project(ftkit_images: Callable[..., Path], ftkit_project: Callable[..., Project]) -> Project:
    """A project with images, trained on nothing yet."""
    images = ftkit_images({"ants": 8, "bees": 8}, (32, 32))
    return ftkit_project({"ftkit.yaml": f"dataset: {{name: folder, root: {images}}}\n"})


@pytest.mark.parametrize(
    "strategy", [pytest.param(Lora(rank=2), marks=pytest.mark.long), Dora(rank=2, dropout=0.1)], ids=repr
)
def test_the_contract(strategy: Lora) -> None:
    check_strategy(strategy, lengths=(1, 3))


@pytest.mark.parametrize("name", ["lora/dora", pytest.param("lora/lora", marks=pytest.mark.long)])
def test_the_model_is_merged_and_the_adapters_are_as_peft_reads_them(name: str, project: Project) -> None:
    options = ("--strategy", name, "--epochs", "3", "--set", "strategy.rank=2", "--lr", "0.01", "--no-probe")
    done = project.run("train", *SMALL, *options, "-q")
    assert done.returncode == 0, done.stderr
    kept = project.path / "runs" / "run" / "last"

    plain = ftkit.load(kept).network
    first = next((project.path / "runs" / "run" / "checkpoints").glob("e*"))
    start = load_file(first / "model.safetensors") | load_file(first / "frozen.safetensors")
    fresh = ftkit.load(kept).network
    fresh.load_state_dict({n.replace("base_layer.", ""): t for n, t in start.items() if "lora_" not in n})
    changed = [n for n, t in plain.state_dict().items() if not torch.equal(t, fresh.state_dict()[n])]
    assert "layer1.0.conv1.weight" in changed, "adapters are merged into the weights"
    assert not [n for n in changed if "bn" in n], "frozen statistics stay"

    adapted = PeftModel.from_pretrained(fresh, str(kept / "adapter")).eval()
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(adapted(images), plain(images), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_run_resumes(project: Project) -> None:
    line = ("train", *SMALL, "--strategy", "lora/lora", "--no-probe", "-q")
    assert project.run(*line, "--epochs", "2").returncode == 0
    more = project.run("train", "--resume", "runs/run", "--extend", "3", "-q")
    assert more.returncode == 0, more.stderr
    assert len((project.path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()) == 5


@pytest.mark.long
def test_two_processes_train_the_same_adapters(project: Project) -> None:
    done = project.run("train", *SMALL, "--strategy", "lora/lora", "--num-processes", "2", "--epochs", "2", "-q")
    assert done.returncode == 0, done.stderr
    assert (project.path / "runs" / "run" / "model" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.long
def test_the_plan_counts_what_trains(project: Project) -> None:
    plan = project.run("plan", *SMALL, "--strategy", "lora/lora", "--set", "strategy.rank=4", "--json")
    assert plan.returncode == 0, plan.stderr
    groups = json.loads(plan.stdout)["groups"]
    sizes = {group["name"]: group["parameters"] for group in groups}
    layers = load_shapes()
    assert sizes["adapters"] == sum(4 * (inputs * 9 + outputs) for inputs, outputs in layers)


def load_shapes() -> list[tuple[int, int]]:
    """Channels in and out of the convolutions of ResNet-20: one before, six in each of three stages."""
    stages = [(16, 16)] * 6 + [(16, 32)] + [(32, 32)] * 5 + [(32, 64)] + [(64, 64)] * 5
    return [(3, 16), *stages]


def built_in(name: str) -> Backbone:
    return ftkit.plan(dataset="digits", backbone=name, weights="none").backbone


def test_layers_that_the_network_does_not_call_are_refused() -> None:
    backbone = built_in("swin_t")
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, size=32))
    with pytest.raises(RequestError) as error:
        Lora(layers=r".*attn\.(qkv|proj)").adapt(backbone.build(2), backbone)
    assert "matches 24 layers of swin_t whose weights the network uses without calling them" in str(error.value)
    assert "match other layers, such as features.0.0, features.1.0.mlp.0" in str(error.value)


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "vit_b_32"])
def test_by_default_each_adapter_gets_a_gradient(name: str) -> None:
    backbone = built_in(name)
    backbone = replace(backbone.for_size(32), preprocessing=replace(backbone.preprocessing, size=32))
    network = Lora(rank=2).adapt(backbone.build(2), backbone)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    adapters = {n: p for n, p in network.named_parameters() if "lora_" in n}
    assert len(adapters) > 20
    assert all(parameter.grad is not None for parameter in adapters.values())
    assert not any(".attn.qkv." in n or "out_proj" in n for n in adapters)


def test_a_layer_shows_its_settings_through_its_adapter() -> None:
    """timm's DaViT asks its convolutions for their kernel size."""
    backbone = built_in("cifar_resnet20")
    network = Lora(rank=2).adapt(backbone.build(2), backbone)
    layer: Any = network.get_submodule("layer1.0.conv1")
    assert (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1)


@pytest.mark.long
def test_layers_that_are_not_there_are_refused_with_the_names(project: Project) -> None:
    done = project.run("train", *SMALL, "--strategy", "lora/lora", "--set", "strategy.layers=blocks", "--epochs", "1")
    assert done.returncode == 2
    assert "strategy.layers: 'blocks' matches no layer of cifar_resnet20" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [({"rank": 0}, "strategy.rank"), ({"dropout": 1.0}, "strategy.dropout"), ({"layers": "("}, "strategy.layers")],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Lora(**options)  # type: ignore[arg-type]


SQUARE = '''
from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl


def build(classes):
    from torch import nn

    class Network(nn.Module):
        """Its control flow depends on the size of the images, which a trace can't follow."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))
            self.body = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8))
            self.head = nn.Linear(8, classes)

        def forward(self, images):
            low = self.stem(images)
            if low.shape[2] != max(low.shape[2], low.shape[3]):
                raise ValueError("images must be square")
            return self.head(self.body(low.relu()).relu().mean((2, 3)))

    return Network()


@hookimpl
def ftkit_backbones():
    groups = tuple(LayerGroup(name, name) for name in ("stem", "body", "head"))
    return {"square": Backbone("nets/square", groups, ("head",), build, Preprocessing(32))}
'''


def test_what_is_below_the_first_adapter_is_cached_and_the_result_is_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.path / "cache"))
    (project.path / "nets.py").write_text(SQUARE)
    line = ("train", "--backbone", "nets/square", "--weights", "none", "--strategy", "lora/lora", "--epochs", "3")
    more = ("--set", "plugins=[nets.py]", "--set", "strategy.layers=body", "--augment", "none", "--no-probe")
    found = {}
    for name, cache, tables in (("plain", "--no-cache", 0), ("cached", "--cache", 2)):
        sizes = ("--batch-size", "4", "--workers", "0", "--precision", "fp32")
        done = project.run(*line, *more, *sizes, "--name", name, cache, "--no-report", "-q")
        assert done.returncode == 0, done.stderr
        assert project.run("cache", "list").stdout.count("nets/square after body.0") == tables
        found[name] = load_file(project.path / "runs" / name / "last" / "model.safetensors")
    assert found["cached"].keys() == found["plain"].keys()
    for name, value in found["plain"].items():
        torch.testing.assert_close(found["cached"][name], value, rtol=0, atol=1e-5, msg=name)
