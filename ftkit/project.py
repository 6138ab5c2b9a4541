"""Makes a new project: its name, its settings and its files, in one go."""

from __future__ import annotations

import json
import keyword
import re
import sys
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from ftkit import scaffold
from ftkit.config.jsonschema import json_schema
from ftkit.errors import FtkitError, RequestError
from ftkit.plugins import Registry
from ftkit.starter import values
from ftkit.survey import Survey, survey

RESERVED = frozenset({"conftest", "ftkit", "setup", "tests"})
"""Modules that the project's own files, or ftkit, would hide or be hidden by."""

SCHEMA = Path("ftkit.schema.json")


@dataclass(frozen=True)
class ProjectName:
    """What a project is called.

    Attributes:
        package: `my-project`; its plugin is called so too.
        module: `my_project`.
    """

    package: str
    module: str


@dataclass(frozen=True)
class Project:
    """A project that was made.

    Attributes:
        files: What was written, relative to `folder`.
        overwritten: Which of these files were there before.
        data: What the look at the user's data told, where some was given.
    """

    name: ProjectName
    folder: Path
    files: tuple[Path, ...]
    overwritten: tuple[Path, ...]
    data: Survey | None


def make_project(
    target: Path, data: Mapping[str, str] | None = None, name: str | None = None, force: bool = False
) -> Project:
    """Make a project in `target` that trains at once: on `data`, or else on its own example dataset.

    Args:
        target: A folder that is new or empty; with `force`, any folder.
        data: Images of the user's, as the config's `dataset` has them; the settings are made to suit.
        name: The project's name; by default that of the folder.

    Raises:
        RequestError: The target is taken, the name can't be used, or the data can't; nothing is written.
        FtkitError: The target can't be written to; nothing is left behind.
    """
    target = target.expanduser().absolute()
    scaffold.check_target(target, force)
    named = project_name(name if name is not None else target.resolve().name, target)
    found = None if data is None else _look(data, target)
    filling = values(named.package, named.module, found, target, Registry().built_in.version)
    files = scaffold.render(scaffold.template_folder(), filling)
    files[SCHEMA] = _schema(files[Path(f"{named.module}.py")], named)
    overwritten = scaffold.write(files, target)
    return Project(named, target, tuple(sorted(files)), tuple(overwritten), found)


def project_name(text: str, target: Path) -> ProjectName:
    """A package name made of `text`: ASCII, lower case, words joined by hyphens.

    Raises:
        RequestError: Nothing usable is left, or a module of that name exists elsewhere already: one of the
            two would hide the other.
    """
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    package = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")
    hint = "give another one, as in --name my-project"
    if not package:
        raise RequestError(f"{text!r} has no letters or digits that a package name can be made of", hint)
    if package[0].isdigit():
        package = f"project-{package}"
    name = ProjectName(package, package.replace("-", "_"))
    if not (target / f"{name.module}.py").is_file() and _is_taken(name.module):
        raise RequestError(f"the name {package!r} is taken: `import {name.module}` means something else already", hint)
    return name


def _is_taken(module: str) -> bool:
    """Whether something else answers to `import module`; what lies in the current folder doesn't count."""
    if keyword.iskeyword(module) or module in RESERVED or module in sys.stdlib_module_names:
        return True
    here = Path.cwd()
    spec = PathFinder.find_spec(module, [p for p in sys.path if p and Path(p).resolve() != here])
    return spec is not None and spec.origin is not None


def _look(data: Mapping[str, str], target: Path) -> Survey:
    found = survey(data)
    if target.resolve().is_relative_to(Path(found.path).resolve()):
        raise RequestError(
            f"{target} would lie in the data, {found.path}, and its folders would be taken for classes",
            "make the project elsewhere, or move the images into a folder of their own in it",
        )
    return found


def _schema(plugin: bytes, name: ProjectName) -> bytes:
    """The JSON schema of the project's `ftkit.yaml`, which knows what the project's own plugin offers."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name.module}.py")
            path.write_bytes(plugin)
            registry = Registry((path,))
    except OSError as error:
        raise FtkitError(f"can't write to a temporary folder: {error.strerror or error}", "TMPDIR names it") from None
    return (json.dumps(json_schema(registry), indent=2, ensure_ascii=False) + "\n").encode()
