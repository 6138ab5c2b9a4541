"""Bundles: all of a model in two files, every byte of them checked, written whole or not at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ftkit
from ftkit.errors import FtkitError, RequestError
from ftkit.files import durable
from ftkit.files.durable import replace_folder, save_tensors
from ftkit.files.folder_swap import previous_folder
from ftkit.models.bundle import backbone_id, load_bundle, save_bundle
from ftkit.runs.model_card import BackboneId, ModelCard, read_card
from ftkit.runs.run_lookup import find_model, run_of
from tests.models import REGISTRY, Registry

CLASSES = ("ant", "bee", "[/b] \u00e9\n")
FILES = ("model.safetensors", "model.json")


def network(seed: int, classes: int = 3, name: str = "lenet") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return REGISTRY.backbones.get(name).build(classes)


def card(name: str = "lenet") -> ModelCard:
    return ModelCard(
        classes=CLASSES,
        preprocessing=REGISTRY.backbones.get(name).preprocessing,
        backbone=backbone_id(REGISTRY, name),
        weights="none",
        strategy={"name": "gradual", "decay": 0.5},
        metrics={"val_accuracy": 0.75},
        epoch=3,
        fingerprint="0123456789abcdef",
    )


def resealed(path: Path, old: str, new: str) -> None:
    """Change a card by hand and seal it again, as a later version would."""
    text = path.read_text().replace(old, new, 1)
    blank = text.replace(json.loads(text)["sha256"], "0" * 64, 1)
    path.write_text(blank.replace("0" * 64, sha256(blank.encode()).hexdigest(), 1))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "model", network(1), card())
    return tmp_path / "model"


def first_weight(folder: Path) -> float:
    """Tells which of two networks a bundle holds."""
    return next(load_bundle(folder, registry=REGISTRY).model.parameters()).flatten()[0].item()


@pytest.mark.parametrize("name", ["lenet", "cifar_resnet20"])
def test_a_loaded_model_computes_the_very_same(tmp_path: Path, name: str) -> None:
    model = network(1, name=name).eval()
    save_bundle(tmp_path / "model", model, card(name))
    loaded = load_bundle(tmp_path / "model")
    pre = loaded.card.preprocessing
    images = torch.rand(2, pre.channels, pre.size, pre.size)
    assert not loaded.model.training
    assert torch.equal(loaded.model(images), model.to(memory_format=loaded.compute.layout)(images))


def test_the_card_comes_back_whole(bundle: Path) -> None:
    read = read_card(bundle)
    assert replace(read, versions={}, created="", ftkit="") == card()
    assert set(read.versions) == {"python", "torch", "torchvision"}
    assert read.ftkit == ftkit.__version__
    assert sorted(p.name for p in bundle.iterdir()) == sorted(FILES)


def test_metrics_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    save_bundle(tmp_path / "m", network(1), replace(card(), metrics={"val_loss": float("nan"), "val_accuracy": 0.5}))
    assert read_card(tmp_path / "m").metrics == {"val_loss": None, "val_accuracy": 0.5}


def test_loading_leaves_the_callers_random_numbers_alone(bundle: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_bundle(bundle, registry=REGISTRY)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_byte_is_found(bundle: Path, file: str) -> None:
    path = bundle / file
    whole = path.read_bytes()
    places = sorted({round(i * (len(whole) - 1) / 29) for i in range(30)} | {0, 1, 2, 20, 60})
    for place in places:
        for mask in (0x01, 0x20):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            with pytest.raises(RequestError, match=file):
                load_bundle(bundle, registry=REGISTRY)
    path.write_bytes(whole)
    load_bundle(bundle, registry=REGISTRY)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_cut_file_is_found(bundle: Path, file: str, keep: int) -> None:
    (bundle / file).write_bytes((bundle / file).read_bytes()[:keep])
    with pytest.raises(RequestError, match=rf"{file}: the file is damaged.*copy the bundle again"):
        load_bundle(bundle, registry=REGISTRY)


@pytest.mark.parametrize("file", FILES)
def test_an_appended_byte_is_found(bundle: Path, file: str) -> None:
    (bundle / file).write_bytes((bundle / file).read_bytes() + b"\n")
    with pytest.raises(RequestError, match=file):
        load_bundle(bundle, registry=REGISTRY)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    with pytest.raises(RequestError, match=rf"{file} is missing.*copy both"):
        load_bundle(bundle, registry=REGISTRY)


def test_files_of_two_bundles_dont_mix(bundle: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "other", network(2), card())
    shutil.copy(tmp_path / "other" / "model.safetensors", bundle)
    with pytest.raises(RequestError, match=r"model\.safetensors"):
        load_bundle(bundle, registry=REGISTRY)


def test_a_newer_format_says_to_upgrade(bundle: Path) -> None:
    resealed(bundle / "model.json", '"format": 1', '"format": 3')
    with pytest.raises(RequestError, match=r"written by a newer ftkit \(format 3\) \(upgrade ftkit\)"):
        load_bundle(bundle, registry=REGISTRY)


def test_a_newer_format_with_another_seal_is_reported_too(bundle: Path) -> None:
    path = bundle / "model.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    with pytest.raises(RequestError, match=r"written by a newer ftkit \(format 3\), or damaged \(upgrade ftkit\)"):
        load_bundle(bundle, registry=REGISTRY)


def test_a_missing_plugin_is_named_with_its_package(bundle: Path, tmp_path: Path) -> None:
    of_plugin = replace(card(), backbone=BackboneId("timm/convnext_tiny", "timm", "ftkit-timm", "1.0"))
    save_bundle(tmp_path / "m", network(1), of_plugin)
    with pytest.raises(RequestError, match=r"'timm/convnext_tiny'.*plugin 'timm'.*pip install ftkit-timm"):
        load_bundle(tmp_path / "m")


PLUGIN = """
from dataclasses import replace
from ftkit.api import hookimpl
from ftkit.builtin.backbones import lenet

