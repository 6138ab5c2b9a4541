"""`ftkit init --template` and `--update`: plugin packages, custom templates, updated projects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.broken_plugins import install
from tests.conftest import RunFtkit
from tests.sessions import session

git = pytest.mark.skipif(shutil.which("git") is None, reason="git isn't installed")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A custom template."""
    folder = tmp_path / "template"
    (folder / "src").mkdir(parents=True)
    (folder / "template.yaml").write_text("values:\n  author: nobody\n  year: 2026\n")
    (folder / "README.md.jinja").write_text("# {{project}}\n\nBy {{author}}, {{year}}.\n\nFirst.\n\n\n\nLast.\n")
    (folder / "src" / "{{module}}.py.jinja").write_text("NAME = '{{class_name}}'\n")
    (folder / "notes.txt").write_text("one\n")
    (folder / "old.txt").write_text("old\n")
    (folder / "edited.txt").write_text("gone\n")
    (folder / "unwanted.txt").write_text("1\n")
    (folder / "logo.bin").write_bytes(b"\0one")
    return folder


@pytest.fixture
def made(template: Path, tmp_path: Path, run_ftkit: RunFtkit) -> Path:
    """A project created from the template."""
    done = run_ftkit("init", "my-kiosk", "--template", str(template), "--value", "author=Ann", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "my-kiosk"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_template_from_a_folder_is_filled_in(made: Path) -> None:
    assert (made / "README.md").read_text() == "# my-kiosk\n\nBy Ann, 2026.\n\nFirst.\n\n\n\nLast.\n"
    assert (made / "src" / "my_kiosk.py").read_text() == "NAME = 'MyKiosk'\n"
    assert not (made / "template.yaml").exists()


@git
def test_an_update_replaces_merges_and_marks_conflicts(template: Path, made: Path, run_ftkit: RunFtkit) -> None:
    (made / "notes.txt").write_text("mine\n")
    (made / "README.md").write_text((made / "README.md").read_text().replace("Last.", "Last, and mine."))
    (made / "edited.txt").write_text("gone, but mine\n")
    (made / "unwanted.txt").unlink()
    (made / "logo.bin").write_bytes(b"\0mine")
    (made / "own.txt").write_text("my own\n")
    readme = template / "README.md.jinja"
    readme.write_text(readme.read_text().replace("First.", "First, and newer.") + "")
    (template / "notes.txt").write_text("two\n")
    (template / "src" / "{{module}}.py.jinja").write_text("NAME = '{{class_name}}'  # {{licence}}\n")
    (template / "template.yaml").write_text("values:\n  author: nobody\n  year: 2026\n  licence: MIT\n")
    (template / "new.txt").write_text("new\n")
    (template / "old.txt").unlink()
    (template / "edited.txt").unlink()
    (template / "unwanted.txt").write_text("2\n")
    (template / "logo.bin").write_bytes(b"\0two")
    before = contents(made)

    checked = run_ftkit("init", "--update", "--check", cwd=made)
    assert checked.returncode == 2
    assert "is behind template" in checked.stderr
    assert contents(made) == before, "a check changes nothing"

    done = run_ftkit("init", "--update", cwd=made)
    assert done.returncode == 1, "conflicts are to be noticed"
    assert "2 of 8 files have conflicts" in done.stderr
    assert "First, and newer.\n\n\n\nLast, and mine." in (made / "README.md").read_text()
    notes = (made / "notes.txt").read_text()
    assert notes == "<<<<<<< yours\nmine\n=======\ntwo\n>>>>>>> the template now\n"
    assert (made / "src" / "my_kiosk.py").read_text() == "NAME = 'MyKiosk'  # MIT\n"
    assert (made / "new.txt").read_text() == "new\n"
    assert not (made / "old.txt").exists()
    assert (made / "edited.txt").read_text() == "gone, but mine\n"
    assert not (made / "unwanted.txt").exists()
    assert (made / "logo.bin").read_bytes() == b"\0mine"
    assert (made / "logo.bin.new").read_bytes() == b"\0two"
    assert (made / "own.txt").read_text() == "my own\n"

    again = run_ftkit("init", "--update", "--check", cwd=made)
    assert (again.returncode, again.stderr) == (0, ""), "a second time there is nothing to do"


@git
def test_a_template_from_a_repository(template: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    environment = {
        **os.environ,
        **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *line], cwd=template, env=environment, check=True)
    done = run_ftkit("init", "kiosk", "--template", f"file://{template}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kiosk" / "src" / "kiosk.py").is_file()
    assert not (tmp_path / "kiosk" / ".git").exists()
    assert run_ftkit("init", "--update", "--check", cwd=tmp_path / "kiosk").returncode == 0
    missing = run_ftkit("init", "other", "--template", f"file://{tmp_path}/nowhere", cwd=tmp_path)
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    assert not (tmp_path / "other").exists()


def test_a_template_of_a_plugin(template: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    site = install(
        tmp_path / "site",
        "kiosks",
        f"from pathlib import Path\nfrom ftkit.api import hookimpl\n@hookimpl\ndef ftkit_templates():\n"
        f"    return {{'small': Path({str(template)!r})}}\n",
    )
    done, updated = session(
        site, "init kiosk --template kiosks/small", "init --update kiosk --check", FTKIT_PLUGIN_TIMEOUT="60"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "kiosk" / "src" / "kiosk.py").is_file()
    assert (updated.code, "kiosks/small" in updated.out) == (0, True)
    without = run_ftkit("init", "--update", cwd=tmp_path / "kiosk")
    assert without.returncode == 2
    assert "kiosks/small" in without.stderr


def _link(folder: Path) -> None:
    (folder / "secrets").symlink_to("/etc/passwd")


def _git(folder: Path) -> None:
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\n")


def _record(folder: Path) -> None:
    (folder / ".ftkit").mkdir()
    (folder / ".ftkit" / "template.json").write_text("{}")


def _away(folder: Path) -> None:
    (folder / "template.yaml").write_text("values:\n  where: ../../away\n")
    (folder / "{{where}}").write_text("hello\n")


def _placeholder(folder: Path) -> None:
    (folder / "x.jinja").write_text("{{ cycler.__init__ }} {{secret}}\n")


def _setting(folder: Path) -> None:
    (folder / "template.yaml").write_text("tasks:\n  first: rm -rf /\n")


def _object(folder: Path) -> None:
    (folder / "template.yaml").write_text("values:\n  x: !!python/object/apply:os.system [date]\n")


@pytest.mark.parametrize("spoil", [_link, _git, _record, _away, _placeholder, _setting, _object])
def test_a_hostile_template_creates_nothing(spoil: object, template: Path, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    spoil(template)  # type: ignore[operator]
    before = contents(tmp_path)
    done = run_ftkit("init", "kiosk", "--template", str(template), cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert str(template) in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("init x --template projekt", "did you mean 'project'?"),
        ("init x --template nobody/project", "unknown template"),
        ("init x --kind strategy", "--kind is for --template plugin"),
        ("init x --template plugin --kind strategie", "did you mean 'strategy'?"),
        ("init x --template plugin --data photos", "--data is for --template project"),
        ("init x --template plugin --value a=b", "--value a: template plugin has the values (none)"),
        ("init x --template plugin --value a", "not KEY=VALUE"),
        ("init --check", "add --update"),
        ("init", "FOLDER is missing"),
        ("init --update --name new", "--name is for new projects"),
        ("init --update", ".ftkit/template.json"),
    ],
)
def test_an_invalid_request_is_one_error(line: str, message: str, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit(*line.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 99, "ftkit": "9.0"}'])
def test_a_damaged_record_is_one_error(damage: bytes, made: Path, run_ftkit: RunFtkit) -> None:
    (made / ".ftkit" / "template.json").write_bytes(damage)
    done = run_ftkit("init", "--update", cwd=made)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def installed(folder: Path, site: Path) -> Path:
    """Install a package of one module like `pip install`, without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_a_plugin_is_created_installed_used_broken_and_removed(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    assert run_ftkit("init", "my-things", "--template", "plugin", cwd=tmp_path).returncode == 0
    site = installed(tmp_path / "my-things", tmp_path / "site")
    line = "train --strategy my-things/top-down --epochs 1 --train-samples 50 --no-probe --weights none -q"
    plugins, trained = session(site, "plugins list --json", line, FTKIT_PLUGIN_TIMEOUT="60")
    (listed,) = json.loads(plugins.out)
    assert (listed["name"], listed["package"], listed["state"]) == ("my-things", "ftkit-my-things", "ok")
    assert trained.code == 0, trained.err
    module = site / "ftkit_my_things.py"
    module.write_text(module.read_text().replace("def lr_scales", "def lr_scale"))
    broken, other = session(site, line, "strategies show gradual", FTKIT_PLUGIN_TIMEOUT="60")
    assert broken.code == 2
    assert "lr_scales" in broken.err
    assert (other.code, other.err) == (0, "")
    removed = run_ftkit("strategies", "show", "my-things/top-down", cwd=tmp_path)
    assert removed.returncode == 2
    assert "ftkit-my-things" in removed.stderr


@pytest.mark.parametrize(
    "kind", ["dataset", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("backbone", "strategy"))]
)
def test_a_new_plugin_passes_its_own_tests(kind: str, tmp_path: Path, run_ftkit: RunFtkit) -> None:
    assert run_ftkit("init", "mine", "--template", "plugin", "--kind", kind, cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
