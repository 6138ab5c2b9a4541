"""`ftkit KIND list`: patterns, limits, paging, and the stored lists of plugins."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.read_only import with_read_only

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PLUGIN = """
from collections.abc import Mapping
from pathlib import Path

from ftkit.api import Backbone, LayerGroup, Preprocessing, hookimpl

HERE = Path(__file__).parent
WIDTHS = {"narrow": 4, "wide": 40}


def build(width, num_classes):
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


class Networks(Mapping):
    def index_key(self):
        return (HERE / "version.txt").read_text()

    def __iter__(self):
        import numpy

        with (HERE / "read.txt").open("a") as log:
            log.write("read\\n")
        return iter(WIDTHS)

    def __getitem__(self, name):
        groups = (LayerGroup("stem", "0."), LayerGroup("head", "[123]."))
        make = lambda num_classes: build(WIDTHS[name], num_classes)
        return Backbone(f"mine/{name}", groups, ("3",), make, Preprocessing(size=32), parameters=28 * WIDTHS[name])

    def __len__(self):
        return len(WIDTHS)


@hookimpl
def ftkit_backbones():
    return Networks()
"""
HEAVY = {"torch", "torchvision", "numpy", "timm", "accelerate"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a plugin whose mapping imports a library when it is read, and records that it was."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "version.txt").write_text("1")
    (tmp_path / "ftkit.yaml").write_text("plugins: [mine.py]\n")
    return tmp_path


def listed(project: Path, *arguments: str, read_only_cache: bool = False) -> tuple[list[dict[str, Any]], str, set[str]]:
    """The list as JSON, stderr without its last line, and the heavy modules that the process had imported."""
    code = (
        "import sys\nfrom ftkit.cli.main import main\n"
        f"code = main({['backbones', 'list', '--json', *arguments]!r})\n"
        f"print(*{HEAVY!r} & set(sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    environment = {**os.environ, "FTKIT_CACHE_DIR": str(project / "cache")}
    command = [sys.executable, "-c", code]
    if read_only_cache:
        command = with_read_only(project / "cache", *command)
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *messages, heavy = done.stderr.split("\n")[:-1]
    return json.loads(done.stdout), "\n".join(messages), set(heavy.split())


def stored(project: Path) -> list[Path]:
    return sorted((project / "cache" / "lists").iterdir())


def test_a_plugins_list_is_made_once_and_then_read_without_its_library(project: Path) -> None:
    (project / "mine.py").write_text(PLUGIN.replace(", parameters=28 * WIDTHS[name]", ""))
    first, messages, heavy = listed(project, "mine/")
    assert "describing the backbones of plugin mine, once" in messages
    assert "described 2 backbones in " in messages
    assert "torch" in heavy
    assert {one["name"]: one["parameters"] for one in first} == {"mine/narrow": 112, "mine/wide": 1120}
    again, messages, heavy = listed(project, "mine/")
    assert (again, messages, heavy) == (first, "", set())
    assert (project / "read.txt").read_text() == "read\n"


@pytest.mark.parametrize("change", ["version", "code", "damage"])
def test_a_list_that_is_out_of_date_or_damaged_is_made_again(project: Path, change: str) -> None:
    listed(project)
    if change == "version":
        (project / "version.txt").write_text("2")
    if change == "code":
        (project / "mine.py").write_text(PLUGIN.replace('"wide": 40', '"vast": 80'))
    for file in stored(project) if change == "damage" else ():
        file.write_bytes(file.read_bytes().replace(b"wide", b"vast"))
    found, messages, _ = listed(project, "mine/")
    assert {one["name"] for one in found} == {"mine/narrow", "mine/vast" if change == "code" else "mine/wide"}
    assert "described 2 backbones" in messages
    assert (project / "read.txt").read_text() == "read\n" * 2
    assert listed(project, "mine/")[1:] == ("", set())
    assert len(stored(project)) == 2, "the old lists are replaced"


def test_a_list_that_cannot_be_stored_is_still_shown(project: Path) -> None:
    (project / "cache").write_text("a file, where the folder would be\n")
    for _ in range(2):
        found, messages, _ = listed(project, "mine/")
        assert len(found) == 2
        assert messages.count("the list of plugin 'mine' isn't stored, so each list takes as long") == 1


def test_a_list_in_a_read_only_cache_is_read(project: Path) -> None:
    first, *_ = listed(project, "mine/")
    assert listed(project, "mine/", read_only_cache=True) == (first, "", set())
    (project / "version.txt").write_text("2")
    found, messages, _ = listed(project, "mine/", read_only_cache=True)
    assert found == first
    assert "the list of plugin 'mine' isn't stored, so each list takes as long: Read-only file system" in messages


def test_a_failing_key_is_the_plugins_fault(project: Path) -> None:
    (project / "version.txt").unlink()
    found, messages, _ = listed(project, "alex*")
    assert [one["name"] for one in found] == ["alexnet"]
    assert "plugin 'mine' is left out: FileNotFoundError" in messages


def test_names_are_completed_from_the_stored_list(project: Path) -> None:
    listed(project)
    environment = {**os.environ, "FTKIT_CACHE_DIR": str(project / "cache"), "_FTKIT_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": "ftkit train --backbone mine/", "COMP_CWORD": "3"}
    command = [sys.executable, "-X", "importtime", "-m", "ftkit"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["mine/narrow", "mine/wide"], done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ftkit" in imported
    assert not imported & HEAVY


def names(run_ftkit: Run, folder: Path, *arguments: str) -> list[str]:
    done = run_ftkit("backbones", "list", "--json", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [one["name"] for one in json.loads(done.stdout)]


def test_backbones_are_selected_by_pattern_family_and_size(run_ftkit: Run, tmp_path: Path) -> None:
    assert names(run_ftkit, tmp_path, "ResNet1*") == ["resnet101", "resnet152", "resnet18"]
    assert names(run_ftkit, tmp_path, "resnet1?") == ["resnet18"]
    assert names(run_ftkit, tmp_path, "--family", "ShuffleNet", "--max-params", "1M") == ["shufflenet_v2_x0_5"]
    assert names(run_ftkit, tmp_path, "resnet*", "--max-params", "11176512") == ["resnet18"]
    assert names(run_ftkit, tmp_path, "resnet*", "--max-params", "0.0213G") == ["resnet18", "resnet34"]


REFUSED = [
    (("--family", "resnett"), "--family: no backbones match 'resnett'", "did you mean 'resnet'?"),
    (("--max-params", "10X"), "--max-params: '10X' is no number of parameters", "10M"),
    (("resnet*", "--max-params", "1K"), "no backbones match PATTERN resnet*, --max-params 1K", "leave one of them out"),
]


@pytest.mark.parametrize(("arguments", "message", "remedy"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_a_selection_of_nothing_is_one_line(
    run_ftkit: Run, tmp_path: Path, arguments: tuple[str, ...], message: str, remedy: str
) -> None:
    done = run_ftkit("backbones", "list", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: {message}"
    assert remedy in hint


def test_other_kinds_take_a_pattern_but_no_options_of_backbones(run_ftkit: Run, tmp_path: Path) -> None:
    found = json.loads(run_ftkit("strategies", "list", "freeze*", "--json", cwd=tmp_path).stdout)
    assert {one["name"] for one in found} >= {"freeze", "freeze-unfreeze", "freezer"}
    assert "full" not in {one["name"] for one in found}
    done = run_ftkit("strategies", "list", "gradul", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "hint: did you mean 'gradual'?")
    for flag in ("--family", "--max-params"):
        done = run_ftkit("strategies", "list", flag, "x", cwd=tmp_path)
        assert done.returncode == 2
        assert f"no such option {flag}" in done.stderr


def test_a_long_list_is_paged_on_a_terminal_only(tmp_path: Path) -> None:
    """The pager gets the list; messages still go to stderr, and a pipe gets all of the list."""
    command = [sys.executable, "-m", "ftkit", "--no-plugins", "backbones", "list"]
    pager = f"{sys.executable} -c \"import sys; print('paged', len(sys.stdin.read().splitlines()))\""
    environment = {**os.environ, "PAGER": pager, "LINES": "24"}

    def on_terminal(*arguments: str) -> str:
        controller, terminal = pty.openpty()
        done = subprocess.run(
            [*command, *arguments], stdout=terminal, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, check=False
        )
        os.close(terminal)
        shown = os.read(controller, 1 << 16).decode()
        os.close(controller)
        assert (done.returncode, done.stderr) == (0, b"")
        return shown

    piped = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert on_terminal().split() == ["paged", str(len(piped.stdout.splitlines()))]
    assert "resnet18" in on_terminal("resnet1*"), "a short list isn't paged"
    piped = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "resnet18" in piped.stdout
    assert "paged" not in piped.stdout
