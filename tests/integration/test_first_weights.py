"""What may be given as `--weights`, as the command line takes it: runs, parts of runs, files in part; kept heads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ftkit
from tests.conftest import MakeFolder, RunFtkit

SMALL = ("--backbone", "cifar_resnet20", "--batch-size", "6", "--workers", "0", "--augment", "none", "--no-cache")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder, run_ftkit: RunFtkit) -> Path:
    """A folder with images in `data` and a run of them, `runs/first`."""
    home = tmp_path_factory.mktemp("home")
    image_folder(home / "data", {"train": {"a": 9, "b": 9, "c": 9}, "val": {"a": 4, "b": 4, "c": 4}}, (32, 32))
    options = ("--weights", "none", "--strategy", "scratch", "--epochs", "2", "--name", "first", "-q")
    done = run_ftkit("train", "--data", "data", *SMALL, *options, cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def train(run_ftkit: RunFtkit, home: Path, *options: str) -> str:
    """Trains nothing but the start, without a probe; what was said."""
    done = run_ftkit("train", "--data", "data", *SMALL, "--epochs", "0", "--no-probe", *options, cwd=home)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "error:" in done.stderr else 0)
    return done.stdout + done.stderr


def test_parts_of_a_run_are_refused_and_its_model_is_named(home: Path, run_ftkit: RunFtkit) -> None:
    checkpoint = next((home / "runs" / "first" / "checkpoints").glob("e*")).relative_to(home)
    parts = (
        "runs/first/checkpoints",
        checkpoint,
        checkpoint / "model.safetensors",
        "runs/first/first/model.safetensors",
    )
    for part in parts:
        printed = train(run_ftkit, home, "--weights", str(part))
        assert "is not a model: it is " in printed
        assert "give " in printed
        assert "runs/first/model" in printed
    predicted = run_ftkit("predict", "data/val", "--model", str(checkpoint), cwd=home)
    assert predicted.returncode == 2
    assert "a checkpoint to resume from" in predicted.stderr


def test_the_file_of_a_model_is_that_model(home: Path, run_ftkit: RunFtkit) -> None:
    for weights in ("runs/first", "runs/first/last", "runs/first/last/model.safetensors"):
        assert "loaded 114 of 116 tensors" in train(run_ftkit, home, "--weights", weights)
    shutil.copytree(home / "runs" / "first" / "last", home / "touched")
    state = load_file(home / "touched" / "model.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, home / "touched" / "model.safetensors")
    assert "touched/model.safetensors: the file is damaged" in train(run_ftkit, home, "--weights", "touched")
    (home / "touched" / "model.json").unlink()
    printed = train(run_ftkit, home, "--weights", "touched")
    assert "touched has no model.json" in printed
    assert "name the weights file: " in printed


def test_adapters_and_shards_are_refused_with_the_remedy(home: Path, run_ftkit: RunFtkit) -> None:
    adapter = home / "runs" / "first" / "model" / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    save_file({"lora_A": torch.ones(2)}, adapter / "adapter_model.safetensors")
    for weights in ("runs/first/model/adapter", "runs/first/model/adapter/adapter_model.safetensors"):
        printed = train(run_ftkit, home, "--weights", weights)
        assert "are adapters alone" in printed
        assert "runs/first/model, which has them merged in" in printed
    shutil.rmtree(adapter)
    (home / "hub").mkdir()
    (home / "hub" / "model.safetensors.index.json").write_text("{}")
    assert "name their index: " in train(run_ftkit, home, "--weights", "hub")


def test_the_name_of_a_run_is_refused_with_its_path(home: Path, run_ftkit: RunFtkit) -> None:
    assert f"a run is given as {Path('runs') / 'first'}" in train(run_ftkit, home, "--weights", "first").replace(
        f"{home}/", ""
    )


def test_part_of_a_network_must_be_meant(home: Path, run_ftkit: RunFtkit) -> None:
    state = load_file(home / "runs" / "first" / "last" / "model.safetensors")
    save_file({n: v for n, v in state.items() if not n.startswith("layer3")}, home / "part.safetensors")
    printed = train(run_ftkit, home, "--weights", "part.safetensors", "-q")
    assert "layer3 lacks all 30 tensors" in printed
    assert "--allow-partial" in printed
    printed = train(run_ftkit, home, "--weights", "part.safetensors", "--allow-partial")
    assert "random: all 30 tensors of layer3" in printed
    assert "allow_partial is set, but weights are none" in train(
        run_ftkit, home, "--weights", "none", "--allow-partial", "--strategy", "scratch"
    )
    assert "weights_key is set, but weights are none" in train(
        run_ftkit, home, "--weights", "none", "--set", "weights_key=ema", "--strategy", "scratch"
    )


def test_a_kept_head_goes_by_the_names_of_its_classes(home: Path, run_ftkit: RunFtkit) -> None:
    keep = ("--weights", "runs/first", "--keep-head", "--set", "classes=[c,a,b]", "--name", "turned")
    assert "error" not in train(run_ftkit, home, *keep)
    before, after = ftkit.load(home / "runs" / "first"), ftkit.load(home / "runs" / "turned")
    assert after.classes == ("c", "a", "b")
    images = sorted((home / "data" / "val").glob("*/*"))
    for image in images:
        one, other = (dict(model.predict(image)[0].top) for model in (before, after))
        assert one == pytest.approx(other, abs=1e-5)
    records = [json.loads((home / "runs" / run / "metrics.jsonl").read_text().splitlines()[-1]) for run in ("turned",)]
    assert records[0]["val_accuracy"] == pytest.approx(
        sum(before.predict(i)[0].label == i.parent.name for i in images) / 12
    )


def test_a_kept_head_of_other_classes_is_refused(home: Path, run_ftkit: RunFtkit) -> None:
    other = ("--weights", "runs/first", "--keep-head", "--set", "label_map={a: a, b: b, c: zebra}")
    printed = train(run_ftkit, home, *other)
    assert "the head of runs/first is for other classes: it lacks 'zebra' and has 'c'" in printed.replace(
        f"{home}/", ""
    )
    shutil.copy(home / "runs" / "first" / "last" / "model.safetensors", home / "plain.safetensors")
    printed = train(run_ftkit, home, "--weights", "plain.safetensors", "--keep-head")
    assert "doesn't tell the classes of its head: they are taken to be those of the data" in printed
