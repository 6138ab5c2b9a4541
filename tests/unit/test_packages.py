"""The packages in `plugins/`: each stands on the public API alone, and is whole."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "plugins"
PACKAGES = sorted(folder.name for folder in ROOT.iterdir() if (folder / "pyproject.toml").is_file())
PUBLIC = {"ftkit", "ftkit.api", "ftkit.testing"}

each = pytest.mark.parametrize("name", PACKAGES)


def _imports(file: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "ftkit"}


@each
def test_its_code_imports_the_public_api_alone(name: str) -> None:
    files = list((ROOT / name / name.replace("-", "_")).rglob("*.py"))
    assert files
    for file in files:
        assert _imports(file) <= {"ftkit", "ftkit.api"}, file


@each
def test_its_tests_import_what_authors_have(name: str) -> None:
    for file in (ROOT / name / "tests").rglob("*.py"):
        assert all(module in PUBLIC or module.startswith("ftkit.testing.") for module in _imports(file)), file


@each
def test_it_is_an_installable_plugin_with_a_readme(name: str) -> None:
    about = tomllib.loads((ROOT / name / "pyproject.toml").read_text(encoding="utf-8"))
    assert about["project"]["name"] == name
    assert about["project"]["entry-points"]["ftkit"] == {name.removeprefix("ftkit-"): name.replace("-", "_")}
    assert any(need.startswith("ftkit>=") for need in about["project"]["dependencies"])
    readme = (ROOT / name / "README.md").read_text(encoding="utf-8")
    assert f"./plugins/{name}" in readme
