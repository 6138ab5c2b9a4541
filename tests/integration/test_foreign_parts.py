"""Every command with a plugin's backbone, dataset and strategy, which have nothing that the built-in ones have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftkit.testing import draw_image
from tests.conftest import typed
from tests.foreign_parts import foreign_project

TRAINABLE = {"a": 194, "frozen": 14}
"""Parameters that train at a time in the runs of the project: 6 x 3 x 9 + 6 + 12 below the head, 6 x 2 + 2 in it."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of the plugin's parts with two finished runs and three images."""
    folder = foreign_project(tmp_path_factory.mktemp("foreign") / "project")
    (folder / "new").mkdir()
    for number in range(3):
        draw_image(number % 2, (16, 16), f"new{number}").save(folder / "new" / f"{number}.png")
    for name, strategy in (("a", "foreign/late"), ("frozen", "freeze")):
        done = typed("train", "--name", name, "--strategy", strategy, "-q", cwd=folder)
        assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


COMMANDS = {
    "plan": "194 parameters with a head",
    "plan --json": '"trainable": 194',
    "train --dry-run": "194 parameters with a head",
    "train --dry-run --json": '"trainable": 194',
    "train --name b -q --no-probe": "best epoch",
    "train --name c -q --json": '"best"',
    "train --name d -q --weights none --no-probe --no-cache --workers 1": "best epoch",
    "train --name e -q --strategy auto": "best epoch",
    "train --name f -q --strategy probe": "best epoch",
    "train --resume a --extend 1 -q": "of 3",
    "evaluate frozen": "8 images",
    "evaluate frozen --json": '"accuracy"',
    "evaluate frozen --no-cache --split val": "8 images",
    "predict new --model frozen": "new/2.png",
    "predict new --model frozen --json": '"label"',
    "compare a frozen": "194",
    "compare a frozen --json": '"trainable": 194',
    "compare a frozen --split val --unpaired": "194",
    "compare --strategies foreign/late,freeze --seeds 1 --output trials --no-probe": "194",
    "compare --strategies foreign/late,freeze --seeds 1 --output trials --no-probe --json": '"trainable": 194',
    "compare --strategies foreign/late,probe --seeds 2 --output others": "194",
    "advise": "ftkit train --strategy",
    "advise --json": '"command"',
    "advise --weights none": "ftkit train --weights none",
    "runs list": "foreign/net",
    "runs list --json": '"backbone": "foreign/net"',
    "runs show a": "foreign/late",
    "runs show a --json": '"layers"',
    "backbones show foreign/net": "everything",
    "backbones show foreign/net --json": '"name": "foreign/net"',
    "backbones list foreign": "foreign/net",
    "datasets show foreign/drawn": "per_class: int, default 12",
    "datasets show foreign/drawn --json": '"per_class"',
    "datasets list": "foreign/drawn",
    "strategies show foreign/late": "after: int, default 1",
    "strategies show foreign/late --backbone foreign/net --epochs 3 --json": '"everything": 0.5',
    "strategies list": "foreign/late",
    "config show": "foreign/late",
    "config schema": "foreign/net",
    "plugins list": "1 backbone, 1 dataset, 1 strategy",
    "plugins doctor foreign": "ok     backbone foreign/net",
    "cache list": "foreign/net",
}
"""Command lines, each in the project, and a part of what each prints to stdout."""

LONG = (
    "train --name c -q --json",
    "train --name e -q --strategy auto",
    "train --name f -q --strategy probe",
    "compare --strategies foreign/late,probe --seeds 2 --output others",
    "advise --json",
    "plugins doctor foreign",
)
"""Those that take seconds."""


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.long if line in LONG else ()) for line in COMMANDS]
)
def test_a_command_works_with_the_parts_of_a_plugin(line: str, project: Path) -> None:
    done = typed(*line.split(), cwd=project)
    assert done.returncode == 0, done.stderr
    assert COMMANDS[line] in done.stdout, done.stdout + done.stderr
    if line.endswith("--json"):
        for text in done.stdout.splitlines() if line.startswith("predict") else [done.stdout]:
            json.loads(text)


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_record_of_a_run_has_every_count(name: str, project: Path) -> None:
    plan = json.loads((project / "runs" / name / "plan.json").read_text())
    assert max(phase["trainable"] for phase in plan["phases"]) == TRAINABLE[name]
    assert {group["name"]: group["parameters"] for group in plan["groups"]} == {"everything": 180, "head": 14}


def test_a_run_that_was_recorded_without_counts_can_be_compared(project: Path) -> None:
    """As ftkit 0.1.0 wrote it for a backbone without a `summary`."""
    shutil.copytree(project / "runs" / "a", project / "runs" / "uncounted")
    path = project / "runs" / "uncounted" / "plan.json"
    plan = json.loads(path.read_text())
    for part in (*plan["phases"], *plan["groups"]):
        part |= {key: None for key in ("trainable", "parameters") if key in part}
    path.write_text(json.dumps(plan))
    shown = typed("compare", "uncounted", "a", cwd=project)
    assert shown.returncode == 0, shown.stderr
    assert "?" in shown.stdout
    facts = json.loads(typed("compare", "uncounted", "a", "--json", cwd=project).stdout)
    assert [run["trainable"] for run in facts["runs"]] == [None, 194]
