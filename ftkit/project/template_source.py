"""Project templates from ftkit, a plugin, a folder or a git repository.

A template is data: no code of it is run, and it can write only into the project's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ftkit.config.yaml_file import read_file
from ftkit.errors import FtkitError, RequestError, nearest, one_line, unknown
from ftkit.plugins import Registry
from ftkit.project import rendering

BUILT_IN = ("project", "plugin")
KINDS = ("strategy", "dataset", "backbone")
"""The kinds of part that the built-in plugin template can create."""
ABOUT = "template.yaml"
"""File in the root of a custom template that declares its values with defaults. It isn't rendered."""
MOST_FILES, MOST_BYTES = 10_000, 100 * 2**20
_ADDRESS = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")
_CLONE_SECONDS = 600.0


@dataclass(frozen=True)
class Template:
    """A template that can be rendered.

    Attributes:
        name: The value of `--template`; for a folder, its absolute path.
        layers: Folders; files of later ones replace those of earlier ones.
        values: The values that the template declares, with their defaults.
    """

    name: str
    layers: tuple[Path, ...]
    values: Mapping[str, str] = field(default_factory=dict)

    def render(self, values: Mapping[str, str]) -> dict[Path, bytes]:
        """All files by relative path.

        Raises:
            FtkitError: The template has a link, a path outside the project, too many files or bytes, or an unknown
                placeholder.
        """
        files: dict[Path, bytes] = {}
        for layer in self.layers:
            _check_folder(layer)
            files |= rendering.render(layer, values)
        files.pop(Path(ABOUT), None)
        for path in files:
            _check_path(path, self.name)
        return files


@contextmanager
def open_template(name: str, kind: str = KINDS[0], registry: Registry | None = None) -> Iterator[Template]:
    """Find a template by name; a repository is cloned for the duration of the context.

    Args:
        kind: The kind of part, for the built-in plugin template.

    Raises:
        RequestError: There is no such template.
        FtkitError: The repository can't be cloned.
    """
    if name == "plugin":
        root = rendering.template_folder(name)
        yield Template(name, (root / "common", root / kind))
    elif name in BUILT_IN:
        yield Template(name, (rendering.template_folder(name),))
    elif _ADDRESS.match(name):
        with tempfile.TemporaryDirectory(prefix="ftkit-template-") as place:
            folder = Path(place, "template")
            _clone(name, folder)
            yield _custom_template(name, folder)
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        yield _custom_template(str(folder), folder)
    else:
        yield _plugin_template(name, registry or Registry())


def _custom_template(name: str, folder: Path) -> Template:
    values = dict[str, str]()
    for setting in read_file(folder / ABOUT) if (folder / ABOUT).is_file() else ():
        if len(setting.key) != 2 or setting.key[0] != "values":
            raise RequestError(
                f"{setting.where}: {'.'.join(setting.key)} is not a template key", "see docs/templates.md"
            )
        values[setting.key[1]] = str(setting.value)
    return Template(name, (folder,), values)


def _plugin_template(name: str, registry: Registry) -> Template:
    found = registry.templates()
    if name not in found:
        plugin = name.partition("/")[0]
        absence = registry.why_missing(plugin) if "/" in name else None
        if absence is not None:
            raise RequestError(f"--template: {name!r}: {absence}")
        raise unknown("template", name, [*BUILT_IN, *found], "--template")
    folder = Path(found[name])
    if not folder.is_dir():
        raise RequestError(f"--template: {name!r}: the plugin's path {folder} is not a folder")
    return _custom_template(name, folder)


def _clone(address: str, folder: Path) -> None:
    """Clone the latest commit of a repository, without submodules, and run no hooks."""
    if shutil.which("git") is None:
        raise FtkitError(f"--template {address} needs git, which isn't installed", "install git, or give a folder")
    command = ["git", "-c", "core.symlinks=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never"]
    command += ["clone", "--quiet", "--depth", "1", "--", address, str(folder)]
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CLONE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise FtkitError(f"--template {address}: git took more than {_CLONE_SECONDS:g} s") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise FtkitError(
            f"--template {one_line(address)}: {one_line(lines[-1] if lines else 'git failed')}", "check the address"
        )
    shutil.rmtree(folder / ".git", ignore_errors=True)


def _check_folder(folder: Path) -> None:
    count = size = 0
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            if path.is_symlink():
                raise FtkitError(f"template: {path} is a link", "a template may contain files and folders only")
        count += len(names)
        size += sum(Path(root, name).lstat().st_size for name in names)
        if count > MOST_FILES or size > MOST_BYTES:
            raise FtkitError(
                f"template {folder} has more than {MOST_FILES:,} files or {MOST_BYTES // 2**20} MiB",
                "give the folder of a template",
            )


def _check_path(path: Path, name: str) -> None:
    """Refuse paths outside the project, which values with slashes or dots could produce."""
    first = path.parts[0] if path.parts else ""
    if path.is_absolute() or ".." in path.parts or first.lower() in ("", ".git", ".ftkit"):
        raise FtkitError(f"template {name}: a file would be written to {one_line(str(path))!r}", "check the values")


def merge_values(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    """The template's values: the defaults, overridden by those that the user gives.

    Raises:
        RequestError: The template doesn't declare a value of that name.
    """
    for key in given:
        if key not in template.values:
            close = nearest(key, template.values)
            raise RequestError(
                f"--value {key}: template {template.name} has the values {', '.join(template.values) or '(none)'}",
                f"did you mean {close!r}?" if close else None,
            )
    return {**template.values, **given}
