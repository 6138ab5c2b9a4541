"""What later versions keep to: public names and signatures, and files that earlier ones wrote."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.config.load import resolve
from ftkit.plugins import hookspecs
from ftkit.testing import draw_image
from tests.conftest import RunFtkit

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
API = FIXTURES / "api.json"
VERSIONS = sorted(folder.name for folder in FIXTURES.iterdir() if folder.is_dir()) if FIXTURES.is_dir() else []

each_version = pytest.mark.parametrize("version", VERSIONS)


def public() -> dict[str, Any]:
    """Every public name with its signature, or its fields, or its value."""
    modules = {name: importlib.import_module(name) for name in ("ftkit", "ftkit.api", "ftkit.testing")}
    found = {
        name: {item: _described(getattr(module, item)) for item in sorted(module.__all__) if item != "__version__"}
        for name, module in modules.items()
    }
    named = {name: str(inspect.signature(f)) for name, f in vars(hookspecs).items() if name.startswith("ftkit_")}
    return {**found, "hooks": named}


def _described(item: Any) -> Any:
    if inspect.isclass(item):
        own = {
            name: str(inspect.signature(value))
            for name, value in vars(item).items()
            if inspect.isfunction(value) and not name.startswith("_")
        }
        return {"(": _signature(item), **own}
    return _signature(item) if callable(item) else repr(item)


def _signature(item: Any) -> str:
    try:
        # The address of a default that is an object says nothing.
        return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(item)))
    except (TypeError, ValueError):
        return ""


def test_the_public_names_and_signatures_are_those_on_record() -> None:
    """A change that is meant is recorded by scripts/record_compatibility.py, and told in CHANGELOG.md."""
    recorded = json.loads(API.read_text(encoding="utf-8"))
    now = public()
    for part in recorded:
        assert now[part] == recorded[part], part
    assert now.keys() == recorded.keys()


def test_the_document_names_each_of_them() -> None:
    document = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for part in public().values():
        for name in part:
            assert f"`{name}`" in document, name


def test_there_is_a_version_to_read() -> None:
    assert "0.1.0" in VERSIONS


@each_version
def test_its_models_predict_as_they_did(version: str) -> None:
    model = ftkit.load(FIXTURES / version / "model", precision="fp32")
    printed = json.loads((FIXTURES / version / "predictions.json").read_text(encoding="utf-8"))
    results = model.predict([draw_image(kind, (28, 28), "x") for kind in range(2)], top_k=2)
    for answer, expected in zip(results, printed, strict=True):
        assert [label for label, _ in answer.top] == [label for label, _ in expected]
        assert [p for _, p in answer.top] == pytest.approx([p for _, p in expected], abs=1e-4)


@each_version
@pytest.mark.parametrize("name", ["ftkit.yaml", "config.yaml"])
def test_its_configs_are_read(version: str, name: str) -> None:
    config = resolve(FIXTURES / version / name, {"dataset": ("--dataset", "digits")}, env={}).config
    assert (config.backbone, config.strategy.name, config.seed) == ("lenet", "gradual", 3)
    assert config.strategy.options["decay"] == 0.4


@each_version
def test_its_projects_can_be_updated(version: str, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    shutil.copytree(FIXTURES / version / "project", tmp_path / "kiosk")
    mine = (tmp_path / "kiosk" / "kiosk.py").read_text(encoding="utf-8") + "\n# mine\n"
    (tmp_path / "kiosk" / "kiosk.py").write_text(mine, encoding="utf-8")
    done = run_ftkit("init", "--update", "kiosk", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kiosk" / "kiosk.py").read_text(encoding="utf-8").endswith("# mine\n")
    assert run_ftkit("init", "--update", "--check", "kiosk", cwd=tmp_path).returncode == 0
