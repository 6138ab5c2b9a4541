"""Makes a new project: its name, its settings and its files, in one go."""

from __future__ import annotations

import keyword
import re
import sys
import tempfile
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

from ftkit.config.json_schema import json_schema
from ftkit.errors import FtkitError, RequestError
from ftkit.files.json_text import dump_json
from ftkit.plugins import Registry
from ftkit.project import rendering
from ftkit.project.dataset_stats import DatasetStats, compute_stats
from ftkit.project.initial_config import plugin_values, template_values
from ftkit.project.template_source import KINDS, Template, merge_values, open_template
from ftkit.project.update import FileChange, TemplateRecord, apply_changes, find_changes, read_record

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
        template: What it was made from.
        files: What was written, relative to `folder`.
        overwritten: Which of these files were there before.
        data: What the look at the user's data told, where some was given.
    """

    name: ProjectName
    folder: Path
    template: str
    files: tuple[Path, ...]
    overwritten: tuple[Path, ...]
    data: DatasetStats | None


@dataclass(frozen=True)
class InitRequest:
    """What `ftkit init` was asked for.

    Attributes:
        name: The project's name; by default that of the folder.
        template: `project`, `plugin`, a plugin's `NAME/TEMPLATE`, a folder, or a repository's address.
        kind: What a plugin is to bring.
        values: For what a template from elsewhere asks.
        data: Images of the user's, as the config's `dataset` has them; the settings are made to suit.
        force: Take a folder that isn't empty.
    """

    name: str | None = None
    template: str = "project"
    kind: str = KINDS[0]
    values: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] | None = None
    force: bool = False


def make_project(target: Path, wish: InitRequest) -> Project:
    """Make a project in `target`, by default one that trains at once: on its own example, or on the user's data.

    Args:
        target: A folder that is new or empty; with `force`, any folder.

    Raises:
        RequestError: The target is taken, the name can't be used, there is no such template, or the data can't be
            used; nothing is written.
        FtkitError: The target can't be written to; nothing is left behind.
    """
    target = target.expanduser().absolute()
    rendering.check_target(target, wish.force)
    registry = Registry()
    with open_template(wish.template, wish.kind, registry) as template:
        text = wish.name if wish.name is not None else target.resolve().name
        named = plugin_name(text, target) if template.name == "plugin" else project_name(text, target)
        found = None if wish.data is None else _look(wish.data, target)
        own = merge_values(template, wish.values)
        filling = _filling(template.name, wish.kind, named, found, target, registry.built_in.version) | own
        rendered = _rendered(template, filling, named)
    record = TemplateRecord(template.name, wish.kind, filling, registry.built_in.version)
    files = rendered | record.files(rendered)
    overwritten = rendering.write_files(files, target)
    return Project(named, target, template.name, tuple(sorted(rendered)), tuple(overwritten), found)


@dataclass(frozen=True)
class Update:
    """What a newer template means for a project.

    Attributes:
        template: What the project was made from.
        before, now: The versions of ftkit that rendered it then and now.
    """

    folder: Path
    template: str
    before: str
    now: str
    changes: tuple[FileChange, ...]


def update_project(folder: Path, check: bool = False) -> Update:
    """Bring a project to what its template makes today: untouched files replaced, edited ones merged.

    Args:
        check: Only say what would change.

    Raises:
        RequestError: The folder has no record of a template, or there is no such template any more.
        FtkitError: The folder can't be written to; nothing has changed.
    """
    folder = folder.expanduser().absolute()
    record, base = read_record(folder)
    registry = Registry()
    version = registry.built_in.version
    named = ProjectName(record.values.get("package", record.values["project"]), record.values["module"])
    with open_template(record.template, record.kind, registry) as template:
        fresh = _filling(template.name, record.kind, named, None, folder, version)
        filling = {**template.values, **fresh, **record.values, "requires_ftkit": fresh["requires_ftkit"]}
        new = _rendered(template, filling, named)
    schema = base.get(SCHEMA)
    if schema is not None and (folder / SCHEMA).is_file() and (folder / SCHEMA).read_bytes() != schema:
        # Made anew by the user, for a plugin that has changed since; there is nothing in it to merge.
        base.pop(SCHEMA)
        new.pop(SCHEMA, None)
    found = find_changes(base, new, folder)
    if found and not check:
        apply_changes(found, TemplateRecord(record.template, record.kind, filling, version), new, folder)
    return Update(folder, record.template, record.ftkit, version, tuple(found))


def _filling(
    template: str, kind: str, named: ProjectName, found: DatasetStats | None, target: Path, version: str
) -> dict[str, str]:
    """What the placeholders of a template stand for."""
    if template == "project":
        return template_values(named.package, named.module, found, target, version)
    project = named.package.removeprefix("ftkit-")
    common = {
        "project": project,
        "package": named.package,
        "module": named.module,
        "class_name": "".join(word.capitalize() for word in project.split("-")),
        "requires_ftkit": f"ftkit>={version}" if version else "ftkit",
    }
    return common | (plugin_values(project, kind) if template == "plugin" else {})


def _rendered(template: Template, filling: Mapping[str, str], named: ProjectName) -> dict[Path, bytes]:
    files = template.render(filling)
    if template.name == "project":
        files[SCHEMA] = _schema(files[Path(f"{named.module}.py")], named)
    return files


def plugin_name(text: str, target: Path) -> ProjectName:
    """The name of a plugin's package and module, `ftkit-NAME` and `ftkit_NAME`, of `text` with that prefix or without.

    Raises:
        RequestError: As `project_name`.
    """
    return project_name(f"ftkit-{_slug(text).removeprefix('ftkit-')}", target)


def project_name(text: str, target: Path) -> ProjectName:
    """A package name made of `text`: ASCII, lower case, words joined by hyphens.

    Raises:
        RequestError: Nothing usable is left, or a module of that name exists elsewhere already: one of the
            two would hide the other.
    """
    package = _slug(text)
    hint = "give another one, as in --name my-project"
    if not package.removeprefix("ftkit-"):
        raise RequestError(f"{text!r} has no letters or digits that a package name can be made of", hint)
    if package[0].isdigit():
        package = f"project-{package}"
    name = ProjectName(package, package.replace("-", "_"))
    if not (target / f"{name.module}.py").is_file() and _is_taken(name.module):
        raise RequestError(f"the name {package!r} is taken: `import {name.module}` means something else already", hint)
    return name


def _slug(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")


def _is_taken(module: str) -> bool:
    """Whether something else answers to `import module`; what lies in the current folder doesn't count."""
    if keyword.iskeyword(module) or module in RESERVED or module in sys.stdlib_module_names:
        return True
    here = Path.cwd()
    spec = PathFinder.find_spec(module, [p for p in sys.path if p and Path(p).resolve() != here])
    return spec is not None and spec.origin is not None


def _look(data: Mapping[str, str], target: Path) -> DatasetStats:
    found = compute_stats(data)
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
    return (dump_json(json_schema(registry), indent=2, ascii_only=False) + "\n").encode()
