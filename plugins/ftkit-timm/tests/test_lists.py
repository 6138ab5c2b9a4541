"""Lists of timm's networks: made once for a version of timm, and read without importing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from ftkit_timm import ftkit_backbones
from ftkit_timm.parameters import TABLE, parameters_of, source_digest

from ftkit.testing import check_backbone
from ftkit.testing.project import Project

HEAVY = ("torch", "timm", "torchvision", "numpy", "transformers")
CODE = """
import sys
from ftkit.cli.main import main
code = main(sys.argv[1:])
print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


def listed(cache: Path, *arguments: str) -> tuple[str, list[str]]:
    """stdout and the lines of stderr of a list; the last one has the heavy modules that were imported."""
    command = [sys.executable, "-c", CODE.format(heavy=HEAVY), *arguments]
    environment = {**os.environ, "FTKIT_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.split("\n")[:-1]


def test_the_list_is_read_without_timm_once_it_is_made(tmp_path: Path) -> None:
    first, messages = listed(tmp_path, "backbones", "list", "timm/*", "--json")
    assert any("describing the backbones of plugin timm, once" in line for line in messages)
    again, messages = listed(tmp_path, "backbones", "list", "timm/*", "--json")
    assert (again, messages) == (first, [""])
    found = {one["name"]: one for one in json.loads(first)}
    assert set(found) == {f"timm/{name}" for name in timm.list_models()}
    assert found["timm/resnet18"]["parameters"] == 11176512
    assert found["timm/resnet18"]["weights"][0]["name"] == timm.get_pretrained_cfg("resnet18").tag
    unknown = {name for name, one in found.items() if one["parameters"] is None}
    assert all(name.endswith("_enc") for name in unknown), "only parts of other models have no size"
    counted, messages = listed(tmp_path, "plugins", "list", "--json")
    assert messages == [""]
    assert next(p for p in json.loads(counted) if p["name"] == "timm")["provides"] == {"backbones": len(found)}


def test_numbers_of_parameters_are_those_of_the_networks() -> None:
    for name in ("test_vit", "resnet18", "levit_128s"):
        assert ftkit_backbones()[name].parameters is not None
        check_backbone(ftkit_backbones()[name], train=False)


def test_a_number_is_not_used_for_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade of timm that changes the file."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["sources"]
    assert rows["resnet"]["digest"] == source_digest("resnet")
    assert parameters_of("resnet18") == rows["resnet"]["parameters"]["resnet18"]
    monkeypatch.setattr("ftkit_timm.parameters._table", lambda: {**rows, "resnet": {**rows["resnet"], "digest": "x"}})
    from ftkit_timm import parameters

    parameters._counts.cache_clear()
    assert parameters_of("resnet18") is None
    assert parameters_of("vgg11") == rows["vgg"]["parameters"]["vgg11"]
    parameters._counts.cache_clear()


@pytest.mark.long
def test_the_package_is_listed_and_its_networks_are_found(ftkit_project: Callable[..., Project]) -> None:
    project = ftkit_project({})
    listed = project.run("plugins", "list")
    assert "timm" in listed.stdout
    assert "backbones" in listed.stdout
    shown = project.run("backbones", "list", "timm/test_conv")
    assert "timm/test_convnext" in shown.stdout
    assert shown.returncode == 0