@hookimpl
def ftkit_backbones():
    return {"own": replace(next(iter(lenet.ftkit_backbones().values())), name="own")}
"""


def test_a_projects_own_backbone_needs_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle_things.py").write_text(PLUGIN)
    (tmp_path / "ftkit.yaml").write_text("plugins: [./bundle_things.py]\n")
    monkeypatch.chdir(tmp_path)
    registry = Registry((tmp_path / "bundle_things.py",))
    own = replace(card(), backbone=backbone_id(registry, "bundle-things/own"))
    save_bundle(tmp_path / "model", network(1), own)
    assert first_weight_of(load_bundle(tmp_path / "model").model) == first_weight_of(network(1))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=r"plugin 'bundle-things', which isn't here.*bundle_things.py"):
        load_bundle(tmp_path / "model")


def first_weight_of(model: nn.Module) -> float:
    return next(model.parameters()).flatten()[0].item()


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    save_bundle(tmp_path / "m", network(1, classes=5), card())
    with pytest.raises(RequestError, match=r"model.safetensors doesn't fit backbone 'lenet' with 3 classes: .*size"):
        load_bundle(tmp_path / "m")


def test_tied_and_strided_weights_are_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    save_tensors(tmp_path / "t.safetensors", {"a": shared, "b": shared, "c": shared.T})
    assert {name: t.tolist() for name, t in load_file(tmp_path / "t.safetensors").items()} == {
        "a": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "b": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "c": [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]],
    }


def test_a_full_disk_leaves_the_old_bundle(bundle: Path) -> None:
    # A limit on the size of files stands in for the disk: writing fails in the same way.
    before = first_weight(bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(FtkitError, match=r"model can't be written: File too large") as caught:
            save_bundle(bundle, network(2), card())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.exit_code == 1
    assert first_weight(bundle) == before
    assert [p.name for p in bundle.parent.iterdir()] == ["model"]


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FtkitError, match=r"file/model can't be written"):
        save_bundle(tmp_path / "file" / "model", network(1), card())


def steps_until_killed(save: Callable[[], None], after: int) -> bool:
    """Run `save` in a child that dies, without a word, before its step number `after`; whether it finished."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # OpenMP's other threads don't live on in a fork, and waiting for them never ends.
        left = [after]

        def counted(step: Callable[..., object]) -> Callable[..., object]:
            def run(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return step(*arguments, **options)

            return run

        for owner, name in (
            (durable, "_fsync"), (durable, "save_file"), (shutil, "rmtree"),
            (Path, "rename"), (Path, "mkdir"), (Path, "write_bytes"),
        ):  # fmt: skip
            setattr(owner, name, counted(getattr(owner, name)))
        save()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_kill_at_any_step_leaves_a_whole_bundle(tmp_path: Path) -> None:
    old, new = network(1), network(2)
    values = {first_weight_of(old): "old", first_weight_of(new): "new"}
    found = []
    for after in range(100):
        folder = tmp_path / str(after) / "model"
        save_bundle(folder, old, card())
        finished = steps_until_killed(lambda f=folder: save_bundle(f, new, card()), after)  # type: ignore[misc]
        found.append(values[first_weight(folder)])
        assert find_model(str(folder), tmp_path).is_dir()
        save_bundle(folder, new, card())
        assert [p.name for p in folder.parent.iterdir()] == ["model"], "the next save clears up"
        if finished:
            break
    assert finished
    assert len(found) > 10
    assert found == ["old"] * found.count("old") + ["new"] * found.count("new"), "once new, it stays new"


def test_the_old_bundle_is_found_between_the_two_renames(bundle: Path) -> None:
    value = first_weight(bundle)
    bundle.rename(previous_folder(bundle))
    assert first_weight(bundle) == value
    assert read_card(bundle).classes == CLASSES


def test_a_failing_writer_changes_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    replace_folder(tmp_path / "t", lambda folder: None)
    with pytest.raises(ValueError, match="no"):
        replace_folder(tmp_path / "t", fail)
    assert [p.name for p in tmp_path.rglob("*")] == ["t"]


def make_run(folder: Path, with_model: bool) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    if with_model:
        save_bundle(folder / "model", network(1), card())
    return folder


def test_a_model_is_found_by_path_run_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs" / "mine", with_model=True)
    monkeypatch.chdir(tmp_path)
    for spec in ("runs/mine", "runs/mine/", "mine", "runs/mine/model", "runs/mine/model/model.json", str(run)):
        assert find_model(spec, Path("runs")).resolve() == run / "model"
    assert run_of(run / "model") == run


def test_the_latest_run_with_a_model_is_the_default(tmp_path: Path) -> None:
    make_run(tmp_path / "b-first", with_model=True)
    os.utime(tmp_path / "b-first" / "model", ns=(1, 1))
    make_run(tmp_path / "a-second", with_model=True)
    make_run(tmp_path / "c-unfinished", with_model=False)
    assert find_model(None, tmp_path) == tmp_path / "a-second" / "model"


def test_what_isnt_there_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no trained run in .*ftkit train makes one"):
        find_model(None, tmp_path / "runs")
    run = make_run(tmp_path / "runs" / "ants", with_model=False)
    with pytest.raises(RequestError, match=rf"has a model yet \(ftkit train --resume {run}\)"):
        find_model(None, tmp_path / "runs")
    with pytest.raises(RequestError, match=rf"still training, or was stopped \(ftkit train --resume {run}\)"):
        find_model("ants", tmp_path / "runs")
    with pytest.raises(RequestError, match=r"unknown run 'antz' \(did you mean 'ants'\?\)"):
        find_model("antz", tmp_path / "runs")
    (tmp_path / "photos").mkdir()
    with pytest.raises(RequestError, match="photos is neither a run nor a model"):
        find_model(str(tmp_path / "photos"), tmp_path / "runs")


def test_the_public_names_are_these() -> None:
    assert sorted(ftkit.__all__) == [
        "EpochDone", "Export", "FtkitError", "HeatMap", "Listener", "Outcome", "Plan", "Prediction", "Predictor",
        "RequestError", "RunStarted", "StepDone", "Uncertainty", "__version__", "export", "load", "plan",
        "resume", "train",
    ]  # fmt: skip
    for name in ftkit.__all__:
        assert getattr(ftkit, name) is not None
    assert callable(ftkit.plan)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ftkit.trian  # noqa: B018


def test_importing_ftkit_imports_nothing_heavy() -> None:
    code = "import sys, ftkit; print(sorted({'torch', 'pydantic', 'numpy', 'PIL', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
