"""The steps of docs/tutorial.md, as they are written there."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sessions import environment

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def steps() -> Iterator[tuple[str, str]]:
    """What a reader does: files to write, by name, and commands to type, by the name `sh`."""
    name = ""
    for line in re.split(r"\n(?=```(?:sh|python)\n)", TUTORIAL.read_text(encoding="utf-8")):
        found = re.match(r"```(sh|python)\n(.*?)```", line, re.DOTALL)
        if found is not None:
            yield (name, found[2]) if found[1] == "python" else ("sh", found[2])
        named = re.findall(r"`([\w/]+\.py)` becomes:", line)
        name = named[-1] if named else ""


@pytest.mark.long
def test_the_steps_of_the_tutorial_work(tmp_path: Path) -> None:
    folder, site = tmp_path, tmp_path / "site"
    typed = 0
    for name, text in steps():
        if name != "sh":
            (folder / name).write_text(text, encoding="utf-8")
            continue
        for line in text.splitlines():
            typed += 1
            if line.startswith("cd "):
                folder = folder / line.removeprefix("cd ")
            elif line == "pip install -e .":
                _install(folder, site)
            else:
                _run(line, folder, site)
    assert typed >= 10


def _run(line: str, folder: Path, site: Path) -> None:
    program, *arguments = line.split()
    module = {"ftkit": "ftkit", "pytest": "pytest"}[program]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment(folder, FTKIT_PLUGIN_TIMEOUT="60") | {"PYTHONPATH": f"{folder}:{site}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def _install(folder: Path, site: Path) -> None:
    """As an editable install does: metadata elsewhere, the module where it is edited."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if ".dist-info/" in name])
